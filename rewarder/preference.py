"""A reward learnt from pairs: an ensemble of small nets over what the sensors say of a moment.

A net gives each moment a reward, and the log-odds that one clip went better than another are the
difference of their sums (Bradley and Terry 1952; for clips: arXiv 1706.03741). What the members
agree on counts: `mean - k * std`, so that what no pair ever showed is not paid.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save  # pyright: ignore[reportUnknownVariableType]

from rewarder.goal import UnknownGoal, parse_goal
from rewarder.heuristic import Judge
from rewarder.reward import Clip, NoScore, Score
from rewarder.shaping import REST, Moment, distance
from robot.pictures import whole_picture
from robot.sealed import make_folder, read_limited, seal
from robot.vision import CameraModel

type Rows = NDArray[np.float64]

FEATURES = (
    "jaws to thing",
    "tool over thing",
    "tool aside of thing",
    "thing over table",
    "thing aside of place",
    "thing over place",
    "jaw gap",
    "commanded opening",
    "held",
    "thing moves",
)
"""What a net sees of a moment: distances in decimetres, the rest from 0 to 1. Without a place
its two distances are 0."""
MOMENTS = 16
"""A clip is compared by so many of its moments, evenly spread."""
WEIGHTS, ABOUT = "preference.safetensors", "preference.json"
VERSION = 1
_DM, _WIDEST, _FASTEST = 0.1, 0.07, 0.02


def features(moment: Moment) -> Rows:
    """Return what a net sees of a moment, shape (10,), in the order of `FEATURES`."""
    thing, place = moment.thing, moment.place
    place_off = [0.0, 0.0]
    if place is not None:
        place_off = [distance(thing[:2], place[:2]), float(thing[2] - place[2])]
    lengths = [
        moment.from_jaw,
        float(moment.tool[2] - thing[2]),
        distance(moment.tool[:2], thing[:2]),
        float(thing[2]) - REST,
        *place_off,
    ]
    shares = [
        moment.gap / _WIDEST,
        moment.command / 100.0,
        float(moment.held),
        min(1.0, moment.moved / _FASTEST),
    ]
    return np.array([*(length / _DM for length in lengths), *shares])


def clip_features(clip: Clip, cameras: Mapping[str, CameraModel]) -> tuple[Rows, NDArray[np.bool_]]:
    """Return the features of each moment, shape (T, 10), and where they are valid, shape (T,).

    Raise `NoScore` for a goal or cameras that are not known.
    """
    seen_by = cameras if clip.cameras is None else clip.cameras
    used = {name: camera for name, camera in seen_by.items() if name in clip.frames}
    if not used:
        raise NoScore(f"no camera of the clip ({', '.join(clip.frames)}) is known here")
    try:
        judge = Judge(parse_goal(clip.goal), used)
    except UnknownGoal as error:
        raise NoScore(str(error)) from error
    rows, valid = np.zeros((len(clip), len(FEATURES))), np.zeros(len(clip), bool)
    for t in range(len(clip)):
        taken = {
            name: whole_picture(clip.frames[name][t], camera.width, camera.height)
            for name, camera in used.items()
        }
        images = {name: image for name, image in taken.items() if image is not None}
        _, _, valid[t] = judge.update(
            images, clip.joint_pos[t], clip.joint_target[t], float(clip.stamps[t])
        )
        if valid[t] and judge.moment is not None:
            rows[t] = features(judge.moment)
    return rows, valid


def spread(rows: Rows, valid: NDArray[np.bool_], horizon: int) -> Rows:
    """Return `MOMENTS` moments of a clip, evenly over `horizon` observations, shape (16, 10).

    A clip that ended earlier stays as it was last seen: so the sums of two clips compare, and one
    that succeeded soon is the better. A moment that is not valid stays as the one before. Raise
    `NoScore` where nothing is valid.
    """
    if not valid.any():
        raise NoScore("no moment of the clip shows where the things are")
    known = np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1))
    known[known < 0] = int(np.argmax(valid))
    at = np.linspace(0, max(horizon, 2) - 1, MOMENTS).round().astype(int)
    return rows[known[np.minimum(at, len(valid) - 1)]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ensemble:
    """M nets with two hidden layers of H tanh units over D features, side by side."""

    mean: Rows
    """Of the features where it was trained, shape (D,)."""
    std: Rows
    """Shape (D,)."""
    w1: Rows
    """Shape (M, D, H)."""
    b1: Rows
    """Shape (M, 1, H)."""
    w2: Rows
    """Shape (M, H, H)."""
    b2: Rows
    """Shape (M, 1, H)."""
    w3: Rows
    """Shape (M, H, 1)."""
    shift: Rows
    """Mean reward of each member where it was trained, shape (M, 1): pairs leave it open."""
    scale: Rows
    """Standard deviation of the same, shape (M, 1)."""

    def raw(self, rows: Rows) -> Rows:
        """Return each member's reward, shape (M, T), of features (T, D)."""
        x = (rows - self.mean) / self.std
        hidden = np.tanh(np.tanh(x @ self.w1 + self.b1) @ self.w2 + self.b2)
        return (hidden @ self.w3)[..., 0]

    def rewards(self, rows: Rows) -> Rows:
        """Return each member's reward on a scale that all share, shape (M, T)."""
        return (self.raw(rows) - self.shift) / self.scale

    def sums(self, clips: Rows) -> Rows:
        """Return each member's sum of rewards, shape (M, C), of what `spread` gives, (C, 16, D)."""
        flat = clips.reshape(-1, clips.shape[-1])
        return self.raw(flat).reshape(-1, *clips.shape[:2]).sum(axis=2)


def chances(first: Rows, second: Rows) -> Rows:
    """Return the probabilities that the first went better, from sums of rewards."""
    return 1.0 / (1.0 + np.exp(-np.clip(first - second, -60.0, 60.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What belongs to an ensemble beside its weights."""

    task: str
    """The only task whose goals it judges."""
    horizon: int
    """Observations of the longest clip that it was trained on."""
    k: float
    """How much disagreement costs, in standard deviations of the members."""
    low: float
    """Reward that counts as progress 0, on the scale that the members share."""
    high: float
    """Reward that counts as progress 1."""
    threshold: float | None
    """Progress from which a goal counts as reached; None: nothing does."""
    pairs: int
    people_pairs: int
    accuracy: float | None
    """Share of held-out pairs that it orders as they were labelled."""
    version: int = VERSION


class PreferenceReward:
    """Scores clips by an ensemble that was trained on pairs: `mean - k * std`, from 0 to 1."""

    def __init__(
        self, folder: str | Path, cameras: Mapping[str, CameraModel] | None = None
    ) -> None:
        """Load what `make train-preference` wrote; raise ValueError where it is none.

        `cameras` are for clips that do not bring their own.
        """
        self.ensemble, self.about = load_ensemble(Path(folder))
        self._cameras = dict(cameras or {})
        self.name = f"preference/{self.about.task}-{self.about.pairs}"

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` for another task, or unknown cameras."""
        rows, valid = self.seen(clip)
        rewards = self.ensemble.rewards(rows)
        doubt = rewards.std(axis=0)
        progress = squash(rewards.mean(axis=0) - self.about.k * doubt, self.about)
        enough = self.about.threshold
        reached = np.zeros(len(clip), bool) if enough is None else progress >= enough
        return Score(
            success=reached & valid,
            progress=progress * valid,
            valid=valid,
            model=self.name,
            evidence={
                "valid_share": float(valid.mean()),
                "doubt": float(doubt[valid].mean()) if valid.any() else 0.0,
            },
        )

    def first_is_better(self, first: Clip, second: Clip) -> float:
        """Return the mean probability of the members; raise `NoScore`."""
        return float(self.members(first, second).mean())

    def members(self, first: Clip, second: Clip) -> Rows:
        """Return each member's probability that the first is the better, shape (M,)."""
        both = np.stack([spread(*self.seen(clip), self.about.horizon) for clip in (first, second)])
        sums = self.ensemble.sums(both)
        return chances(sums[:, 0], sums[:, 1])

    def seen(self, clip: Clip) -> tuple[Rows, NDArray[np.bool_]]:
        """Return the features of a clip and where they are valid; raise `NoScore`."""
        rows, valid = clip_features(clip, self._cameras)
        task = parse_goal(clip.goal).task
        if task != self.about.task:
            raise NoScore(f"this model was trained on pairs of {self.about.task}, not of {task}")
        return rows, valid


def squash(rewards: Rows, about: About) -> Rows:
    """Return rewards on the members' scale as progress from 0 to 1."""
    return np.clip((rewards - about.low) / (about.high - about.low), 0.0, 1.0)


def save_ensemble(folder: Path, ensemble: Ensemble, about: About) -> None:
    """Write an ensemble to a folder: `preference.safetensors` and `preference.json`."""
    make_folder(folder)
    tensors = {f.name: np.ascontiguousarray(getattr(ensemble, f.name)) for f in fields(Ensemble)}
    seal(folder / WEIGHTS, save(tensors))
    said = {**asdict(about), "features": list(FEATURES)}
    seal(folder / ABOUT, (json.dumps(said, indent=2) + "\n").encode())


def load_ensemble(folder: Path) -> tuple[Ensemble, About]:
    """Return what `save_ensemble` wrote; raise ValueError where it is none of this version."""
    try:
        said: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        tensors = cast("dict[str, Rows]", load(read_limited(folder / WEIGHTS)))
        same = said.pop("features") == list(FEATURES) and said["version"] == VERSION
        ensemble, about = Ensemble(**tensors), About(**said)
        ensemble.raw(np.zeros((1, len(FEATURES))))
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no preference reward: {error.filename} is missing; "
            "write it with `make train-preference RUN=… OUT=…`"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no preference reward: {error}") from None
    if not same:
        raise ValueError(f"{folder} was trained on other features; train it again")
    return ensemble, about
