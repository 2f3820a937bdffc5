"""The reward model that answers, with a memory for clips that come again."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import structlog

from rewarder.cache import ScoreCache, clip_sha
from rewarder.calibration import Calibrated
from rewarder.checkpoint import ModelUnavailable
from rewarder.metrics import Metrics
from rewarder.reward import Clip, NoScore, RewardModel, Score, lacks_a_part

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What was said of a clip."""

    score: Score
    cached: bool
    """Whether it had been scored before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Serving:
    """The model that answers."""

    name: str
    """Of `conf/reward/`, or what it is for those who read it."""
    model: RewardModel
    number: int
    """No other model of this service has had it: what one said is never taken for another's."""


class Host:
    """Answers with a model, and with what it said before of the very same clip."""

    def __init__(
        self,
        model: RewardModel,
        *,
        metrics: Metrics,
        cached: int,
        name: str = "",
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        """Answer with `model`; keep `cached` scores."""
        self.metrics, self._today = metrics, today
        self._numbers = itertools.count()
        self._serving = self._named(name or type(model).__name__, model)
        self._cache = ScoreCache(cached)
        self._asked = threading.Lock()
        self._last: Clip | None = None

    @property
    def serving(self) -> Serving:
        """Return what answers."""
        return self._serving

    @property
    def bare_model(self) -> RewardModel:
        """Return the model that answers, without the calibration that may be around it."""
        model = self._serving.model
        return model.model if isinstance(model, Calibrated) else model

    @property
    def last_clip(self) -> Clip | None:
        """Return the clip that came last, None where none has come yet."""
        return self._last

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore`."""
        return self.judge(clip, clip_sha(clip)).score

    def judge(self, clip: Clip, sha: str) -> Judged:
        """Return what is said of a clip with the hash `sha`; raise `NoScore`."""
        # Whoever has begun with a model ends with it, whatever is swapped meanwhile.
        serving = self._serving
        self._last = clip
        # A calibration expires with its day.
        key = f"{serving.number} {self._today()} {sha}"
        score = self._cache.get(key)
        self.metrics.cache.labels("miss" if score is None else "hit").inc()
        if score is not None:
            return Judged(score=score, cached=True)
        score = serving.model.score(clip)
        # What a model said while a part of it was away is not what it says once that is back.
        if not lacks_a_part(score):
            self._cache.put(key, score)
        return Judged(score=score, cached=False)

    def swap(self, name: str, load: Callable[[], RewardModel]) -> None:
        """Answer with another model once it is loaded and tried; raise `ModelUnavailable`.

        Until then, and for what was begun by then, the old one answers.
        """
        if not self._asked.acquire(blocking=False):
            raise ModelUnavailable("another model is being loaded; try again once it answers")
        try:
            model = load()
            self._try_out(name, model)
            self._serving = self._named(name, model)
        finally:
            self._asked.release()
        log.info("reward model swapped", model=name)

    def _named(self, name: str, model: RewardModel) -> Serving:
        return Serving(name=name, model=model, number=next(self._numbers))

    def _try_out(self, name: str, model: RewardModel) -> None:
        """Raise `ModelUnavailable` unless a model scores, or refuses, the last clip there was."""
        clip = self._last
        if clip is None:
            return
        try:
            score = model.score(clip)
        except NoScore as error:
            if error.retry:
                raise ModelUnavailable(f"{name} gives no score: {error}") from error
            return
        except Exception as error:  # whatever it is, the old model does not do it
            log.exception("a model failed its trial", model=name)
            raise ModelUnavailable(f"{name} fails over a clip: {type(error).__name__}") from error
        if len(score.success) != len(clip):
            raise ModelUnavailable(f"{name} judged {len(score.success)} moments of {len(clip)}")
