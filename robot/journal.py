"""Durable episodes: what was sensed, proposed, sent and seen; sealed on disk before it counts."""

import datetime as dt
import errno
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from robot.sealed import (
    Damaged,
    Values,
    make_folder,
    pack,
    read_limited,
    seal,
    seal_written,
    sweep,
    unpack,
    write_arrays,
)

log = structlog.get_logger(__name__)

VERSION = 1
"""Of the layout of an episode's file."""

type Source = Literal["policy", "random", "scripted", "human"]
SOURCES: tuple[Source, ...] = ("policy", "random", "scripted", "human")
type End = Literal["time_limit", "seems_done", "operator", "lost_link", "fault"]
ENDS: tuple[End, ...] = ("time_limit", "seems_done", "operator", "lost_link", "fault")

DTYPES: Mapping[str, type[np.generic]] = {
    "stamps": np.float64,
    "joint_pos": np.float64,
    "joint_target": np.float64,
    "actions": np.float32,
    "source": np.uint8,
}
"""The arrays that every episode has, as they are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeInfo:
    """What is said of a whole episode; plain JSON values only."""

    episode: str
    """Unique name, also its file name: zero-padded number and eight random hex digits."""
    arm: str
    task: str
    goal: str
    seed: int
    end: End
    started_at: str
    """UTC, ISO 8601."""
    action_space: str
    policy: str
    """Name and version of the policy that acted, e.g. `learned/000042`."""
    greedy: bool
    """Whether the policy acted without exploring."""
    git_revision: str
    config: Mapping[str, object]
    """The run's resolved configuration, or the part of it that shaped the episode."""
    truth: Mapping[str, bool | float] | None = None
    """On the twin: `{"success": ..., "success_at_s": ...}`; for curves, never for learning."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Episode:
    """N observations, of which T+1 in the middle frame the T steps that the policy took.

    The first observation is the look before, taken in the look pose; the last is the look after.
    """

    info: EpisodeInfo
    stamps: NDArray[np.float64]
    """Seconds of the arm's clock, shape (N,)."""
    joint_pos: NDArray[np.float64]
    """Shape (N, 6)."""
    joint_target: NDArray[np.float64]
    """Last command sent when observed, shape (N, 6)."""
    frames: Mapping[str, Sequence[bytes]]
    """JPEGs by camera, N each; empty `bytes` where a picture is missing."""
    first_step: int
    """Index of the observation before the first step (1 after a look, 0 without)."""
    state: Mapping[str, NDArray[np.float32]]
    """The environment's observation vectors at the steps, shape (T+1, size)."""
    actions: NDArray[np.float32]
    """In the policy's own space, shape (T, action_dim)."""
    source: NDArray[np.uint8]
    """Who acted, index into `SOURCES`, shape (T,)."""
    guard_events: Sequence[Sequence[str]]
    """For each step, what the guard changed: `rule:joint`, e.g. `step:elbow_flex`; T of them."""

    @property
    def steps(self) -> int:
        """Return T."""
        return len(self.actions)


class Journal:
    """The sealed episodes of one arm in one run: `<folder>/episodes/<episode>.npz`."""

    def __init__(self, folder: Path) -> None:
        """Open a journal, made if need be; what dead writers left half written is removed."""
        self.folder = folder
        self._episodes = folder / "episodes"
        make_folder(self._episodes)
        for leftover in sweep(self._episodes):
            log.info("half-written episode removed", path=str(leftover))

    def episodes(self) -> list[Path]:
        """Return the sealed episodes, oldest name first."""
        return sorted(path for path in self._episodes.glob("*.npz") if path.name[0] != ".")

    def seal(self, episode: Episode) -> Path:
        """Write an episode durably and return its path; raise `DiskFull` where it does not fit."""
        path = self._episodes / f"{episode.info.episode}.npz"
        if path.exists():
            self._put(path.name, episode_bytes(episode))
        else:
            arrays = _arrays(episode)
            seal_written(path, lambda file: write_arrays(file, arrays))
        return path

    def accept(self, name: str, data: bytes) -> bool:
        """Seal an episode that another process sealed, by its file name; False if it is here.

        Raise `Damaged` where the bytes are no episode of that name.
        """
        try:
            episode = episode_from(data)
        except Damaged as error:
            raise Damaged(f"{name!r} was not accepted: {error}") from None
        if f"{episode.info.episode}.npz" != name:
            raise Damaged(f"{name!r} holds the episode {episode.info.episode}; send it by its name")
        return self._put(name, data)

    def _put(self, name: str, data: bytes) -> bool:
        path = self._episodes / name
        if path.exists():
            if path.read_bytes() == data:
                return False
            raise FileExistsError(
                errno.EEXIST,
                "another episode of this name is sealed and is never replaced",
                str(path),
            )
        seal(path, data)
        return True


def journal_folder(root: Path, date: dt.date, *, task: str, arm: str, run: str) -> Path:
    """Return the folder of one arm's journal in one run: `YYYYMMDD_task_armID_runID`."""
    for part in (task, arm, run):
        if not re.fullmatch(r"[A-Za-z0-9-]+", part):
            raise ValueError(
                f"{part!r} cannot be part of a journal's name: use letters, digits and -"
            )
    return root / f"{date:%Y%m%d}_{task}_{arm}_{run}"


def read_episode(path: Path) -> Episode:
    """Return a sealed episode; raise `Damaged`, naming the file, if it is not whole."""
    try:
        return episode_from(read_limited(path))
    except Damaged as error:
        raise Damaged(f"{path}: {error}; move the file away to go on without it") from None


def episode_bytes(episode: Episode) -> bytes:
    """Return what is sealed of an episode; the same episode gives the same bytes."""
    return pack(_arrays(episode))


def _arrays(episode: Episode) -> dict[str, Values]:
    """Return an episode as the arrays of its file; raise `ValueError` where it is none."""
    check(episode)
    arrays: dict[str, Values] = {
        "version": np.array(VERSION),
        "info": _json(asdict(episode.info)),
        "first_step": np.array(episode.first_step),
        "guard_events": _json([list(events) for events in episode.guard_events]),
    }
    arrays |= {name: getattr(episode, name) for name in DTYPES}
    arrays |= {f"state.{name}": values for name, values in episode.state.items()}
    for camera, pictures in episode.frames.items():
        arrays[f"frames.{camera}"] = pictures
        arrays[f"ends.{camera}"] = np.cumsum([len(picture) for picture in pictures], dtype=np.int64)
    return arrays


def episode_from(data: bytes) -> Episode:
    """Return the episode that `episode_bytes` wrote; raise `Damaged` if it is none."""
    arrays = unpack(data)
    version = arrays.get("version")
    if version is None or version.shape or version != VERSION:
        raise Damaged(f"it has journal version {version}, expected {VERSION}; use what wrote it")
    try:
        episode = Episode(
            info=EpisodeInfo(**_from_json(arrays["info"])),
            first_step=int(arrays["first_step"]),
            guard_events=_texts(_from_json(arrays["guard_events"])),
            state=_group(arrays, "state."),
            frames={
                camera: _pictures(joined, arrays[f"ends.{camera}"])
                for camera, joined in _group(arrays, "frames.").items()
            },
            **{name: arrays[name] for name in DTYPES},
        )
        check(episode)
    except KeyError as error:
        raise Damaged(f"the array {error} is missing") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from None
    return episode


def check(episode: Episode) -> None:
    """Raise ValueError where the parts of an episode do not fit each other or hold no numbers."""
    observations, steps = len(episode.stamps), len(episode.actions)
    _check_info(episode.info)
    _check_arrays(episode, observations, steps)
    if not 0 <= episode.first_step <= observations - steps - 1:
        raise ValueError(
            f"{observations} observations do not hold {steps} steps from {episode.first_step} on"
        )
    if (np.diff(episode.stamps) < 0).any():
        raise ValueError("stamps run backwards")
    if (episode.source >= len(SOURCES)).any():
        raise ValueError(f"a source is not an index into {SOURCES}")
    for camera, pictures in episode.frames.items():
        if len(pictures) != observations:
            raise ValueError(f"{camera} has {len(pictures)} pictures, expected {observations}")
    if len(episode.guard_events) != steps:
        raise ValueError(f"{len(episode.guard_events)} lists of guard events, expected {steps}")


def _check_info(info: EpisodeInfo) -> None:
    for field in fields(EpisodeInfo):
        value = getattr(info, field.name)
        if field.type in (str, int, bool) and type(value) is not field.type:
            raise ValueError(f"{field.name} is {value!r}, expected {field.type}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", info.episode):
        raise ValueError(f"{info.episode!r} is no name of an episode: letters, digits and - only")
    if info.end not in ENDS:
        raise ValueError(f"end is {info.end!r}, expected one of {ENDS}")


def _check_arrays(episode: Episode, observations: int, steps: int) -> None:
    rows = {
        "stamps": (observations,),
        "joint_pos": (observations, 6),
        "joint_target": (observations, 6),
        "actions": (steps, episode.actions.shape[-1]),
        "source": (steps,),
    }
    for name, shape in rows.items():
        _check_array(name, getattr(episode, name), shape, DTYPES[name])
    for name, values in episode.state.items():
        _check_array(f"state {name}", values, (steps + 1, values.shape[-1]), np.float32)


def _check_array(
    name: str, values: NDArray[Any], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    if values.shape != shape or values.dtype != dtype:
        raise ValueError(
            f"{name} is {values.dtype} {values.shape}, expected {np.dtype(dtype)} {shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has a value that is not finite")


def _group(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def _pictures(joined: NDArray[Any], ends: NDArray[Any]) -> list[bytes]:
    data = joined.tobytes()
    starts = [0, *ends.tolist()]
    if starts != sorted(starts) or starts[-1] != len(data):
        raise ValueError("the pictures do not fill the bytes that hold them")
    return [data[start:end] for start, end in pairwise(starts)]


def _texts(lists: Any) -> list[list[str]]:  # noqa: ANN401 - whatever the JSON was
    if not all(type(text) is str for texts in lists for text in texts):
        raise ValueError("a guard event is no text")
    return lists


def _json(value: object) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _from_json(array: NDArray[Any]) -> Any:  # noqa: ANN401 - `check` says what it must be
    return json.loads(array.tobytes())
