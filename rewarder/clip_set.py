"""Sets of clips with labels, on which reward models are measured and calibrated.

A set is a folder: `set.json` says what it is, `clips/<hash>.npz` holds one clip each under the hash
of its content, `labels/<rater>.jsonl` one label a line. `frozen.json`, once there, holds a hash
over all of them; a set that was changed after that is refused.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rewarder.reward import MAX_STEPS, Clip
from rewarder.statistics import Kappa, cohen_kappa
from robot.sealed import Damaged, make_folder, pack, read_limited, seal, unpack

VERSION = 1
"""Of the layout of a clip's file."""
INFO, FROZEN = "set.json", "frozen.json"
MOST_CLIPS = 10_000
_RATER = re.compile(r"[a-z][a-z0-9_]{0,31}")


class BadSet(ValueError):
    """A folder that is no set, a set that was changed, or a label that it cannot take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInfo:
    """What is said of a whole set."""

    name: str
    raters: Mapping[str, str]
    """What the labels of each rater are: `{"twin": "the twin's ground truth"}`."""
    reference: str
    """The rater whose labels count as true."""
    command: str
    """What made the set."""
    seed: int | None
    """First seed of its scenes; None where it was filmed on a bench."""
    cameras: tuple[str, ...]
    tasks: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    """What else is to be known, such as what each kind of clip shows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SetClip:
    """One clip of a set, of few moments."""

    clip: Clip
    task: str
    kind: str
    """What it shows, such as `done`, `hover` or `near`; nobody who labels gets to see it."""
    origin: Mapping[str, str | int] = field(default_factory=dict[str, "str | int"])
    """Where it comes from: a seed, an episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What one rater said of one clip: whether its last moment shows the goal reached."""

    clip: str
    """Name of the clip."""
    success: bool | None
    """None where the rater skipped it."""
    stars: int | None = None
    """From 1, nothing of it, to 5, done well."""
    at: str = ""
    """UTC, ISO 8601; filled in when it is kept."""
    pass_number: int = 1
    """2 for the blind second look at the same clip."""

    def __post_init__(self) -> None:
        if self.stars is not None and self.stars not in range(1, 6):
            raise BadSet(f"{self.stars} stars were given; expected 1 to 5, or none")
        if self.pass_number not in (1, 2):
            raise BadSet(f"pass {self.pass_number} is not known; expected 1, or 2 for the second")

    def line(self) -> str:
        """Return the label as a line of JSON."""
        said = asdict(self)
        said["pass"] = said.pop("pass_number")
        return json.dumps(said) + "\n"


class ClipSet:
    """The clips of a set and what was said of them; clips are read when they are asked for."""

    def __init__(self, folder: Path, info: SetInfo, names: tuple[str, ...]) -> None:
        """Take a folder that `open_set` has checked."""
        self.folder, self.info, self.names = folder, info, names

    @cached_property
    def clips(self) -> Mapping[str, SetClip]:
        """Return the clips by name, in the order of their names; raise `BadSet`."""
        return {name: _read_clip(_clip_path(self.folder, name)) for name in self.names}

    @property
    def raters(self) -> tuple[str, ...]:
        """Return who has labelled clips."""
        return tuple(sorted(path.stem for path in (self.folder / "labels").glob("*.jsonl")))

    @property
    def frozen(self) -> str | None:
        """Return the hash under which the set is frozen, None where it is not."""
        path = self.folder / FROZEN
        return str(_read_json(path)["sha256"]) if path.exists() else None

    def labels(self, rater: str, *, pass_number: int = 1) -> dict[str, Label]:
        """Return the newest label of each clip by a rater, skipped ones included; raise `BadSet`.

        Empty where the rater has said nothing.
        """
        path = _labels_path(self.folder, rater)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        labels = [_label(path, number, line) for number, line in enumerate(lines, start=1)]
        strange = {label.clip for label in labels} - set(self.names)
        if strange:
            raise BadSet(f"{path} has labels of {min(strange)}, which is no clip of this set")
        return {label.clip: label for label in labels if label.pass_number == pass_number}

    def truth(self, rater: str | None = None) -> dict[str, bool]:
        """Return what a rater (the reference by default) said of each clip not skipped."""
        labels = self.labels(rater or self.info.reference)
        return {name: label.success for name, label in labels.items() if label.success is not None}

    def between(self, one: str, other: str) -> Kappa:
        """Return how far two raters agree on the clips that both judged."""
        return _agreement(self.truth(one), self.truth(other))

    def second_look(self, rater: str) -> Kappa:
        """Return how far a rater agrees with what the same rater said at the blind second look."""
        again = self.labels(rater, pass_number=2).values()
        second = {label.clip: label.success for label in again if label.success is not None}
        return _agreement(self.truth(rater), second)


def open_set(folder: Path) -> ClipSet:
    """Return the set in a folder; raise `BadSet` where there is none or it was changed."""
    info = _read_info(folder)
    names = tuple(sorted(path.stem for path in (folder / "clips").glob("[0-9a-f]*.npz")))
    if len(names) > MOST_CLIPS:
        raise BadSet(f"{folder} has {len(names)} clips; at most {MOST_CLIPS} are read")
    for name in names:
        if _name_of(_read(_clip_path(folder, name))) != name:
            raise BadSet(
                f"{folder / 'clips' / name}.npz was changed: its content no longer has the hash "
                "that it is named by; restore it (git checkout) or delete it and its labels"
            )
    found = ClipSet(folder, info, names)
    if found.frozen is not None and found.frozen != _digest(folder, names):
        raise BadSet(
            f"{folder} was changed after it was frozen: clips, labels or {INFO} no longer give the "
            f"hash {found.frozen[:12]}; restore it (git checkout) or, to measure on it as it "
            f"is, delete its {FROZEN}"
        )
    return found


def create_set(folder: Path, info: SetInfo) -> ClipSet:
    """Make a set without clips; raise `BadSet` where there is one already."""
    if (folder / INFO).exists():
        raise BadSet(f"{folder} holds a set already; name another folder, or delete it first")
    for name in (info.reference, *info.raters):
        _check_rater(name)
    make_folder(folder / "clips")
    make_folder(folder / "labels")
    seal(folder / INFO, (json.dumps(asdict(info), indent=2) + "\n").encode())
    return ClipSet(folder, info, ())


def add_clip(folder: Path, clip: SetClip) -> str:
    """Put a clip into a set and return its name; the same clip twice is one clip."""
    _refuse_frozen(folder)
    data = pack(_arrays(clip))
    name = _name_of(data)
    seal(_clip_path(folder, name), data)
    return name


def append_label(folder: Path, rater: str, label: Label) -> Label:
    """Keep a label durably and return it with its time; raise `BadSet` where it cannot be taken.

    A later label of the same clip and pass replaces an earlier one.
    """
    _refuse_frozen(folder)
    path = _labels_path(folder, rater)
    if not _clip_path(folder, label.clip).exists():
        raise BadSet(f"{label.clip!r} is no clip of {folder}")
    kept = replace(label, at=label.at or _now())
    make_folder(path.parent)
    with path.open("ab") as file:
        file.write(kept.line().encode())
        file.flush()
        os.fsync(file.fileno())
    return kept


def freeze(folder: Path) -> str:
    """Freeze a set and return its hash; raise `BadSet` where nothing could be measured on it."""
    found = open_set(folder)
    truth = found.truth()
    if len(set(truth.values())) < 2:
        raise BadSet(
            f"{folder} cannot be frozen: {found.info.reference!r} has called {sum(truth.values())} "
            f"clips a success and {len(truth) - sum(truth.values())} a failure; expected some of "
            "both"
        )
    digest = _digest(folder, found.names)
    said = {"sha256": digest, "clips": len(found.names), "labels": found.raters, "at": _now()}
    seal(folder / FROZEN, (json.dumps(said, indent=2) + "\n").encode())
    return digest


def _agreement(one: Mapping[str, bool], other: Mapping[str, bool]) -> Kappa:
    both = sorted(one.keys() & other.keys())
    return cohen_kappa(np.array([one[n] for n in both]), np.array([other[n] for n in both]))


def _arrays(item: SetClip) -> dict[str, NDArray[Any]]:
    clip = item.clip
    if not 1 <= len(clip) <= MAX_STEPS:
        raise BadSet(f"a clip has {len(clip)} moments; expected 1 to {MAX_STEPS}")
    said = {"version": VERSION, "goal": clip.goal, "task": item.task, "kind": item.kind}
    said |= {"origin": dict(item.origin), "cameras": list(clip.frames)}
    arrays: dict[str, NDArray[Any]] = {
        "said": np.frombuffer(json.dumps(said, sort_keys=True).encode(), np.uint8),
        "stamps": np.asarray(clip.stamps, np.float64),
        "joint_pos": np.asarray(clip.joint_pos, np.float64),
        "joint_target": np.asarray(clip.joint_target, np.float64),
    }
    for name, pictures in clip.frames.items():
        arrays[f"frames.{name}"] = np.frombuffer(b"".join(pictures), np.uint8)
        arrays[f"sizes.{name}"] = np.array([len(picture) for picture in pictures], np.int64)
    return arrays


def _read_clip(path: Path) -> SetClip:
    try:
        return _clip_from(unpack(read_limited(path)))
    except (Damaged, KeyError, ValueError, TypeError) as error:
        raise BadSet(f"{path} is no clip: {error}") from None


def _clip_from(arrays: Mapping[str, NDArray[Any]]) -> SetClip:
    said = cast("dict[str, Any]", json.loads(arrays["said"].tobytes()))
    if said["version"] != VERSION:
        raise Damaged(f"it has version {said['version']}, expected {VERSION}")
    count = len(arrays["stamps"])
    frames = {
        str(name): _pictures(arrays[f"frames.{name}"], arrays[f"sizes.{name}"], count)
        for name in said["cameras"]
    }
    for name in ("joint_pos", "joint_target"):
        if arrays[name].shape != (count, 6):
            raise Damaged(f"{name} has the shape {arrays[name].shape}, expected ({count}, 6)")
    clip = Clip(
        goal=str(said["goal"]),
        stamps=arrays["stamps"],
        frames=frames,
        joint_pos=arrays["joint_pos"],
        joint_target=arrays["joint_target"],
    )
    return SetClip(clip=clip, task=said["task"], kind=said["kind"], origin=said["origin"])


def _pictures(joined: NDArray[np.uint8], sizes: NDArray[np.int64], count: int) -> list[bytes]:
    if sizes.shape != (count,) or (sizes < 0).any() or sizes.sum() != len(joined):
        raise Damaged("the sizes of its pictures do not add up")
    data, ends = joined.tobytes(), np.cumsum(sizes)
    return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _label(path: Path, number: int, line: str) -> Label:
    try:
        said = json.loads(line)
        said["pass_number"] = said.pop("pass")
        if not isinstance(said["success"], bool | None):
            raise BadSet(f"success is {said['success']!r}; expected true, false or null")
        return Label(**said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSet(f"{path}, line {number}, is no label: {error}") from None


def _read_info(folder: Path) -> SetInfo:
    path = folder / INFO
    if not path.is_file():
        raise BadSet(
            f"{folder} holds no set of clips: there is no {INFO}; shipped ones are in rewarder/sets"
        )
    said = _read_json(path)
    try:
        info = SetInfo(**said)
    except TypeError as error:
        raise BadSet(f"{path} does not describe a set: {error}") from None
    return replace(info, cameras=tuple(info.cameras), tasks=tuple(info.tasks))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadSet(f"{path} is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise BadSet(f"{path} is no JSON object")
    return cast("dict[str, Any]", said)


def _digest(folder: Path, names: tuple[str, ...]) -> str:
    """Return the hash over what the set is, its clips (named by their hashes) and its labels."""
    whole = hashlib.sha256(_read(folder / INFO))
    whole.update("\n".join(names).encode())
    for path in sorted((folder / "labels").glob("*.jsonl")):
        whole.update(f"\n{path.name}\n".encode())
        whole.update(_read(path))
    return whole.hexdigest()


def _refuse_frozen(folder: Path) -> None:
    if (folder / FROZEN).exists():
        raise BadSet(f"{folder} is frozen; work on a copy: cp -r {folder} COPY && rm COPY/{FROZEN}")


def _read(path: Path) -> bytes:
    try:
        return read_limited(path)
    except Damaged as error:
        raise BadSet(f"{path}: {error}") from None


def _name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _clip_path(folder: Path, name: str) -> Path:
    if not re.fullmatch(r"[0-9a-f]{16}", name):
        raise BadSet(f"{name!r} is no name of a clip; expected 16 hex digits")
    return folder / "clips" / f"{name}.npz"


def _labels_path(folder: Path, rater: str) -> Path:
    _check_rater(rater)
    return folder / "labels" / f"{rater}.jsonl"


def _check_rater(rater: str) -> None:
    if not _RATER.fullmatch(rater):
        raise BadSet(
            f"{rater!r} is no name of a rater; expected small letters, digits and _, such as anna"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
