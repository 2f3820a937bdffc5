"""An arm behind its own process, as practice needs it: obeying, or saying why not."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Protocol

import structlog

from envs.homing import ArmStopped
from robot.arm import Observation
from robot.client import ArmUnavailable, Hello, LinkLost
from robot.clock import Clock, WallClock
from robot.guard import Command, SafeArm
from robot.journal import End
from robot.limits import SafetyLimits
from robot.process.arm_state import NOT_OBEYED, ArmState, Cause, Mode
from robot.process.motion import BLEND_S

log = structlog.get_logger(__name__)

_QUIET = {Mode.HOLD, Mode.PARK, Mode.IDLE}


class ArmLink(SafeArm, Protocol):
    """A connection to an arm's process, as `RemoteArm` is one; its `latch` asks for RUN."""

    hello: Hello
    """What the process said at first."""

    def state(self) -> ArmState:
        """Return what the process says of itself."""
        ...

    def mode(self, mode: Mode) -> Mode:
        """Ask for a mode and return the one that came of it."""
        ...


class LiveArm:
    """A `SafeArm` in another process that raises `ArmStopped` whenever it does not obey."""

    def __init__(
        self, arm_id: str, connect: Callable[[], ArmLink], *, clock: Clock | None = None
    ) -> None:
        """Reach the arm by `connect`, again after every lost link; raise `ArmStopped`."""
        self.clock = clock or WallClock()
        self._arm_id, self._connect = arm_id, connect
        self._link: ArmLink | None = None
        self._is_ours = False
        self._paused: str | None = None
        with self._watched():
            self._hello = self._reach().hello

    @property
    def limits(self) -> SafetyLimits:
        """Return what the guard allows."""
        return self._hello.limits

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Return height and width of each camera's frames, pixels."""
        return self._hello.cameras

    def about(self) -> Mapping[str, object]:
        """Return what an episode keeps of this arm."""
        return {"calibration": self._hello.calibration}

    def observe(self, *, frames: bool = True) -> Observation:
        """Return what the arm senses."""
        with self._watched():
            return self._reach().observe(frames=frames)

    def command(self, joint_target: object, *, stamp: float) -> Command:
        """Send a proposal; raise `ArmStopped` where the arm takes none."""
        with self._watched():
            command = self._reach().command(joint_target, stamp=stamp)
            for event in command.events:
                if event.rule == "refused" and (event.detail or "").startswith(NOT_OBEYED):
                    raise self._stopped(self._reach().state())
        return command

    def hold(self) -> None:
        """Stay at the last command."""
        with self._watched():
            self._reach().hold()

    def latch(self) -> None:
        """Be ready to move from where the arm is; raise `ArmStopped` where it must not.

        An arm that holds or rests is set to run, which takes the measured pose as its goal; one
        that a person paused, stopped or moves is left alone.
        """
        with self._watched():
            link = self._reach()
            state = link.state()
            runs = state.mode is Mode.RUN and self._is_ours
            # Whoever asked for RUN without driving has let it run, if only for a moment.
            if runs or (state.mode is Mode.HOLD and state.cause is Cause.SILENCE):
                self._paused = None
            if not runs and (self._paused or state.mode not in {Mode.HOLD, Mode.IDLE}):
                raise self._stopped(state)
            link.latch()
            self._is_ours = True
            if not runs:
                # Its speed rises from nothing: a motion that began at once would lag behind.
                self.clock.sleep_until(self.clock.now() + BLEND_S)

    def close(self) -> None:
        """Have the arm parked, if it is in our hands, and let go of it."""
        link, self._link = self._link, None
        if link is None:
            return
        try:
            if self._is_ours and link.state().mode is Mode.RUN:
                link.mode(Mode.PARK)
        except ArmUnavailable as error:
            log.warning("not parked", arm=self._arm_id, reason=str(error))
        link.close()

    def _reach(self) -> ArmLink:
        if self._link is None:
            self._is_ours = False
            self._link = self._connect()
            self._hello = self._link.hello
        return self._link

    @contextmanager
    def _watched(self) -> Generator[None]:
        """Turn what is said of an arm that cannot be used into `ArmStopped`."""
        try:
            yield
        except LinkLost as error:
            # The next call reaches for the arm again.
            link, self._link = self._link, None
            if link is not None:
                link.close()
            raise ArmStopped(f"{self._arm_id}: {error}", end="lost_link") from error
        except ArmUnavailable as error:
            raise ArmStopped(f"{self._arm_id}: {error}") from error

    def _stopped(self, state: ArmState) -> ArmStopped:
        """Return why the arm takes no command."""
        if state.mode in _QUIET and state.cause is Cause.ASKED:
            self._paused = self._paused or f"{state.mode}: {state.reason}"
        what, then = self._advice(state)
        return ArmStopped(f"{self._arm_id} {what}; {then}", end=_end(state, paused=self._paused))

    def _advice(self, state: ArmState) -> tuple[str, str]:
        """Return what the arm does and what has to happen before practice goes on."""
        if state.mode is Mode.STOP:
            return f"is stopped: {state.reason}", "reset it on the dashboard (make dashboard)"
        if state.mode is Mode.TAKEOVER:
            return "is moved by a person", "practice goes on once they hand it back"
        if state.mode is Mode.RUN:
            return f"is in use ({', '.join(state.clients)})", "end the other program first"
        if self._paused:
            return f"was paused ({self._paused})", "ask for RUN, or start practice again"
        return f"is in {state.mode}: {state.reason}", "practice goes on once it holds"


def _end(state: ArmState, *, paused: str | None) -> End:
    """Return how an episode has ended that this state cut short."""
    if state.mode is Mode.TAKEOVER or paused:
        return "operator"
    if state.mode is Mode.STOP:
        return "fault" if state.cause is Cause.FAULT else "operator"
    return "lost_link"
