"""Several reward models as one: their log-odds averaged, and a veto for those that must agree."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rewarder.reward import MISSING, Clip, NoScore, RewardModel, Score

type Floats = NDArray[np.float64]
type Bools = NDArray[np.bool_]

MOST = 6.0
"""Log-odds of one part count up to here, so that none can outvote all others by itself."""
YES_OR_NO = 3.0
"""Log-odds that stand for the verdict of a part that only says yes or no."""


class Blend:
    """Takes the weighted mean of what its parts say; what a vetoing part denies is no success."""

    def __init__(
        self,
        parts: Mapping[str, RewardModel],
        *,
        weights: Mapping[str, float],
        vetoes: Collection[str] = (),
        progress: str | None = None,
        may_fail: Collection[str] = (),
    ) -> None:
        """Blend `parts` by their `weights` in log-odds; a part without weight can only veto.

        `progress` names the part whose progress counts; None takes the weighted mean. The blend
        goes on without a part of `may_fail` that gives no score; without any other there is none.
        """
        named = {"weights": weights, "vetoes": vetoes, "may_fail": may_fail}
        for what, names in (named | {"progress": [progress] if progress else []}).items():
            _refuse_unknown(what, names, parts)
        if not any(weight > 0.0 for weight in weights.values()) or min(weights.values()) < 0.0:
            raise ValueError(f"weights are {dict(weights)}; expected none below 0, one above 0")
        both = set(vetoes) & set(may_fail)
        if both:
            raise ValueError(
                f"{', '.join(sorted(both))} has a veto and may fail: what it would have denied "
                "counted as a success then; take it from one of the two"
            )
        self._parts, self._weights = dict(parts), dict(weights)
        self._vetoes, self._may_fail = frozenset(vetoes), frozenset(may_fail)
        self._progress = progress

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` where a part that is needed gives none."""
        scores, missing = self._scores(clip)
        valid = self._valid(scores)
        logit = self._logit(scores)
        success, vetoed = valid & (logit > 0.0), np.zeros(len(clip), bool)
        progress = self._blended_progress(scores)
        for name in self._vetoes:
            denied = success & ~scores[name].success
            vetoed |= denied
            # Else what only the veto sees through would pay as much as success, step by step.
            progress = np.where(denied, np.minimum(progress, scores[name].progress), progress)
        return Score(
            success=success & ~vetoed,
            progress=np.where(valid, progress, 0.0),
            valid=valid,
            model="blend(" + ", ".join(f"{name}={s.model}" for name, s in scores.items()) + ")",
            logit=np.where(valid, logit, np.nan),
            evidence=_evidence(scores, valid, vetoed),
            notes=_notes(scores, missing),
        )

    def _scores(self, clip: Clip) -> tuple[dict[str, Score], dict[str, str]]:
        """Return the scores of the parts, and why others gave none."""
        scores: dict[str, Score] = {}
        missing: dict[str, str] = {}
        for name, part in self._parts.items():
            try:
                scores[name] = part.score(clip)
            except NoScore as error:
                if name not in self._may_fail:
                    raise NoScore(f"{name}: {error}", retry=error.retry) from error
                missing[name] = str(error)
        if not any(self._weights.get(name, 0.0) > 0.0 for name in scores):
            raise NoScore("; ".join(f"{n}: {why}" for n, why in missing.items()), retry=True)
        return scores, missing

    def _valid(self, scores: Mapping[str, Score]) -> Bools:
        """Return where every part that is needed, and one with a weight, could judge."""
        needed = [score.valid for name, score in scores.items() if name not in self._may_fail]
        weighed = [s.valid for name, s in scores.items() if self._weights.get(name, 0.0) > 0.0]
        return np.all([*needed, np.any(weighed, axis=0)], axis=0)

    def _logit(self, scores: Mapping[str, Score]) -> Floats:
        """Return the weighted mean of clipped log-odds, NaN where no part has any, shape (T,)."""
        return self._mean({name: log_odds_of(score) for name, score in scores.items()})

    def _blended_progress(self, scores: Mapping[str, Score]) -> Floats:
        mean = self._mean({n: np.where(s.valid, s.progress, np.nan) for n, s in scores.items()})
        named = scores.get(self._progress or "")
        return mean if named is None else np.where(named.valid, named.progress, mean)

    def _mean(self, rows: Mapping[str, Floats]) -> Floats:
        """Return the weighted mean of rows (T,) over what is known of each."""
        weights = np.array([self._weights.get(name, 0.0) for name in rows])[:, None]
        values = np.stack(list(rows.values()))
        known = np.isfinite(values) * weights
        total = known.sum(axis=0)
        mean = (np.nan_to_num(values) * known).sum(axis=0) / np.maximum(total, 1e-12)
        return np.where(total > 0.0, mean, np.nan)


def log_odds_of(score: Score) -> Floats:
    """Return a score's log-odds up to `MOST` either way, NaN where there are none, shape (T,)."""
    said = np.where(score.success, YES_OR_NO, -YES_OR_NO)
    if score.logit is not None:
        # Where a model was not asked for its log-odds it still gave a verdict.
        said = np.where(np.isnan(score.logit), said, np.clip(score.logit, -MOST, MOST))
    return np.where(score.valid, said, np.nan)


def _evidence(scores: Mapping[str, Score], valid: Bools, vetoed: Bools) -> dict[str, float]:
    verdicts: Sequence[Bools] = [score.success for score in scores.values()]
    apart = np.any(verdicts, axis=0) & ~np.all(verdicts, axis=0)
    found = {f"{name}.{key}": v for name, s in scores.items() for key, v in s.evidence.items()}
    count = max(1, int(valid.sum()))
    return found | {
        "valid_share": float(valid.mean()),
        "disagreement": float((apart & valid).sum() / count),
        "vetoed_share": float((vetoed & valid).sum() / count),
    }


def _notes(scores: Mapping[str, Score], missing: Mapping[str, str]) -> dict[str, str]:
    found = {f"{name}.{key}": v for name, s in scores.items() for key, v in s.notes.items()}
    return found | {f"{name}.{MISSING}": why for name, why in missing.items()}


def _refuse_unknown(what: str, names: Collection[str], parts: Mapping[str, RewardModel]) -> None:
    unknown = sorted(set(names) - parts.keys())
    if unknown:
        raise ValueError(f"{what} names {', '.join(unknown)}; the parts are {', '.join(parts)}")
