"""Nothing reaches a servo that this has not passed: limits on range, speed, lead and space."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Arm, Joints, Observation, frozen
from robot.clock import Clock
from robot.limits import SafetyLimits
from robot.volumes import Volumes

PATH_POINTS = 9
"""Poses that are checked between the last command and the next, both included."""
_TOLERANCE = 1e-12  # metres: the same pose computed twice is not worse than itself
_ROUNDING = 1e-9  # metres: what is computed in another way may differ by
_TRIES = 3
_SAME_POSE = 10.0  # degrees
_GRIPPER = JOINTS.index("gripper")


@dataclass(frozen=True, slots=True)
class GuardEvent:
    """One thing that the guard changed."""

    rule: str
    """`refused`, `range`, `step`, `lead`, `tool_box`, `arm_box`, `table` or `own_links`."""
    detail: str | None = None
    """The joint, the link, the axis of the tool box, or the reason of a refusal."""

    def __str__(self) -> str:
        """Return `rule:detail`."""
        return self.rule if self.detail is None else f"{self.rule}:{self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Command:
    """What is sent to the servos in place of a proposal."""

    joint_target: Joints
    """Shape (6,), read-only."""
    events: tuple[GuardEvent, ...]
    """What differs from the proposal, and why; empty where it passed as it was."""
    human: bool = False
    """Whether a person moved the arm instead, and this is what they sent."""


class SafeArm(Protocol):
    """An arm behind a guard, in this process or in its own: the only kind that is handed out."""

    clock: Clock
    """The caller's own, to pace what it does."""

    @property
    def limits(self) -> SafetyLimits:
        """Return what the guard allows."""
        ...

    def observe(self, *, frames: bool = True) -> Observation:
        """Return what the arm senses; without frames it costs no picture."""
        ...

    def command(self, joint_target: object, *, stamp: float) -> Command:
        """Send the nearest allowed command; `stamp` is that of the observation it answers."""
        ...

    def hold(self) -> None:
        """Stay at the last command."""
        ...

    def latch(self) -> None:
        """Take the measured pose as the last command."""
        ...

    def close(self) -> None:
        """Release the arm."""
        ...


class _Servo(NamedTuple):
    """The limits of one joint."""

    joint: str
    lower: float
    upper: float
    speed: float
    lead: float

    def clamp(
        self, wanted: float, *, last: float, measured: float, dt: float
    ) -> tuple[float, list[str]]:
        """Return the nearest allowed value and the rules that changed it."""
        step = self.speed * dt
        lowest = max(self.lower, last - step, measured - self.lead)
        if lowest <= wanted <= min(self.upper, last + step, measured + self.lead):
            return wanted, []
        ranged = min(max(wanted, self.lower), self.upper)
        stepped = min(max(ranged, last - step), last + step)
        led = min(max(stepped, measured - self.lead), measured + self.lead)
        target = min(max(led, self.lower), self.upper)
        target = min(max(target, last - step), last + step)
        changes = (("range", ranged, wanted), ("step", stepped, ranged), ("lead", led, stepped))
        return target, [rule for rule, after, before in changes if after != before]


class Guard:
    """A pure function from proposal, last command and measured pose to a command."""

    def __init__(self, limits: SafetyLimits) -> None:
        """Precompute what every check needs."""
        self.limits = limits
        self.volumes = Volumes(limits)
        self._shares = np.linspace(0.0, 1.0, PATH_POINTS)[:, None]
        # A pose and how far it is outside: what is near one that has room needs no closer look.
        self._known = (np.zeros(6), np.full((1, 3), np.inf))
        self._servos = [
            _Servo(*bounds)
            for bounds in zip(
                JOINTS,
                limits.joint_lower.tolist(),
                limits.joint_upper.tolist(),
                limits.max_speed.tolist(),
                limits.max_lead.tolist(),
                strict=True,
            )
        ]

    def check(
        self, proposal: object, *, last: Joints, measured: Joints, dt: float, age_s: float = 0.0
    ) -> Command:
        """Return the nearest command that is allowed `dt` seconds after `last`, or hold.

        `proposal` shall be a numeric array, shape (6,); `age_s` is the age of the observation that
        it answers. Range and step outrank lead; volumes may only shorten the way.
        """
        reason = self._refusal(proposal, measured=measured, dt=dt, age_s=age_s)
        if reason is not None:
            return Command(joint_target=frozen(last), events=(GuardEvent("refused", reason),))
        wanted = cast("NDArray[np.float64]", proposal).astype(np.float64)
        target, clamps = self._clamp(wanted, last=last, measured=measured, dt=dt)
        command, stops = self._shorten(target, last=last)
        return Command(joint_target=frozen(command), events=(*clamps, *stops))

    def _refusal(
        self, proposal: object, *, measured: Joints, dt: float, age_s: float
    ) -> str | None:
        """Return why a proposal cannot be considered at all."""
        reason = _malformed(proposal)
        if reason is None and not 0.0 <= age_s <= self.limits.max_age_s:
            reason = "stale"
        if reason is None and not np.isfinite(measured).all():
            reason = "measured_not_finite"
        if reason is None and not (math.isfinite(dt) and dt >= 0.0):
            reason = "bad_interval"
        if reason is None and _in_radians(cast("NDArray[np.float64]", proposal), measured):
            reason = "radians"
        return reason

    def _clamp(
        self, wanted: Joints, *, last: Joints, measured: Joints, dt: float
    ) -> tuple[Joints, list[GuardEvent]]:
        """Return the target within range, step and lead, and what that took."""
        values: list[float] = []
        events: list[GuardEvent] = []
        # Six joints are too few for numpy to be the faster way.
        poses = zip(wanted.tolist(), last.tolist(), measured.tolist(), strict=True)
        for servo, (goal, before, here) in zip(self._servos, poses, strict=True):
            value, rules = servo.clamp(goal, last=before, measured=here, dt=dt)
            values.append(value)
            if rules:
                events += [GuardEvent(rule, servo.joint) for rule in rules]
        return np.array(values), events

    def _shorten(self, target: Joints, *, last: Joints) -> tuple[Joints, list[GuardEvent]]:
        """Return the last pose on the straight way to `target` up to which nothing gets worse."""
        command, events, at_last = self._along(last, target)
        if events and target[_GRIPPER] != last[_GRIPPER] and np.array_equal(command, last):
            # An arm that presses on its floor can still open and close its gripper.
            grasp = last.copy()
            grasp[_GRIPPER] = target[_GRIPPER]
            if self.volumes.jaw_is_free(at_last, target[_GRIPPER] - last[_GRIPPER]):
                return grasp, events
            command, more, _ = self._along(last, grasp)
            events += [event for event in more if event not in events]
        return command, events

    def _along(
        self, last: Joints, target: Joints
    ) -> tuple[Joints, list[GuardEvent], NDArray[np.float64]]:
        """Return the last pose of the straight way before anything gets worse, and what would.

        The third is how far `last` is outside, shape (15, 3), where anything stops the way.
        """
        stops: list[GuardEvent] = []
        found = np.empty(0)
        if self._has_room(last, target):
            return target, stops, found
        for _ in range(_TRIES):
            path = last + self._shares * (target - last)
            path[-1] = target
            found = self.volumes.violations(path)
            allowed = np.maximum(found[:, :1], 0.0) + _TOLERANCE
            worse = found > allowed
            if not worse.any():
                self._known = target, found[:, -1]
                return target, stops, found[:, 0]
            first = int(worse.any((0, 2)).argmax())
            stops = stops or self._reasons(worse[:, first])
            if first == 1:
                break
            # A shortened way has points of its own, which are checked unless they must be fine.
            bend = self.volumes.bend((target - last) / (PATH_POINTS - 1))
            target = path[first - 1]
            if _stays_below(allowed, found[:, :first], bend=bend):
                return target, stops, found[:, 0]
        return last, stops, found[:, 0]

    def _has_room(self, last: Joints, target: Joints) -> bool:
        """Return whether nothing can come near a bound between two poses, for all that is known."""
        pose, found = self._known
        change = np.maximum(np.abs(last - pose), np.abs(target - pose))
        return bool((found + self.volumes.change(change) < -_ROUNDING).all())

    def _reasons(self, worse: NDArray[np.bool_]) -> list[GuardEvent]:
        """Return the bounds that are worse, shape (15, 3), each once."""
        bounds = (self.volumes.bound(row, axis) for row, axis in np.argwhere(worse).tolist())
        return [GuardEvent(*bound) for bound in dict.fromkeys(bounds)]


def _stays_below(allowed: NDArray[np.float64], found: NDArray[np.float64], *, bend: float) -> bool:
    """Return whether no value exceeds what is allowed, not even between the points of a way.

    `found` has shape (15, n, 3), and `bend` bounds the second derivative from point to point.
    """
    before, after = found[:, :-1], found[:, 1:]
    # A line that rises by half the bend or more has its highest point at its end.
    flat = np.maximum(0.5 * bend - np.abs(after - before), 0.0)
    bulge = flat * flat * (0.5 / bend) if bend > 0 else 0.0
    return bool((np.maximum(before, after) + bulge <= allowed).all())


def _in_radians(proposal: NDArray[np.float64], measured: Joints) -> bool:
    """Return whether a proposal is where the arm is once it is read as radians, and only then."""
    goals: list[float] = proposal[:_GRIPPER].tolist()
    if max(abs(goal) for goal in goals) > math.pi:
        return False
    poses = list(zip(goals, measured[:_GRIPPER].tolist(), strict=True))
    return (
        max(abs(math.degrees(goal) - now) for goal, now in poses) <= _SAME_POSE
        and max(abs(goal - now) for goal, now in poses) > 2 * _SAME_POSE
    )


def _malformed(proposal: object) -> str | None:
    """Return what keeps an object from being six joint values."""
    if not isinstance(proposal, np.ndarray) or isinstance(proposal, np.ma.MaskedArray):
        return "not_an_array"
    array = cast("NDArray[np.generic]", proposal)
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > np.dtype(np.float64).itemsize:
        return "wrong_dtype"
    if array.shape != (len(JOINTS),):
        return "wrong_shape"
    return None if np.isfinite(array).all() else "not_finite"


def _known(measured: Joints) -> Joints:
    if not np.isfinite(measured).all():
        raise ValueError(f"joints read as {measured}; expected finite numbers: check the servo bus")
    return measured


class GuardedArm:
    """An arm that only moves as its guard allows: the only kind that is ever handed out."""

    def __init__(self, arm: Arm, guard: Guard, clock: Clock, *, period_s: float = 0.05) -> None:
        """Wrap `arm`; `period_s` is the longest time that one step may make up for."""
        self.guard, self.clock = guard, clock
        self.events: Counter[str] = Counter()
        """How often each rule changed a command."""
        self._arm = arm
        self._period_s = period_s
        self._last: Joints | None = None
        self._sent_at = -math.inf

    @property
    def limits(self) -> SafetyLimits:
        """Return what the guard allows."""
        return self.guard.limits

    def observe(self, *, frames: bool = True) -> Observation:
        """Return what the arm senses; without frames it costs no picture."""
        measured = frozen(self._arm.joint_pos())
        return Observation(
            stamp=self.clock.now(),
            joint_pos=measured,
            joint_target=self._last_command(measured),
            frames=self._arm.frames() if frames else {},
        )

    def command(self, joint_target: object, *, stamp: float) -> Command:
        """Send the nearest allowed command; `stamp` is that of the observation it answers."""
        now = self.clock.now()
        measured = frozen(self._arm.joint_pos())
        command = self.guard.check(
            joint_target,
            last=self._last_command(measured),
            measured=measured,
            dt=min(now - self._sent_at, self._period_s),
            age_s=now - stamp,
        )
        self._arm.command(command.joint_target)
        self._last, self._sent_at = command.joint_target, now
        self.events.update(event.rule for event in command.events)
        return command

    def hold(self) -> None:
        """Send the last command again: the arm stays where it was told to be."""
        self._arm.command(self._last_command(frozen(self._arm.joint_pos())))

    def latch(self) -> None:
        """Take the measured pose as the last command: after a hold, a hand-move, a mode change.

        Raise `ValueError` where the arm cannot say where it is.
        """
        self._last = _known(frozen(self._arm.joint_pos()))

    def close(self) -> None:
        """Release the arm."""
        self._arm.close()

    def _last_command(self, measured: Joints) -> Joints:
        if self._last is None:
            self._last = _known(measured)
        return self._last
