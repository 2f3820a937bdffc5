"""How far a reward model agrees with labels, and whether that is enough to be trusted (G3).

The verdict on a clip is the score's at its last moment. Where there is none, nothing would be
learnt, so that it counts as "no success": a model cannot gain by keeping silent about successes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from rewarder.clip_set import SetClip
from rewarder.curves import expected_calibration_error, sigmoid
from rewarder.reward import NoScore, RewardModel, Score
from rewarder.statistics import cohen_kappa, wilson

LEAST_ACCURACY, LEAST_KAPPA, MOST_FALSE = 0.90, 0.75, 0.05
"""What G3 asks for, of the point estimates; false positives as a share of the failures."""

type Bools = NDArray[np.bool_]
type Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a model said of one clip, beside its label."""

    clip: str
    task: str
    kind: str
    truth: bool
    said: bool | None
    """None where the model could not judge the last moment."""
    rank: float = math.nan
    """The higher, the more like a success: log-odds, or progress where there are none."""
    probability: float = math.nan
    """Of success, where the model gives one."""
    why: str = ""
    """Why nothing was said."""
    model: str = ""
    """Name and version of the model, where it gave a score."""

    @property
    def wrong(self) -> bool:
        """Return whether it counts as an error."""
        return bool(self.said) != self.truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Some of so many, with Wilson's 95 % interval."""

    hits: int
    of: int
    share: float | None
    """None of nothing."""
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far a model agrees with the labels of a set; "no verdict" counts as "no success"."""

    clips: int
    judged: Share
    accuracy: Share
    accuracy_judged: Share
    """Of the clips with a verdict alone."""
    balanced_accuracy: float | None
    auc: float | None
    """Chance that a success ranks above a failure, ties half, of the clips with a rank."""
    precision: Share
    recall: Share
    false_successes: Share
    """False successes among the failures."""
    ece: float | None
    """In ten bins, of the clips with a probability."""
    kappa: float | None
    constant_no: float
    """Accuracy of saying "no success" to everything; its kappa is 0."""
    by_kind: Mapping[str, Share]
    """Right verdicts among the clips of a kind."""
    by_task: Mapping[str, Share]

    @property
    def shortfalls(self) -> list[str]:
        """Return what keeps the model from passing G3, nothing where it passes."""
        if not self.false_successes.of or not self.recall.of:
            return ["the set lacks successes or failures, so that nothing can be said"]
        checks = (
            (_of(self.accuracy.share) >= LEAST_ACCURACY, f"accuracy below {LEAST_ACCURACY:.0%}"),
            (_of(self.kappa) >= LEAST_KAPPA, f"kappa below {LEAST_KAPPA}"),
            (
                _of(self.false_successes.share) <= MOST_FALSE,
                f"more than {MOST_FALSE:.0%} of failures called done",
            ),
        )
        return [words for holds, words in checks if not holds]


def share(hits: int, of: int) -> Share:
    """Return some of so many."""
    lower, upper = wilson(hits, of)
    return Share(hits=hits, of=of, share=hits / of if of else None, lower=lower, upper=upper)


def judge(
    model: RewardModel, clips: Iterable[tuple[str, SetClip]], truth: Mapping[str, bool]
) -> Iterator[Verdict]:
    """Return a model's verdict on each clip that has a label; raise `NoScore` for an outage."""
    for name, item in clips:
        if name not in truth:
            continue
        blank = Verdict(clip=name, task=item.task, kind=item.kind, truth=truth[name], said=None)
        try:
            score = model.score(item.clip)
        except NoScore as error:
            if error.retry:
                raise
            yield replace(blank, why=str(error))
        else:
            yield verdict_of(blank, score)


def verdict_of(blank: Verdict, score: Score) -> Verdict:
    """Return the verdict that a score gives."""
    logit = math.nan if score.logit is None else float(score.logit[-1])
    seen = bool(score.valid[-1])
    known = math.isfinite(logit)
    probability = float(sigmoid(np.array([logit]))[0])
    return replace(
        blank,
        said=bool(score.success[-1]) if seen else None,
        rank=math.nan if not seen else logit if known else float(score.progress[-1]),
        probability=score.evidence.get("p_success", probability),
        why="" if seen else score.notes.get("why", "the last moment could not be judged"),
        model=score.model,
    )


def measure(verdicts: Sequence[Verdict]) -> Agreement:
    """Return how far verdicts agree with the labels; raise ValueError without any."""
    if not verdicts:
        raise ValueError("no clip of the set has a label; label some, or name another rater=")
    truth = np.array([verdict.truth for verdict in verdicts])
    said = np.array([bool(verdict.said) for verdict in verdicts])
    judged = np.array([verdict.said is not None for verdict in verdicts])
    recall, false_successes = _part(said, truth), _part(said, ~truth)
    both = recall.share is not None and false_successes.share is not None
    return Agreement(
        clips=len(verdicts),
        judged=_part(judged, np.ones_like(judged)),
        accuracy=_part(said == truth, np.ones_like(judged)),
        accuracy_judged=_part(said == truth, judged),
        balanced_accuracy=(_of(recall.share) + 1 - _of(false_successes.share)) / 2
        if both
        else None,
        auc=area_under_curve(np.array([verdict.rank for verdict in verdicts]), truth),
        precision=_part(truth, said),
        recall=recall,
        false_successes=false_successes,
        ece=_ece(np.array([verdict.probability for verdict in verdicts]), truth),
        kappa=cohen_kappa(said, truth).kappa,
        constant_no=float(np.mean(~truth)),
        by_kind=_by([verdict.kind for verdict in verdicts], said == truth),
        by_task=_by([verdict.task for verdict in verdicts], said == truth),
    )


def area_under_curve(rank: Floats, truth: Bools) -> float | None:
    """Return the area under the ROC curve from the ranks' sum (Mann and Whitney 1947).

    Clips whose rank is NaN are left out; None where a class is missing then.
    """
    known = np.isfinite(rank)
    rank, truth = rank[known], truth[known]
    yes, no = int(truth.sum()), int((~truth).sum())
    if not yes or not no:
        return None
    places: Floats = np.asarray(stats.rankdata(rank), np.float64)  # pyright: ignore[reportUnknownMemberType]
    return float((places[truth].sum() - yes * (yes + 1) / 2) / (yes * no))


def _ece(probability: Floats, truth: Bools) -> float | None:
    known = np.isfinite(probability)
    return expected_calibration_error(probability[known], truth[known]) if known.any() else None


def _part(hit: Bools, among: Bools) -> Share:
    return share(int((hit & among).sum()), int(among.sum()))


def _by(names: Sequence[str], right: Bools) -> dict[str, Share]:
    kinds = np.array(names)
    return {str(kind): _part(right, kinds == kind) for kind in np.unique(kinds)}


def _of(value: float | None) -> float:
    return math.nan if value is None else value
