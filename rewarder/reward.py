"""The seam to every reward model: a clip and a goal in, a score or none out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot.journal import Episode
from robot.vision import CameraModel

MAX_STEPS = 256
"""Longest clip that is scored, in observations."""
MISSING = "missing"
"""How the name of a note ends that says why a part of a model gave no score."""


class NoScore(Exception):
    """The model cannot judge this clip: there is no label, which is not a label of 0."""

    def __init__(self, message: str, *, retry: bool = False) -> None:
        """Say why; `retry` where the same clip may well be judged later."""
        super().__init__(message)
        self.retry = retry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """What was seen of one episode: T observations in order."""

    goal: str
    """The goal sentence."""
    stamps: NDArray[np.float64]
    """Seconds of the arm's clock, shape (T,)."""
    frames: Mapping[str, Sequence[bytes]]
    """JPEGs of each camera, T of them; an empty `bytes` where a picture is missing."""
    joint_pos: NDArray[np.float64]
    """Measured, shape (T, 6), units of `robot.arm.JOINTS`."""
    joint_target: NDArray[np.float64]
    """Last command sent, shape (T, 6)."""
    cameras: Mapping[str, CameraModel] | None = None
    """Where this arm's cameras stand; None where the model was told once and for all."""

    def __len__(self) -> int:
        return len(self.stamps)


def clip_of(episode: Episode) -> Clip:
    """Return what a reward model gets to see: all observations, both looks included."""
    return Clip(
        goal=episode.info.goal,
        stamps=episode.stamps,
        frames=episode.frames,
        joint_pos=episode.joint_pos,
        joint_target=episode.joint_target,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Score:
    """How well a clip went, observation by observation."""

    success: NDArray[np.bool_]
    """Whether the goal looks reached at each observation, shape (T,)."""
    progress: NDArray[np.float64]
    """From 0 (nothing) to 1 (reached), shape (T,)."""
    valid: NDArray[np.bool_]
    """Where the pictures allowed a judgement, shape (T,); the others mean nothing elsewhere."""
    model: str
    """Name and version of the model."""
    logit: NDArray[np.float64] | None = None
    """Log-odds that the goal is reached, shape (T,), as the model gave them, before calibration;
    NaN where it was not asked, None where the model only says yes or no."""
    evidence: Mapping[str, float] = field(default_factory=dict[str, float])
    """Figures that a person would look at to believe the score."""
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Words of the same kind: `prompt_sha`, `calib_id`, `why` nothing is valid."""


def lacks_a_part(score: Score) -> bool:
    """Return whether a part of the model was away, so that another day the score may be another."""
    return any(name.rpartition(".")[2] == MISSING for name in score.notes)


class RewardModel(Protocol):
    """Anything that scores clips."""

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` where there is none to give."""
        ...
