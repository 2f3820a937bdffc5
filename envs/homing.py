"""Guarded motions that need no policy: to a pose, and in a straight line."""

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints
from robot.guard import GuardedArm
from robot.kinematics import inverse, tool_position

HOMING_SPEED = 90.0
"""Degrees (gripper: hundredths) a second."""
TOOL_SPEED = 0.25
"""Metres a second."""
ARRIVED = 4.0
"""A pose is reached when every measured joint is this near, degrees; a compliant arm sags."""
SETTLE_S = 0.5


class ArmStuckError(RuntimeError):
    """A guarded motion did not arrive."""


def move_joints(arm: GuardedArm, goal: Joints, *, period_s: float) -> None:
    """Move all joints together to `goal`, shape (6,); or raise `ArmStuckError`."""
    start = arm.observe(frames=False).joint_target
    ticks = max(1, int(np.ceil(np.abs(goal - start).max() / (HOMING_SPEED * period_s))))
    for tick in range(1, ticks + 1):
        _tick(arm, start + (goal - start) * tick / ticks, period_s)
    for _ in range(round(SETTLE_S / period_s)):
        if _off(arm, goal) <= ARRIVED:
            return
        _tick(arm, goal, period_s)
    raise ArmStuckError(
        f"the arm stays {_off(arm, goal):.0f} degrees from {np.round(goal)}: is its way free?"
    )


def move_tool(arm: GuardedArm, goal: NDArray[np.float64], *, period_s: float) -> None:
    """Move the tool in a straight line to `goal`, shape (3,), metres, as near as it gets."""
    joints = arm.observe(frames=False).joint_target
    start, limits = tool_position(joints), arm.limits
    ticks = int(np.ceil(np.linalg.norm(goal - start) / (TOOL_SPEED * period_s)))
    for tick in range(1, ticks + 1):
        joints = inverse(
            start + (goal - start) * tick / ticks,
            start=joints,
            lower=limits.joint_lower,
            upper=limits.joint_upper,
        )
        _tick(arm, joints, period_s)


def _tick(arm: GuardedArm, target: Joints, period_s: float) -> None:
    now = arm.clock.now()
    arm.command(target, stamp=now)
    arm.clock.sleep_until(now + period_s)


def _off(arm: GuardedArm, goal: Joints) -> float:
    """Return how far the joints are from a pose, without the gripper, which may hold something."""
    return float(np.abs(arm.observe(frames=False).joint_pos - goal)[:5].max())
