"""The reward model that answers, with a memory for clips that come again."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from rewarder.cache import ScoreCache, clip_sha
from rewarder.metrics import Metrics
from rewarder.reward import Clip, RewardModel, Score, lacks_a_part


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What was said of a clip."""

    score: Score
    cached: bool
    """Whether it had been scored before."""


class Host:
    """Answers with a model, and with what it said before of the very same clip."""

    def __init__(
        self,
        model: RewardModel,
        *,
        metrics: Metrics,
        cached: int,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        """Answer with `model`; keep `cached` scores."""
        self.metrics, self._today = metrics, today
        self._model, self._cache = model, ScoreCache(cached)

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore`."""
        return self.judge(clip, clip_sha(clip)).score

    def judge(self, clip: Clip, sha: str) -> Judged:
        """Return what is said of a clip with the hash `sha`; raise `NoScore`."""
        # A calibration expires with its day.
        key = f"{self._today()} {sha}"
        score = self._cache.get(key)
        self.metrics.cache.labels("miss" if score is None else "hit").inc()
        if score is not None:
            return Judged(score=score, cached=True)
        score = self._model.score(clip)
        # What a model said while a part of it was away is not what it says once that is back.
        if not lacks_a_part(score):
            self._cache.put(key, score)
        return Judged(score=score, cached=False)
