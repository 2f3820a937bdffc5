"""Talks to a running emulator: lays its table, breaks its cables, asks what was written to it.

By hand: `python -m robot.emulator.admin arm_id=arm01 ask='{"op": "judge"}'`.
"""

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, cast

import numpy as np

from robot.arm_config import ROOT
from robot.emulator.twin_state import layout_fields
from robot.scene import Layout, Truth
from robot.words import UsageError, parse_words

type Fields = dict[str, object]

TIMEOUT_S = 30.0
"""A change of the layout compiles a model; everything else is answered at once."""


class NoEmulator(ConnectionError):
    """Nobody answers at the admin socket."""


class Refused(ValueError):
    """The emulator could make nothing of a request."""


class EmulatorAdmin:
    """An emulated arm behind its admin socket: a `Scene`, and much that a bench has not."""

    def __init__(self, path: Path | str) -> None:
        """Connect; raise `NoEmulator` with one line that says what to do."""
        self._path = Path(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            raise NoEmulator(f"no emulator answers at {path}: make emulate") from error
        self._lines = self._socket.makefile("rb")

    def ask(self, op: str, **fields: object) -> Fields:
        """Return the reply to one request; raise `Refused` where it is an error."""
        try:
            self._socket.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
            line = self._lines.readline()
        except OSError as error:
            raise NoEmulator(f"the emulator at {self._path} is gone: make emulate") from error
        if not line:
            raise NoEmulator(f"the emulator at {self._path} is gone: make emulate")
        reply = cast("Fields", json.loads(line))
        if "error" in reply:
            raise Refused(str(reply["error"]))
        return reply

    # As a scene

    def reset(self, seed: int) -> None:
        """Lay cube and place out anew; the arm stays where it is."""
        self.ask("reset", seed=seed)

    def truth(self) -> Truth:
        """Return where everything is."""
        fields = self.ask("truth")
        arrays = {
            name: None if fields[name] is None else np.array(fields[name])
            for name in ("thing", "thing_start", "place", "tool")
        }
        return Truth(
            **arrays,  # pyright: ignore[reportArgumentType]
            thing_speed=float(cast("float", fields["thing_speed"])),
            gripper=float(cast("float", fields["gripper"])),
            held=bool(fields["held"]),
        )

    def layout(self, layout: Layout) -> None:
        """Put other things on the table."""
        self.ask("layout", **layout_fields(layout))

    # As what can go wrong

    def fault(self, kind: str, **fields: object) -> None:
        """Put a fault in force; `robot.emulator.faults` names the kinds and what they take."""
        self.ask("fault", kind=kind, **fields)

    def camera_fault(self, view: str, kind: str | None) -> None:
        """Make a camera's picture `black`, `frozen` or `missing`; None mends it."""
        self.ask("camera_fault", view=view, kind=kind)

    def unplug(self) -> None:
        """Pull the USB cable: the port is gone, the servos stay as they are."""
        self.ask("unplug")

    def replug(self) -> str:
        """Put the cable back and return the port's name, which is another."""
        return str(self.ask("replug")["port"])

    def connect_servos(self, joints: Sequence[str]) -> None:
        """Have only these servos on the cable, in this order."""
        self.ask("connect", joints=list(joints))

    # As a hand

    def push(self, joints: Mapping[str, float], *, seconds: float = 0.0) -> None:
        """Move limp joints by hand, in joint units, and hold them there; do not wait for it."""
        self.ask("push", joints=dict(joints), seconds=seconds)

    def release(self) -> None:
        """Let go of the joints."""
        self.ask("release")

    # As a witness

    def judge(self, *, clear: bool = False) -> Fields:
        """Return how often what was written to the servos broke each rule; `clear` forgets it."""
        return self.ask("judge", clear=clear)

    def servos(self) -> dict[str, Fields]:
        """Return each servo's registers and condition, by joint."""
        return cast("dict[str, Fields]", self.ask("servos")["servos"])

    def angles(self) -> dict[str, float]:
        """Return where each joint is, in joint units."""
        return {
            joint: float(cast("float", fields["angle"])) for joint, fields in self.servos().items()
        }

    def status(self) -> Fields:
        """Return how the emulator itself is doing."""
        return self.ask("status")

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _request(text: str) -> dict[str, str]:
    request: object = json.loads(text or '{"op": "status"}')
    if not isinstance(request, dict) or "op" not in request:
        raise UsageError(f'ask={text}; expected e.g. ask=\'{{"op": "judge"}}\'')
    return cast("dict[str, str]", request)


def main(argv: Sequence[str]) -> int:
    """Ask an emulator one thing and write its reply; return the exit code."""
    try:
        words = parse_words(argv, known={"arm_id": "arm01", "folder": "run", "ask": ""})
        request = _request(words["ask"])
        with EmulatorAdmin(ROOT / words["folder"] / f"{words['arm_id']}.admin") as admin:
            reply = admin.ask(**request)
    except (NoEmulator, Refused, UsageError, ValueError, TypeError) as error:
        sys.stderr.write(f"{error}\n")
        return 3 if isinstance(error, NoEmulator) else 2
    sys.stdout.write(json.dumps(reply, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
