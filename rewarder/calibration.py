"""Probabilities and a threshold for a model's raw log-odds, from labelled clips.

A calibration belongs to one key: model, engine, number format, prompt, cameras, region of interest
and tasks. With another key, or after its date, there is no score.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np

from rewarder.curves import (
    BadCalibration,
    Bools,
    Floats,
    Isotonic,
    Platt,
    fit_curve,
    log_odds,
    sigmoid,
)
from rewarder.goal import UnknownGoal, parse_goal
from rewarder.reward import Clip, NoScore, RewardModel, Score
from rewarder.statistics import wilson
from robot.sealed import make_folder, seal

VERSION = 1
DEAD_BAND = 0.1
"""Calibrated log-odds this near to the threshold are no verdict: the same engine differs by as
much from batch to batch."""
NOT_CALIBRATED = "not calibrated: for the log only, never a label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a calibration belongs to; with any of it changed, log-odds mean something else."""

    model: str
    engine: str
    dtype: str
    prompt_sha: str
    roi: str
    cameras: tuple[str, ...]
    tasks: tuple[str, ...]
    """The tasks of the clips that it was fitted on."""

    @classmethod
    def of(cls, clip: Clip, score: Score) -> "Key":
        """Return the key of one score; raise `NoScore` for a goal of no known task."""
        return cls.of_goal(clip.goal, clip.frames, score)

    @classmethod
    def of_goal(cls, goal: str, cameras: Iterable[str], score: Score) -> "Key":
        """Return the key of a score of a clip of which no more is left than this."""
        try:
            task = parse_goal(goal).task
        except UnknownGoal as error:
            raise NoScore(str(error)) from error
        said = {
            name: score.notes.get(name, "") for name in ("engine", "dtype", "prompt_sha", "roi")
        }
        return cls(model=score.model, cameras=tuple(sorted(cameras)), tasks=(task,), **said)

    @classmethod
    def joined(cls, keys: Sequence["Key"]) -> "Key":
        """Return the key of several scores; raise `BadCalibration` unless only tasks differ."""
        tasks = tuple(sorted({task for key in keys for task in key.tasks}))
        [*alike] = {replace(key, tasks=tasks) for key in keys}
        if len(alike) != 1:
            raise BadCalibration(
                f"the clips were scored in {len(alike)} ways: {_differences(alike)}; calibrate "
                "for one model, prompt and set of cameras at a time"
            )
        return alike[0]

    def mismatch(self, other: "Key") -> str:
        """Return in which way a score's key is another one; empty if it is covered."""
        if not set(other.tasks) <= set(self.tasks):
            return f"it is of {', '.join(self.tasks)}, the clip of {', '.join(other.tasks)}"
        return _differences([self, replace(other, tasks=self.tasks)])

    @property
    def sha(self) -> str:
        """Return the first 12 hex digits of its hash."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted curve, the probability from which a clip counts as a success, and what they hold."""

    key: Key
    curve: Platt | Isotonic
    threshold: float
    precision_bound: float
    """Wilson's lower 95 % bound of the threshold's precision, on the clips it was fitted on."""
    recall: float
    clips: int
    fitted_on: str
    """Name of the set and its hash."""
    expires: date

    @property
    def calib_id(self) -> str:
        """Return a name for it: of its key, and of what was fitted."""
        fitted = hashlib.sha256(repr((self.curve, self.threshold)).encode()).hexdigest()[:8]
        return f"{self.key.sha}-{fitted}"

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        said = asdict(self) | {"expires": self.expires.isoformat(), "version": VERSION}
        said["curve"] = {type(self.curve).__name__.lower(): asdict(self.curve)}
        make_folder(path.parent)
        seal(path, (json.dumps({"calib_id": self.calib_id, **said}, indent=2) + "\n").encode())


def load_calibration(path: Path) -> Calibration:
    """Return a calibration; raise `BadCalibration` where a file is none."""
    try:
        said = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        if said.pop("version") != VERSION:
            raise BadCalibration(f"expected version {VERSION}")
        name = said.pop("calib_id")
        key = Key(**said.pop("key"))
        found = Calibration(
            key=replace(key, cameras=tuple(key.cameras), tasks=tuple(key.tasks)),
            curve=_curve(said.pop("curve")),
            expires=date.fromisoformat(said.pop("expires")),
            **said,
        )
    except FileNotFoundError:
        raise BadCalibration(f"{path} is not there; write it with make calibrate-reward") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCalibration(f"{path} is no calibration: {error}") from None
    if found.calib_id != name:
        raise BadCalibration(f"{path} was changed by hand: it is no longer {name}; fit it again")
    return found


def _curve(said: Mapping[str, Any]) -> Platt | Isotonic:
    [(kind, values)] = said.items()
    if kind == "platt":
        return Platt(**values)
    if kind == "isotonic":
        return Isotonic(tuple(values["logits"]), tuple(values["probabilities"]))
    raise BadCalibration(f"the curve is {kind!r}; expected platt or isotonic")


@dataclass(frozen=True, slots=True)
class Threshold:
    """From which probability on a clip counts as a success, and what that holds on labels."""

    probability: float
    precision_bound: float
    recall: float


def choose_threshold(probability: Floats, label: Bools, *, precision: float) -> Threshold:
    """Return the threshold of the best recall whose lower bound of precision meets the target.

    It lies half-way, in log-odds, to the next probability below. Raise `BadCalibration` where no
    threshold does.
    """
    values = np.unique(probability)[::-1]
    best, bound = None, 0.0
    for index, least in enumerate(values):
        said = probability >= least
        hits = int(label[said].sum())
        lower = wilson(hits, int(said.sum()))[0]
        bound = max(bound, lower)
        below = values[index + 1] if index + 1 < len(values) else 0.0
        # Recall only grows, so the last one that meets the target is the best.
        if lower >= precision:
            best = Threshold(_between(float(least), float(below)), lower, hits / int(label.sum()))
    if best is None:
        raise BadCalibration(
            f"no threshold has a precision of {precision} or more with 95 % certainty: the best "
            f"lower bound is {bound:.3f}; label more clips, ask for less with precision=, or "
            "choose a better model"
        )
    return best


def _between(one: float, other: float) -> float:
    return float(sigmoid(log_odds(np.array([one, other])).mean(keepdims=True))[0])


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A model's log-odds at the last moments of clips, beside their labels."""

    key: Key
    logit: Floats
    """Shape (n,)."""
    label: Bools
    """Shape (n,)."""
    left_out: int
    """Clips that the model had no log-odds for."""


def calibrate(labelled: Labelled, fitted_on: str, *, precision: float, days: int) -> Calibration:
    """Return the calibration for a model's log-odds; raise `BadCalibration`."""
    curve = fit_curve(labelled.logit, labelled.label)
    threshold = choose_threshold(
        curve.probability(labelled.logit), labelled.label, precision=precision
    )
    return Calibration(
        key=labelled.key,
        curve=curve,
        threshold=threshold.probability,
        precision_bound=threshold.precision_bound,
        recall=threshold.recall,
        clips=len(labelled.label),
        fitted_on=fitted_on,
        expires=datetime.now(UTC).date() + timedelta(days=days),
    )


class Calibrated:
    """Judges success by a model's log-odds and a calibration that was made for just this model.

    Progress is the model's own. Near the threshold nothing is valid, and where model, prompt,
    cameras or task are not those of the calibration, or its time is over, there is no score.
    """

    def __init__(
        self,
        model: RewardModel,
        calibration: Calibration | Path | str | None = None,
        *,
        log_only: bool = False,
        dead_band: float = DEAD_BAND,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        """Take a calibration or read its file; with `log_only` it may be none: nothing is valid.

        `dead_band` is in calibrated log-odds. Raise `BadCalibration`.
        """
        if calibration is None and not log_only:
            raise BadCalibration(
                "there is no calibration: write one with make calibrate-reward and name it, or "
                "set log_only=true to see scores that nothing is learnt from"
            )
        self._model, self._today, self._dead_band = model, today, dead_band
        is_file = isinstance(calibration, Path | str)
        self._calibration = load_calibration(Path(calibration)) if is_file else calibration
        self._log_only = log_only

    @property
    def model(self) -> RewardModel:
        """Return the model without its calibration."""
        return self._model

    def score(self, clip: Clip) -> Score:
        """Return the calibrated score of a clip; raise `NoScore`."""
        score = self._model.score(clip)
        if self._calibration is not None:
            score = calibrated(
                score, clip, self._calibration, today=self._today(), dead_band=self._dead_band
            )
        if not self._log_only:
            return score
        notes = {**score.notes, "why": NOT_CALIBRATED}
        return replace(score, valid=np.zeros_like(score.valid), notes=notes)


def calibrated(
    score: Score, clip: Clip, calibration: Calibration, *, today: date, dead_band: float
) -> Score:
    """Return a score with success as a calibration has it; raise `NoScore` where it has none."""
    if score.logit is None:
        raise NoScore(f"{score.model} gives no log-odds, so that nothing can be calibrated")
    if today > calibration.expires:
        raise NoScore(
            f"calibration {calibration.calib_id} expired on {calibration.expires}; look at fresh "
            "clips and run make calibrate-reward again"
        )
    mismatch = calibration.key.mismatch(Key.of(clip, score))
    if mismatch:
        raise NoScore(f"calibration {calibration.calib_id} is not for this score: {mismatch}")
    asked = score.valid & np.isfinite(score.logit)
    p = np.full(len(asked), np.nan)
    p[asked] = calibration.curve.probability(score.logit[asked])
    margin = log_odds(p) - log_odds(np.array(calibration.threshold))
    valid = asked & (np.abs(margin) >= dead_band)
    evidence = dict(score.evidence)
    if asked[-1]:
        evidence["p_success"] = float(p[-1])
    notes = {**score.notes, "calib_id": calibration.calib_id}
    if not valid.any():
        notes.setdefault("why", "too near to the threshold to tell")
    return replace(score, success=valid & (margin > 0), valid=valid, evidence=evidence, notes=notes)


def _differences(keys: Sequence[Key]) -> str:
    said = [asdict(key) for key in keys]
    names = [name for name in said[0] if len({str(one[name]) for one in said}) > 1]
    return "; ".join(f"{name} is {' or '.join(str(one[name]) for one in said)}" for name in names)
