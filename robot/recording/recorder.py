"""Records takes in three threads, control, cameras and a writer, and keeps only what it sealed."""

import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from queue import Empty, SimpleQueue
from threading import Event

import structlog

from robot.arm import Observation
from robot.guard import Command, SafeArm
from robot.journal import End, Journal
from robot.process.arm_state import NOT_OBEYED
from robot.process.camera_feed import Picture
from robot.recording.take import NotSealed, Row
from robot.recording.take_writer import MAX_LATE, Session, TakeWriter
from robot.teleop.devices import Request, Teleop

log = structlog.get_logger(__name__)

type Eyes = Callable[[], Mapping[str, Picture]]
"""Returns the newest picture of each camera, at once."""


class Phase(StrEnum):
    """What a recorder is doing."""

    WAITING = "waiting"
    RECORDING = "recording"
    SEALING = "sealing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How the takes of a recording went."""

    sealed: int = 0
    discarded: int = 0
    refused: int = 0


class Recorder:
    """Follows a device and records it, take by take; the calling thread is the control loop."""

    def __init__(  # noqa: PLR0913 - one keyword each for what a recording is
        self,
        arm: SafeArm,
        teleop: Teleop,
        *,
        journal: Journal,
        session: Session,
        eyes: Eyes | None = None,
        episode_s: float = 60.0,
        hands_free: bool = False,
        max_late: float = MAX_LATE,
        prepare: Callable[[int], None] = lambda _: None,
        switch: Callable[[Request], object] = lambda _: None,
        stop: Callable[[str], object] | None = None,
        say: Callable[[str], object] = log.info,
    ) -> None:
        """Record `arm`; its pictures come from `eyes`, or with its observations where it has none.

        The arm follows `teleop` from the first take or `takeover` on, until `hand_back` or a stop.
        With `hands_free` every take starts by itself, after `prepare(number)`. `stop(reason)` is
        the arm's own stop; without one a stop holds the arm. `switch` is told of `takeover` and
        `hand_back`.
        """
        self._arm, self._teleop, self._session, self._eyes = arm, teleop, session, eyes
        self._journal, self._episode_s, self._hands_free = journal, episode_s, hands_free
        self._prepare, self._switch, self._stop, self._say = prepare, switch, stop, say
        self._period_s = 1 / session.fps
        self._writer = TakeWriter(journal, session, arm.limits, max_late=max_late)
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._phase, self._rows, self._follows = Phase.WAITING, 0, False
        self._began = self._lasted_s = 0.0
        self._sealed = len(journal.episodes())
        self._goal = self._sealed
        self._tally = Tally()
        self._quit = Event()

    def request(self, request: Request) -> str:
        """Take a request from another thread; a stop is done at once. Return a sentence."""
        if request == "stop":
            self.stop("the operator's wish")
            return "stopped; reset the arm to go on"
        self._requests.put(request)
        return {
            "start": "a take starts, or ends and is kept",
            "abort": "the running take is discarded",
            "quit": "good-bye; a running take is discarded",
        }.get(request, f"asked to {request}")

    def state(self) -> str:
        """Return what is going on, a sentence."""
        tally = self._tally
        running = ""
        if self._phase is Phase.RECORDING:
            running = f" episode {self._sealed + 1}: {self._lasted_s:.1f} s, {self._rows} rows"
        return (
            f"{self._phase}{running}; {self._sealed} of {self._goal} episodes sealed, "
            f"{tally.discarded} takes discarded, {tally.refused} refused"
        )

    def stop(self, reason: str) -> None:
        """Stop the arm at once, from any thread, and discard the running take."""
        self._hands_free = False
        if self._stop:
            self._stop(reason)
        self._requests.put("stop")

    def run(self, episodes: int) -> Tally:
        """Record until the journal has `episodes`, or somebody quits; return how it went."""
        self._goal = episodes
        with self._threads() as futures:
            due = self._arm.clock.now()
            while not self._quit.is_set() and self._sealed < episodes:
                for future in futures:
                    if future.done():
                        future.result()
                self._tick()
                # A late tick is not made up for: two rows at once would be none at their time.
                due = max(due + self._period_s, self._arm.clock.now())
                self._arm.clock.sleep_until(due)
        return self._tally

    @contextmanager
    def _threads(self) -> Generator[Sequence[Future[None]]]:
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="record") as pool:
            futures = [pool.submit(self._writer.run)]
            if self._eyes:
                futures.append(pool.submit(self._look, self._eyes))
            try:
                yield futures
            finally:
                self._quit.set()
                if self._phase is Phase.RECORDING:
                    self._discard("the recording ended")
                self._writer.close()
                self._arm.hold()
        for future in futures:
            future.result()
        self._hear_the_writer()

    def _look(self, eyes: Eyes) -> None:
        """Watch the cameras twice as often as rows come, so that no picture is missed."""
        while not self._quit.wait(self._period_s / 2):
            self._writer.see(eyes())

    def _tick(self) -> None:
        for request in self._teleop.poll():
            if request == "stop":
                self.stop("a person at the arm")
            self._obey(request)
        for request in self._waiting_requests():
            self._obey(request)
        self._hear_the_writer()
        if self._hands_free and self._phase is Phase.WAITING and not self._quit.is_set():
            self._start()
        recording = self._phase is Phase.RECORDING
        observation = self._arm.observe(frames=recording and self._eyes is None)
        wanted = self._teleop.read(observation) if self._follows else None
        target = observation.joint_target if wanted is None else wanted
        command = self._arm.command(target, stamp=observation.stamp)
        if recording:
            self._keep(
                observation,
                command,
                Row(
                    stamp=observation.stamp,
                    joint_pos=observation.joint_pos,
                    joint_target=observation.joint_target,
                    wanted=command.joint_target if command.human else target,
                    source="human" if command.human else self._session.source,
                    events=tuple(str(event) for event in command.events),
                ),
            )

    def _keep(self, observation: Observation, command: Command, row: Row) -> None:
        """Hand a row to the writer, unless the arm did not listen; end a take that is full."""
        for event in command.events:
            if event.rule == "refused" and (event.detail or "").startswith(NOT_OBEYED):
                self._hands_free = False
                self._discard(f"the arm takes no commands ({event.detail})")
                return
        if observation.frames:
            self._writer.see(observation.frames)
        self._writer.row(row)
        if not self._rows:
            self._began = observation.stamp
        self._rows, self._lasted_s = self._rows + 1, observation.stamp - self._began
        if self._lasted_s >= self._episode_s - 1e-6 or self._writer.full:
            self._end("time_limit")

    def _waiting_requests(self) -> Iterator[Request]:
        while True:
            try:
                yield self._requests.get_nowait()
            except Empty:
                return

    def _obey(self, request: Request) -> None:
        recording = self._phase is Phase.RECORDING
        if request == "start" and self._phase is Phase.WAITING:
            self._start()
        elif request == "start" and recording:
            self._end("operator")
        elif request in ("takeover", "hand_back"):
            self._switch(request)
            self._follows = request == "takeover"
        elif request == "state":
            self._say(self.state())
        elif request == "quit":
            self._quit.set()
        elif request == "stop":
            self._follows = False
        if request in ("abort", "quit", "stop") and recording:
            self._discard(f"{request} was asked for")

    def _start(self) -> None:
        if self._sealed >= self._goal:
            return
        self._prepare(self._sealed)
        self._writer.begin()
        self._rows, self._lasted_s = 0, 0.0
        self._phase, self._follows = Phase.RECORDING, True
        self._say(f"recording episode {self._sealed + 1} of {self._goal}: {self._session.goal}")

    def _end(self, end: End) -> None:
        self._writer.end(f"{self._sealed:06d}-{secrets.token_hex(4)}", end)
        self._phase = Phase.SEALING

    def _discard(self, reason: str) -> None:
        self._writer.discard()
        self._phase = Phase.WAITING
        self._tally = replace(self._tally, discarded=self._tally.discarded + 1)
        self._say(f"take discarded: {reason}")

    def _hear_the_writer(self) -> None:
        try:
            outcome = self._writer.outcomes.get_nowait()
        except Empty:
            return
        self._phase = Phase.WAITING
        if isinstance(outcome, NotSealed):
            self._tally = replace(self._tally, refused=self._tally.refused + 1)
            self._say(f"take not sealed: {outcome}")
            if self._hands_free:
                # Nobody watches: the next take would be refused as well.
                raise outcome
        else:
            self._sealed += 1
            self._tally = replace(self._tally, sealed=self._tally.sealed + 1)
            self._say(f"episode {outcome} sealed, {self._sealed} of {self._goal}")
