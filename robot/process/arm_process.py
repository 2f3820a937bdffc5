"""The arm's process without its sockets: modes, heartbeat, health, and a guarded 50 Hz cycle."""

import math
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog

from robot.arm import JOINTS, Joints, Observation, frozen
from robot.clock import Clock
from robot.envelope import LiveEnvelope
from robot.guard import Command, Guard, GuardEvent
from robot.limits import SafetyLimits
from robot.process.arm_state import ArmState, Cause, Mode
from robot.process.health import HealthWatch
from robot.process.heartbeat import Heartbeats
from robot.process.motion import Motion
from robot.process.parking import Stillness, parking_way
from robot.process.servos import LostReply, ServoArm, ServoHealth

__all__ = ["ArmProcess", "ArmState", "Mode", "ModeRefused", "ServoHealth", "run_cycle"]

log = structlog.get_logger(__name__)

PERIOD_S = 0.02
SILENCE_S, UNTIL_PARK_S = 0.15, 3.0
PARK_SPEED = 15.0
"""Degrees a second of the fastest joint."""
TOO_MANY_LOST = 3
REST_S, GIVE_UP_S, NEAR_PARK_DEG = 0.5, 2.0, 8.0
LATCH_AGAIN_S, SAG_DEG = 0.5, 3.0
"""For so long after it took its pose an arm may hang so far below it and not take it again."""
KNOWN_S = 0.2
"""Age at which a measured pose is no longer where the arm is."""
_LATE_WINDOW_S = 10.0


_DRIVEN = (Mode.RUN, Mode.TAKEOVER)


class ModeRefused(Exception):
    """A change of mode that is not allowed; the sentence says what has to happen first."""


class ArmProcess:
    """One arm, its mode, and whoever drives it; safe to call from any thread.

    Only `tick` talks to the servos, and so it runs in one thread; everything else notes what the
    next tick shall do, and returns at once.
    """

    def __init__(  # noqa: PLR0913 -- each is a different thing, and keyword-only
        self,
        arm: ServoArm,
        guard: Guard,
        clock: Clock,
        *,
        park_pose: Joints,
        stop_file: Path | None = None,
        calibration: str = "",
        may_run: bool = True,
    ) -> None:
        """Hold the arm where it is; without `may_run` it never leaves HOLD but to park or stop.

        Raise `LostReply` where the arm does not say where it is, asked three times.
        """
        self.clock = clock
        self._arm, self._guard = arm, guard
        self._park_pose, self._stop_file = frozen(park_pose), stop_file
        self._calibration, self._may_run = calibration, may_run
        self._lock = threading.Lock()
        self._measured, self._measured_at = _first_pose(arm), clock.now()
        self._still = Stillness(self._measured, self._measured_at)
        self._motion = Motion(guard, self._measured)
        self._beats = Heartbeats()
        self._health: ServoHealth | None = None
        self._watch, self._envelope = HealthWatch(), LiveEnvelope(period_s=PERIOD_S)
        self._faults: deque[str] = deque(maxlen=20)
        self._lost = 0
        self._mode, self._cause, self._reason = Mode.HOLD, Cause.START, "the process has started"
        self._since = self._measured_at
        self._person_drives: bool | None = None  # whose silence counts; None: nobody's
        self._silent_since = self._measured_at
        self._latch_due, self._way_due = True, False
        self._latched: tuple[float, Joints] = (-math.inf, self._measured)
        self._wants_torque, self._has_torque = True, False
        self._cycle_s, self._late = 0.0, deque[tuple[float, float]]()

    # What clients ask

    @property
    def limits(self) -> SafetyLimits:
        """Return what the guard allows."""
        return self._guard.limits

    @property
    def mode(self) -> Mode:
        """Return what the arm is doing."""
        return self._mode

    def beat(self, client: str) -> None:
        """Note a sign of life of a client."""
        with self._lock:
            self._beats.beat(client, now=self.clock.now())

    def leave(self, client: str) -> None:
        """Note that the link to a client has ended: an arm that it drives holds at once."""
        with self._lock:
            self._beats.leave(client)

    def request(self, mode: Mode, *, client: str = "", human: bool = False) -> Mode:
        """Change the mode and return it; IDLE is reached by parking.

        Whoever asks for RUN or TAKEOVER drives: from then on their silence counts. A person who
        asks for RUN hands back to the policy. Raise `ModeRefused`.
        """
        with self._lock:
            now = self.clock.now()
            if mode is Mode.STOP:
                self._stop(Cause.ASKED, f"{client or 'a client'} asked for it")
                return self._mode
            self._require(mode, human=human, now=now)
            if mode is Mode.TAKEOVER or (mode is Mode.RUN and not human):
                self._require_free(client, human=human, now=now)
                self._latch_due |= client != self._beats.driver(human=human)
                self._beats.drive(client, human=human, now=now)
            if mode is Mode.IDLE and self._mode is not Mode.IDLE:
                mode = Mode.PARK
            if mode is not self._mode:
                self._enter(mode, Cause.ASKED, f"{client or 'a client'} asked for it")
            return self._mode

    def propose(
        self, proposal: object, *, stamp: float, client: str = "", human: bool = False
    ) -> Command:
        """Head for the nearest allowed goal; `stamp` is that of the observation it answers.

        While a person drives, a policy is told the person's goal instead.
        """
        with self._lock:
            now = self.clock.now()
            taken_over = self._mode is Mode.TAKEOVER
            if taken_over and not human:
                return Command(joint_target=self._motion.goal, events=(), human=True)
            reason = self._refusal(client, human=human)
            if reason is not None:
                self._motion.events["refused"] += 1
                event = GuardEvent("refused", reason)
                return Command(joint_target=self._motion.goal, events=(event,), human=taken_over)
            self._latch_if_due(now)
            command = self._motion.propose(
                proposal, measured=self._measured, now=now, age_s=now - stamp
            )
            return replace(command, human=taken_over)

    def latch(self, *, human: bool = False) -> None:
        """Take the measured pose as goal; raise `ValueError` where it is not known."""
        with self._lock:
            if self.clock.now() - self._measured_at > KNOWN_S:
                raise ValueError("the servos do not say where they are: check the servo bus")
            if self._mode is Mode.RUN or (self._mode is Mode.TAKEOVER and human):
                self._motion.latch(self._measured)

    def stop(self, reason: str, *, cause: Cause = Cause.ASKED) -> None:
        """Stop and stay stopped: the goal becomes the measured pose, once."""
        with self._lock:
            self._stop(cause, reason)

    def reset(self) -> None:
        """Leave STOP, for HOLD; nothing starts. Raise `ModeRefused` while a cause remains."""
        with self._lock:
            if self._mode is not Mode.STOP:
                return
            if self._stop_file is not None and self._stop_file.exists():
                raise ModeRefused(f"{self._stop_file} exists: remove it, then reset")
            if self._lost:
                raise ModeRefused("the servos do not answer: check cable and supply, then reset")
            # Servos that were without supply have lost their torque.
            self._has_torque = False
            self._watch = HealthWatch()
            mode = Mode.HOLD if self._wants_torque else Mode.IDLE
            self._enter(mode, Cause.RESET, "it was reset")

    def state(self) -> ArmState:
        """Return what can be said of the arm."""
        with self._lock:
            now = self.clock.now()
            return ArmState(
                stamp=now,
                mode=self._mode,
                since=self._since,
                cause=self._cause,
                reason=self._reason,
                joint_pos=self._measured,
                joint_target=self._motion.goal,
                sent=self._motion.sent,
                health=self._health,
                faults=tuple(self._faults),
                events=dict(self._motion.events),
                clients=self._beats.alive(now=now, within_s=1.0),
                calibration=self._calibration,
                cycle_s=self._cycle_s,
                late_s=max((late for _, late in self._late), default=0.0),
            )

    def lateness(self) -> list[float]:
        """Return how late the cycles of the last 10 s began, seconds."""
        with self._lock:
            return [late for _, late in self._late]

    def observation(self) -> Observation:
        """Return what the arm last sensed, without frames."""
        with self._lock:
            return Observation(
                stamp=self._measured_at,
                joint_pos=self._measured,
                joint_target=self._motion.goal,
                frames={},
            )

    # One cycle

    def tick(self, *, late_s: float = 0.0) -> None:
        """Read the servos, decide, and send one command."""
        began = self.clock.now()
        measured, loss = self._read()
        with self._lock:
            now = self.clock.now()
            if measured is None:
                self._note_loss(loss)
            else:
                self._note_pose(measured, now)
            self._note_stop_file()
            self._note_silence(now)
            target = self._decide(now) if measured is not None else None
            torque = self._wants_torque
        self._carry_out(target, torque=torque)
        with self._lock:
            self._note_lateness(late_s, now)
            self._cycle_s = self.clock.now() - began

    def _read(self) -> tuple[Joints | None, str]:
        try:
            return frozen(self._arm.joint_pos()), ""
        except LostReply as loss:
            return None, str(loss)

    def _carry_out(self, target: Joints | None, *, torque: bool) -> None:
        try:
            if target is not None:
                self._arm.command(target)
            # Torque comes on at the goal that was just sent, which is the measured pose.
            if torque != self._has_torque and (target is not None or not torque):
                self._arm.torque(on=torque)
                self._has_torque = torque
        except LostReply as loss:
            with self._lock:
                self._note_loss(str(loss))

    def _decide(self, now: float) -> Joints | None:
        """Return the next command; None where nothing is to be sent."""
        if self._mode is Mode.PARK:
            self._continue_parking(now)
        if self._mode is Mode.IDLE:
            return None
        self._latch_if_due(now)
        share = PARK_SPEED / float(self.limits.max_speed[:5].max())
        return self._motion.step(
            measured=self._measured, now=now, share=share if self._mode is Mode.PARK else 1.0
        )

    def _note_pose(self, measured: Joints, now: float) -> None:
        self._lost = 0
        self._measured, self._measured_at = measured, now
        self._still.update(measured, now)
        before, self._health = self._health, self._arm.health()
        if not self._has_torque:
            return
        sent, health = self._motion.sent, self._health
        for sentence in self._envelope.update(now, commanded=sent, achieved=measured):
            self._fault(sentence)
        if health is not None and health is not before:
            trouble = self._watch.update(now, health, commanded=sent, achieved=measured)
            if trouble is not None:
                self._stop(Cause.FAULT, trouble)

    def _note_loss(self, loss: str) -> None:
        """Tolerate a lost reply: the arm holds for a cycle; stop where they do not end."""
        self._lost += 1
        if self._lost == 1:
            self._fault(loss)
        if self._lost >= TOO_MANY_LOST:
            self._stop(Cause.FAULT, f"{self._lost} replies in a row were lost: {loss}")

    def _note_stop_file(self) -> None:
        if self._mode is not Mode.STOP and self._stop_file and self._stop_file.exists():
            self._stop(Cause.ASKED, f"{self._stop_file} exists")

    def _note_silence(self, now: float) -> None:
        """Hold where whoever drives has fallen silent, and park where they stay so."""
        human = self._person_drives
        if human is None or self._mode not in {*_DRIVEN, Mode.HOLD}:
            return
        silence = self._beats.silence(human=human, now=now)
        driver = self._beats.driver(human=human)
        reason = f"{driver!r} was not heard of for {silence:.2f} s"
        if math.isinf(silence):
            reason = f"{driver!r} has gone" if driver else "nobody drives it"
        if self._mode is not Mode.HOLD and silence > SILENCE_S:
            self._enter(Mode.HOLD, Cause.SILENCE, reason)
            self._silent_since = now
        elif min(silence, now - self._silent_since) > UNTIL_PARK_S:
            self._enter(Mode.PARK, Cause.SILENCE, reason)

    def _note_lateness(self, late_s: float, now: float) -> None:
        self._late.append((now, late_s))
        while self._late[0][0] < now - _LATE_WINDOW_S:
            self._late.popleft()

    def _continue_parking(self, now: float) -> None:
        """Set out for the park pose, and end the parking where it is reached or cannot be."""
        motion = self._motion
        if self._way_due:
            self._way_due = False
            self._latch_if_due(now)
            way = parking_way(self._guard, self._measured, self._park_pose)
            motion.follow(way or [self._park_pose], now=now, speed=PARK_SPEED)
            self._still.restart(now)
        still = self._still.seconds(now)
        near = float(np.abs(self._measured - self._park_pose)[:5].max()) <= NEAR_PARK_DEG
        if motion.arrived and near and still >= REST_S:
            self._enter(Mode.IDLE, Cause.PARKED, "it is parked")
        elif still >= GIVE_UP_S:
            self._fault(f"{_farthest(self._measured, self._park_pose)}: park it by hand")
            self._enter(Mode.HOLD, Cause.FAULT, "it could not be parked")

    # Modes

    def _require(self, mode: Mode, *, human: bool, now: float) -> None:
        """Raise `ModeRefused` where the mode may not become `mode`."""
        if self._mode is Mode.STOP:
            raise ModeRefused(f"the arm is stopped ({self._reason}): reset it first")
        if mode is Mode.TAKEOVER and not human:
            raise ModeRefused("only a person takes over: say hello as human")
        if self._mode is Mode.TAKEOVER and not human:
            raise ModeRefused("a person has taken over: wait until they hand back")
        if mode in _DRIVEN and not self._may_run:
            raise ModeRefused("the limits are not proven: see the limit proof of the start")
        if mode in _DRIVEN and now - self._measured_at > KNOWN_S:
            raise ModeRefused("the servos do not say where they are: check the servo bus")

    def _require_free(self, client: str, *, human: bool, now: float) -> None:
        """Raise `ModeRefused` where somebody else drives who is still heard of."""
        driver = self._beats.driver(human=human)
        drives = self._mode is (Mode.TAKEOVER if human else Mode.RUN)
        silence = self._beats.silence(human=human, now=now)
        if drives and client != driver and silence <= SILENCE_S:
            raise ModeRefused(f"{driver!r} drives the arm: end that first")

    def _refusal(self, client: str, *, human: bool) -> str | None:
        """Return why goals of a client do not count."""
        if self._mode not in _DRIVEN or human != (self._mode is Mode.TAKEOVER):
            return f"mode:{self._mode}"
        driver = self._beats.driver(human=human)
        return None if client == driver else f"driver:{driver}"

    def _enter(self, mode: Mode, cause: Cause, reason: str) -> None:
        moving = self._mode in {*_DRIVEN, Mode.PARK}
        self._mode, self._cause, self._reason = mode, cause, reason
        self._since = self.clock.now()
        log.info("mode", mode=mode.value, cause=cause.value, reason=reason)
        if mode is Mode.HOLD and moving:
            self._motion.freeze()
            if cause is not Cause.SILENCE:
                self._person_drives = None
        else:
            self._latch_due = True
            self._person_drives = mode is Mode.TAKEOVER if mode in _DRIVEN else None
        if mode is not Mode.STOP:
            self._wants_torque = mode is not Mode.IDLE
        self._way_due = mode is Mode.PARK

    def _stop(self, cause: Cause, reason: str) -> None:
        if self._mode is not Mode.STOP:
            self._fault(reason)
            self._enter(Mode.STOP, cause, reason)

    def _latch_if_due(self, now: float) -> None:
        """Take the measured pose as the first command of a mode, and let its speed rise.

        An arm that took its pose a moment ago, and was sent nothing since, does not take it again:
        under gravity it would sink a little every time.
        """
        if not self._latch_due:
            return
        self._latch_due = False
        then, pose = self._latched
        sank = float(np.abs(self._measured - pose).max())
        held = self._health is None or all(self._health.torque)
        stays = held and np.array_equal(self._motion.sent, pose)
        if not stays or sank > SAG_DEG or now - then > LATCH_AGAIN_S:
            self._motion.latch(self._measured)
            self._latched = now, self._motion.sent
        self._motion.freeze()
        self._motion.blend(now)

    def _fault(self, sentence: str) -> None:
        log.warning("fault", sentence=sentence)
        self._faults.append(sentence)


def _first_pose(arm: ServoArm) -> Joints:
    for _ in range(TOO_MANY_LOST - 1):
        try:
            return frozen(arm.joint_pos())
        except LostReply as loss:
            log.warning("fault", sentence=str(loss))
    return frozen(arm.joint_pos())


def _farthest(measured: Joints, park: Joints) -> str:
    joint = int(np.abs(measured - park)[:5].argmax())
    return f"{JOINTS[joint]} stays at {measured[joint]:.0f}°, {park[joint]:.0f}° is its park pose"


def run_cycle(process: ArmProcess, clock: Clock, stopping: threading.Event) -> None:
    """Tick at 50 Hz until `stopping`; cycles that were missed are left out, not made up for."""
    due = clock.now()
    while not stopping.is_set():
        clock.sleep_until(due)
        began = clock.now()
        process.tick(late_s=max(0.0, began - due))
        due += PERIOD_S
        if began > due:
            due = began + PERIOD_S
