"""Seals takes in a thread of its own, so that neither JPEG nor disk delay the control loop."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from queue import Empty, SimpleQueue

import structlog

from robot.camera import Frame, encode_jpeg
from robot.journal import End, EpisodeInfo, Journal, Source
from robot.limits import SafetyLimits
from robot.process.camera_feed import Picture
from robot.recording.take import MAX_BYTES, NotSealed, Row, Take

log = structlog.get_logger(__name__)

MAX_LATE = 0.05
"""Share of rows and pictures that may be late."""
LAST_LOOK_S = 0.5
"""How long the writer waits for a picture that was taken after the last row."""
IDLE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is known of all episodes of a recording before they begin."""

    arm: str
    task: str
    goal: str
    source: Source
    policy: str
    """Who acts, e.g. `human/keyboard`."""
    fps: float
    cameras: Sequence[str]
    git_revision: str
    config: Mapping[str, object]

    def info(self, name: str, end: End, started_at: str) -> EpisodeInfo:
        """Return what is said of one episode."""
        return EpisodeInfo(
            episode=name,
            arm=self.arm,
            task=self.task,
            goal=self.goal,
            seed=0,
            end=end,
            started_at=started_at,
            action_space="joint_absolute",
            policy=self.policy,
            greedy=True,
            git_revision=self.git_revision,
            config={**self.config, "fps": self.fps},
        )


class TakeWriter:
    """Owns the running take; `run` is its thread, and the other methods may be called from any."""

    def __init__(
        self,
        journal: Journal,
        session: Session,
        limits: SafetyLimits,
        *,
        max_late: float = MAX_LATE,
    ) -> None:
        """Seal takes in `journal`; see `Take.episode` for `max_late`."""
        self._journal, self._session, self._limits = journal, session, limits
        self._max_late = max_late
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.outcomes: SimpleQueue[str | NotSealed] = SimpleQueue()
        """The name of every sealed episode, or why a take was not sealed."""
        self.full = False
        """Whether the running take has as many pictures as an episode may have."""
        self._newest: dict[str, Picture] = {}
        self._before: dict[str, Picture] = {}
        self._take: Take | None = None
        self._started_at = ""
        self._ending: tuple[str, End, float] | None = None
        self._closed = False

    def begin(self) -> None:
        """Start a take with the newest two pictures of each camera."""
        self._inbox.put(self._begin)

    def row(self, row: Row) -> None:
        """Add a row to the take."""
        self._inbox.put(partial(self._row, row))

    def see(self, pictures: Mapping[str, Frame | Picture]) -> None:
        """Take notice of pictures."""
        self._inbox.put(partial(self._see, pictures))

    def end(self, name: str, end: End) -> None:
        """Seal the take under a name."""
        self._inbox.put(partial(self._end, name, end))

    def discard(self) -> None:
        """Forget the take."""
        self._inbox.put(self._discard)

    def close(self) -> None:
        """End `run` once everything before this is done."""
        self._inbox.put(self._close)

    def run(self) -> None:
        """Do what the other methods ask for, in their order, until closed."""
        while not self._closed or self._ending:
            try:
                self._inbox.get(timeout=IDLE_S if self._ending else None)()
            except Empty:
                log.debug("waiting for the last pictures")
            self._seal_if_complete()

    def _begin(self) -> None:
        self._take = Take(period_s=1 / self._session.fps, cameras=self._session.cameras)
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.full = False
        # The newest may be of a moment after that at which the first row's joints were read.
        self._take.see(self._before)
        self._take.see(self._newest)

    def _row(self, row: Row) -> None:
        if self._take:
            self._take.rows.append(row)

    def _see(self, pictures: Mapping[str, Frame | Picture]) -> None:
        for name, seen in pictures.items():
            known = self._newest.get(name)
            if known is None or seen.stamp > known.stamp:
                picture = _picture(seen)
                self._before[name], self._newest[name] = known or picture, picture
        if self._take:
            self._take.see(self._newest)
            self.full = self._take.size > MAX_BYTES

    def _end(self, name: str, end: End) -> None:
        self._ending = (name, end, time.monotonic() + LAST_LOOK_S)

    def _discard(self) -> None:
        self._take = self._ending = None

    def _close(self) -> None:
        self._closed = True

    def _seal_if_complete(self) -> None:
        take, ending = self._take, self._ending
        if take is None or ending is None:
            return
        name, end, deadline = ending
        if take.rows and not take.complete() and time.monotonic() < deadline:
            return
        self._take = self._ending = None
        info = self._session.info(name, end, self._started_at)
        try:
            self._journal.seal(take.episode(info, self._limits, max_late=self._max_late))
        except NotSealed as error:
            self.outcomes.put(error)
        else:
            self.outcomes.put(name)


def _picture(seen: Frame | Picture) -> Picture:
    if isinstance(seen, Picture):
        return seen
    return Picture(jpeg=encode_jpeg(seen.image), stamp=seen.stamp)
