"""Sealed episodes in, labelled episodes out, at the pace of a reward service that may fail."""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from rewarder.reward import NoScore, RewardModel, Score, clip_of
from rl.label import label, load_score, save_score
from rl.transition import Transition
from robot.journal import Episode, read_episode
from robot.sealed import Damaged

log = structlog.get_logger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """An episode whose fate is known."""

    path: Path
    episode: Episode | None
    """None where the file is damaged."""
    transitions: Sequence[Transition] = ()
    """Empty where there is no label."""
    reason: str | None = None
    """Why there is no label."""


class Labeller:
    """Asks a reward model for the score of each episode, in threads; waits out its failures."""

    def __init__(
        self,
        model: RewardModel,
        labels: Path,
        *,
        threads: int = 2,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        """Keep scores in `labels`; ask a model that is away again, `first_wait_s` to 30 s apart."""
        self._model, self._labels, self._first_wait_s = model, labels, first_wait_s
        self._stopping = threading.Event()
        self._troubles: dict[int, str] = {}
        self._futures: list[Future[Labelled | None]] = []
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="labeller")

    @property
    def pending(self) -> int:
        """Return how many episodes wait for their label."""
        return len(self._futures)

    @property
    def trouble(self) -> str | None:
        """Return why the reward model gives no scores at the moment, if so."""
        return next(iter(self._troubles.copy().values()), None)

    def submit(self, path: Path) -> None:
        """Have one sealed episode labelled."""
        self._futures.append(self._pool.submit(self._label, path))

    def done(self) -> list[Labelled]:
        """Return the episodes whose fate has become known; raise what went wrong for good."""
        ready = [future for future in self._futures if future.done()]
        self._futures = [future for future in self._futures if future not in ready]
        return [labelled for future in ready if (labelled := future.result())]

    def close(self) -> None:
        """Stop asking; what is pending stays in the journal."""
        self._stopping.set()
        self._pool.shutdown(cancel_futures=True)

    def _label(self, path: Path) -> Labelled | None:
        try:
            episode = read_episode(path)
        except (Damaged, OSError) as error:
            return Labelled(path=path, episode=None, reason=str(error))
        try:
            score = self._score(episode)
            if score is None:
                return None
            transitions = label(episode, score)
        except NoScore as error:
            log.warning("episode not labelled", episode=path.name, reason=str(error))
            return Labelled(path=path, episode=episode, reason=str(error))
        save_score(self._labels, path.stem, score)
        return Labelled(path=path, episode=episode, transitions=transitions)

    def _score(self, episode: Episode) -> Score | None:
        """Return the score, None if told to stop; raise NoScore where there never is one."""
        clip, wait_s = clip_of(episode), self._first_wait_s
        me = threading.get_ident()
        while not self._stopping.is_set():
            try:
                score = self._model.score(clip)
            except NoScore as error:
                if not error.retry:
                    raise
                self._troubles[me] = str(error)
                # Jitter keeps the threads of several runs from asking in step.
                self._stopping.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
                wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
            else:
                self._troubles.pop(me, None)
                return score
        return None


def relabelled(path: Path, labels: Path) -> Labelled:
    """Return an episode that was scored before, labelled; raise OSError or Damaged."""
    episode = read_episode(path)
    transitions = label(episode, load_score(labels, path.stem))
    return Labelled(path=path, episode=episode, transitions=transitions)
