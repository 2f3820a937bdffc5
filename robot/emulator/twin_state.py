"""A file in which an emulator says, many times a second, what its twin looks like.

It is mapped into memory by the emulator, which writes, and by every simulated camera, which reads.
A record carries a checksum: one that is read while it is written is read again.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from robot.scene import COLOURS, Item, Layout

_SIZE: Final = 2048
_HEAD: Final = struct.Struct("<IddHH3d")  # checksum, stamp, time, positions, text, flat place
_TRIES: Final = 20


class NoState(Exception):
    """Nobody writes the state file, or what is in it is none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwinState:
    """All that a camera needs to draw."""

    stamp: float
    """When it was so, `time.monotonic()` of this machine."""
    time: float
    """The same moment, seconds of the twin's clock."""
    qpos: NDArray[np.float64]
    """All positions of the model, shape (nq,)."""
    flat_place: NDArray[np.float64]
    """Where bowl or marker is, shape (3,)."""
    layout: Layout
    camera_faults: Mapping[str, str]
    """By view: `black`, `frozen` or `missing`."""


class TwinStateWriter:
    """Writes the state of one twin."""

    def __init__(self, path: Path) -> None:
        """Make the file anew: cameras that have an older one open notice that it stands still."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(bytes(_SIZE))
        with partial.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        partial.replace(path)
        self._path, self._text, self._of = path, b"", None

    def write(self, state: TwinState) -> None:
        """Replace the record by a later one."""
        of = (state.layout, dict(state.camera_faults))
        if of != self._of:
            self._of, self._text = of, _encode(state)
        body = state.qpos.astype("<f8").tobytes() + self._text
        head = _HEAD.pack(
            0, state.stamp, state.time, len(state.qpos), len(self._text), *state.flat_place
        )
        record = head[4:] + body
        checksum = zlib.crc32(record).to_bytes(4, "little")
        self._map[: len(record) + 4] = checksum + record

    def close(self) -> None:
        """Remove the file."""
        self._map.close()
        self._path.unlink(missing_ok=True)


class TwinStateReader:
    """Reads the state of one twin."""

    def __init__(self, path: Path) -> None:
        """Open the file; raise `NoState` where there is none."""
        try:
            with path.open("rb") as file:
                self._inode = os.fstat(file.fileno()).st_ino
                self._map = mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise NoState(f"no emulator draws into {path}: make emulate") from error
        self._path = path
        self._text = b""
        self._of: tuple[Layout, dict[str, str]] = Layout(thing=Item("cube", "red")), {}

    def read(self) -> TwinState:
        """Return the newest record; raise `NoState` where there is none yet."""
        for _ in range(_TRIES):
            data = self._map[:_SIZE]
            checksum, stamp, time, count, length, *place = _HEAD.unpack_from(data)
            end = _HEAD.size + 8 * count + length
            if stamp and end <= _SIZE and zlib.crc32(data[4:end]) == checksum:
                qpos = np.frombuffer(data, "<f8", count, _HEAD.size)
                return self._state(stamp, time, qpos, place, data[end - length : end])
        raise NoState(f"{self._path} holds no whole record: is its emulator running?")

    def replaced(self) -> bool:
        """Return whether another emulator has made the file anew."""
        try:
            return self._path.stat().st_ino != self._inode
        except OSError:
            return True

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(
        self, stamp: float, time: float, qpos: NDArray[np.float64], place: list[float], text: bytes
    ) -> TwinState:
        if text != self._text:
            self._text, self._of = text, _decode(text)
        layout, faults = self._of
        return TwinState(
            stamp=stamp,
            time=time,
            qpos=qpos,
            flat_place=np.array(place),
            layout=layout,
            camera_faults=faults,
        )


def _encode(state: TwinState) -> bytes:
    content = {"layout": layout_fields(state.layout), "camera_faults": dict(state.camera_faults)}
    return json.dumps(content).encode()


def _decode(text: bytes) -> tuple[Layout, dict[str, str]]:
    content = json.loads(text)
    return parse_layout(content["layout"]), content["camera_faults"]


def layout_fields(layout: Layout) -> dict[str, dict[str, str] | None]:
    """Return a layout as JSON has it."""
    items = {"thing": layout.thing, "place": layout.place}
    return {
        name: None if item is None else {"kind": item.kind, "colour": item.colour}
        for name, item in items.items()
    }


def parse_layout(fields: Mapping[str, object]) -> Layout:
    """Return the layout that JSON describes; raise `ValueError` where it describes none."""
    thing, place = _item(fields.get("thing")), _item(fields.get("place"))
    if thing is None or thing.kind != "cube":
        raise ValueError(f"thing is {fields.get('thing')!r}; expected a cube and its colour")
    return Layout(thing=thing, place=place)


def _item(value: object) -> Item | None:
    if value is None:
        return None
    fields = cast("dict[str, object]", value if isinstance(value, dict) else {})
    kind, colour = fields.get("kind"), fields.get("colour")
    if kind not in ("cube", "bowl", "marker") or colour not in COLOURS:
        raise ValueError(
            f'{value!r} is no item; expected e.g. {{"kind": "bowl", "colour": "blue"}}'
        )
    return Item(kind, cast("str", colour))
