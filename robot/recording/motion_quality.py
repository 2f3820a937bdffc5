"""How a recorded motion is: how jerky, how well followed, how often at a limit, how often idle."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IDLE_SPEED = 1.0
"""Slower than this every joint is idle, degrees a second."""
LEAD = 12.0
"""A command this far from the measured joint asks for more than the servo gives, degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """The motion of one episode."""

    seconds: float
    jerk: float
    """Mean of the greatest joint's third difference, degrees a second cubed; encoder steps alone
    make some of it, so compare episodes of one rate."""
    tracking: float
    """Mean distance of the worst joint from its command, degrees."""
    saturated: float
    """Share of the steps in which a command is more than `LEAD` from its joint."""
    idle: float
    """Share of the steps in which no joint moves."""
    idle_ends_s: float
    """Seconds without motion at beginning and end together: cut them, or start later."""


def motion_of(
    state: NDArray[np.float64], action: NDArray[np.float64], *, fps: float, actions: str
) -> Motion:
    """Return how a motion is, from measured poses and actions, shape (T, 6)."""
    arm = state[:, :5].astype(np.float64)
    command = _commands(arm, action[:, :5].astype(np.float64), actions)
    third = np.abs(np.diff(arm, 3, axis=0)) * fps**3
    # A command shows in the pose of the next step.
    off = np.abs(command[:-1] - arm[1:]) if len(arm) > 1 else np.zeros((1, 5))
    speed = np.abs(np.diff(arm, axis=0)).max(1) * fps if len(arm) > 1 else np.zeros(1)
    moving = np.flatnonzero(speed > IDLE_SPEED)
    ends = len(speed) if not len(moving) else moving[0] + len(speed) - 1 - moving[-1]
    return Motion(
        seconds=len(arm) / fps,
        jerk=float(third.max(1).mean()) if len(third) else 0.0,
        tracking=float(off.mean(0).max()),
        saturated=float((off.max(1) > LEAD).mean()),
        idle=float((speed <= IDLE_SPEED).mean()),
        idle_ends_s=float(ends / fps),
    )


def _commands(
    arm: NDArray[np.float64], action: NDArray[np.float64], actions: str
) -> NDArray[np.float64]:
    """Return the commands that actions of any kind stand for, shape (T, 5)."""
    if actions == "relative":
        return arm + action
    if actions == "delta":
        return arm[0] + np.cumsum(action, axis=0)
    return action
