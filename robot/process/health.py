"""When servos are in trouble: stall, overload, heat, supply; each only if it persists."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robot.arm import JOINTS, Joints
from robot.process.servos import ServoHealth

PERSISTS_S = 0.5
"""How long a trouble lasts before it is one."""
MOVING_S = 2.0
"""How long a joint may push as hard as it can while it moves."""
_STILL_S = 0.2
_OVERLOAD = 32
_ERRORS = (
    (4, "overheated"),
    (_OVERLOAD, "overloaded"),
    (8, "draws too much current"),
    (1, "voltage"),
)
_GRIPPER = JOINTS.index("gripper")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """What servos may show; a joint that exceeds it for `PERSISTS_S` stops the arm."""

    stall_load: float = 0.5
    """Load of a joint that pushes without moving."""
    stall_lag: float = 4.0
    """How far it is from its command then, degrees."""
    still: float = 1.0
    """Motion within 0.2 s that counts as none, degrees."""
    overload: float = 0.95
    """Load that no joint needs for long."""
    current_a: float = 2.2
    temperature_c: float = 65.0
    """Below the 70 °C at which the servo lets go by itself."""
    lowest_v: float = 4.5
    sag: float = 0.75
    """Least share of the voltage that was read first."""
    highest_v: float = 13.5


class _Trouble(NamedTuple):
    sentence: str
    patience_s: float = PERSISTS_S


class HealthWatch:
    """Turns a series of readings into at most one sentence: why the arm has to stop."""

    def __init__(self, limits: HealthLimits | None = None) -> None:
        """Start with no history."""
        self._limits = limits or HealthLimits()
        self._since: dict[str, float] = {}
        self._poses: deque[tuple[float, Joints]] = deque()
        self._first_v: float | None = None

    def update(
        self, now: float, health: ServoHealth, *, commanded: Joints, achieved: Joints
    ) -> str | None:
        """Return the sentence of the trouble that has lasted long enough, else None."""
        self._poses.append((now, achieved))
        while len(self._poses) > 1 and self._poses[1][0] <= now - _STILL_S:
            self._poses.popleft()
        if self._first_v is None:
            self._first_v = float(np.median(health.voltage_v))
        found = dict(self._troubles(health, commanded=commanded, achieved=achieved))
        self._since = {name: self._since.get(name, now) for name in found}
        for name, trouble in found.items():
            if now - self._since[name] >= trouble.patience_s - 1e-6:
                return trouble.sentence
        return None

    def _troubles(
        self, health: ServoHealth, *, commanded: Joints, achieved: Joints
    ) -> Iterator[tuple[str, _Trouble]]:
        """Yield by name whatever is wrong at this moment."""
        moved = np.ptp([pose for _, pose in self._poses], axis=0) > self._limits.still
        lag = np.abs(commanded - achieved)
        for i, joint in enumerate(JOINTS):
            heat = float(health.temperature_c[i])
            yield from self._effort(
                i,
                load=abs(float(health.load[i])),
                current=float(health.current_a[i]),
                lag=float(lag[i]),
                moves=bool(moved[i]),
            )
            yield from self._supply(joint, float(health.voltage_v[i]))
            # One that holds something protects itself by holding it with less force.
            forgiven = _OVERLOAD if i == _GRIPPER else 0
            yield from _errors(joint, health.errors[i] & ~forgiven)
            if heat >= self._limits.temperature_c:
                text = f"{joint} is hot: {heat:.0f} °C; let it cool, then reset"
                yield f"heat {joint}", _Trouble(text)
            if not health.torque[i]:
                text = f"{joint} has lost its torque: check its supply and plugs, then reset"
                yield f"torque {joint}", _Trouble(text)

    def _effort(
        self, i: int, *, load: float, current: float, lag: float, moves: bool
    ) -> Iterator[tuple[str, _Trouble]]:
        """Yield what is wrong with how hard a joint pushes."""
        limits, joint = self._limits, JOINTS[i]
        # A gripper that holds something pushes without moving, and its force is capped.
        if i != _GRIPPER and not moves and load >= limits.stall_load and lag >= limits.stall_lag:
            text = f"{lag:.0f}° from its command at {load:.0%} load; clear what blocks it"
            yield f"stall {joint}", _Trouble(f"{joint} is stalled: {text}, then reset")
        # A joint at full speed uses all it has, for as long as a long way takes.
        patience = MOVING_S if moves else PERSISTS_S
        if load >= limits.overload:
            text = f"{joint} is overloaded: {load:.0%} load; take the load off, then reset"
            yield f"overload {joint}", _Trouble(text, patience)
        if current >= limits.current_a:
            text = f"{joint} draws {current:.1f} A; take the load off, then reset"
            yield f"current {joint}", _Trouble(text, patience)

    def _supply(self, joint: str, volts: float) -> Iterator[tuple[str, _Trouble]]:
        limits = self._limits
        least = max(limits.lowest_v, limits.sag * (self._first_v or 0.0))
        if not least <= volts <= limits.highest_v:
            text = f"{volts:.1f} V, not {least:.1f} to {limits.highest_v:.1f} V"
            yield (
                f"voltage {joint}",
                _Trouble(f"{joint} has a supply of {text}; check supply and plugs, then reset"),
            )


def _errors(joint: str, error: int) -> Iterator[tuple[str, _Trouble]]:
    for bit, meaning in _ERRORS:
        if error & bit:
            mend = "reset, and if it stays, switch the supply off and on"
            yield f"error {bit} {joint}", _Trouble(f"{joint} reports a fault: {meaning}; {mend}")
