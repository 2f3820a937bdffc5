"""Moments with labels, in a folder: what a reward model of pictures is trained and tested on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot.sealed import Damaged, make_folder, pack, read_limited, seal, unpack

PATTERN = "moments-*.npz"


class BadSet(ValueError):
    """A folder holds no labelled moments, or some that do not belong together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """N moments, each with a goal and how far it is reached."""

    pictures: NDArray[np.uint8]
    """RGB as `View.moment` gives it, shape (N, height, width, 3)."""
    goals: NDArray[np.str_]
    """Goal sentences, shape (N,)."""
    success: NDArray[np.bool_]
    """Whether the goal is reached, shape (N,)."""
    progress: NDArray[np.float32]
    """From 0 (nothing) to 1 (reached), shape (N,)."""
    scenes: NDArray[np.int64] | None = None
    """Moments of one number come from one scene or episode, and a split keeps them together,
    shape (N,); None where each has a scene of its own."""

    def __post_init__(self) -> None:
        count = len(self.pictures)
        shape, dtype = self.pictures.shape, self.pictures.dtype
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
            raise BadSet(f"pictures are {dtype} {shape}; expected uint8 (N, height, width, 3)")
        for name, kind in (("goals", "U"), ("success", "b"), ("progress", "f"), ("scenes", "i")):
            values: NDArray[np.generic] | None = getattr(self, name)
            if values is not None and (values.shape != (count,) or values.dtype.kind != kind):
                raise BadSet(
                    f"{name} are {values.dtype} {values.shape}; expected ({count},), one a picture"
                )
        if not ((self.progress >= 0.0) & (self.progress <= 1.0)).all():
            raise BadSet("progress must be from 0 to 1")

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, rows: NDArray[np.intp]) -> "Labelled":
        """Return the moments of some rows, in their order."""
        return Labelled(
            pictures=self.pictures[rows],
            goals=self.goals[rows],
            success=self.success[rows],
            progress=self.progress[rows],
            scenes=None if self.scenes is None else self.scenes[rows],
        )


def append_moments(folder: Path, moments: Labelled) -> Path:
    """Add moments to a folder as its next chunk, whole or not at all; return the chunk's path.

    A chunk of about a thousand moments is a good size: each is read at once.
    """
    make_folder(folder)
    path = folder / PATTERN.replace("*", f"{len(_chunks(folder)):05d}")
    values = {field.name: getattr(moments, field.name) for field in fields(moments)}
    seal(path, pack({name: array for name, array in values.items() if array is not None}))
    return path


def load_moments(folder: Path) -> Labelled:
    """Return all moments of a folder, in the order they were added; raise `BadSet`."""
    paths = _chunks(folder)
    if not paths:
        raise BadSet(f"{folder} holds no {PATTERN}; write some with rewarder.labelled")
    return joined([_chunk(path) for path in paths])


def joined(parts: list[Labelled]) -> Labelled:
    """Return several sets as one; raise `BadSet` where their pictures differ in size."""
    sizes = {part.pictures.shape[1:] for part in parts}
    if len(sizes) != 1:
        raise BadSet(f"pictures of {len(sizes)} sizes do not go together: {sorted(sizes)}")
    return Labelled(
        pictures=np.concatenate([part.pictures for part in parts]),
        goals=np.concatenate([part.goals for part in parts]),
        success=np.concatenate([part.success for part in parts]),
        progress=np.concatenate([part.progress for part in parts]),
        scenes=_numbered(parts),
    )


def _numbered(parts: list[Labelled]) -> NDArray[np.int64]:
    """Return scene numbers, shape (N,), where those without one have one of their own."""
    known = [part.scenes for part in parts if part.scenes is not None and len(part)]
    free = 1 + max((int(scenes.max()) for scenes in known), default=-1)
    rows: list[NDArray[np.int64]] = []
    for part in parts:
        own = np.arange(free, free + len(part), dtype=np.int64)
        rows.append(own if part.scenes is None else part.scenes)
        free += len(part)
    return np.concatenate(rows)


def split(moments: Labelled, *, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Return moments to train on and those held out, about `share` of the scenes of `moments`."""
    scenes = moments.scenes if moments.scenes is not None else np.arange(len(moments))
    numbers = np.unique(scenes)
    held = np.random.default_rng(seed).permutation(numbers)[: round(share * len(numbers))]
    is_held = np.isin(scenes, held)
    if is_held.all() or not is_held.any():
        raise BadSet(f"{len(numbers)} scenes are too few to hold {100 * share:g} % of them out")
    return moments.take(np.flatnonzero(~is_held)), moments.take(np.flatnonzero(is_held))


def _chunks(folder: Path) -> list[Path]:
    return sorted(folder.glob(PATTERN))


def _chunk(path: Path) -> Labelled:
    try:
        return _labelled(unpack(read_limited(path)))
    except (Damaged, BadSet) as error:
        raise BadSet(f"{path}: {error}") from None


def _labelled(arrays: Mapping[str, NDArray[Any]]) -> Labelled:
    known = {field.name for field in fields(Labelled)}
    other = (known - {"scenes"} - arrays.keys()) | (arrays.keys() - known)
    if other:
        raise BadSet(f"arrays are missing or unknown: {', '.join(sorted(other))}")
    return Labelled(**arrays)
