"""Guarded motions that need no policy: to a pose, and in a straight line."""

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints
from robot.guard import SafeArm
from robot.journal import End
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


class ArmStopped(Exception):
    """The arm obeys no policy for the time being, and the message says why and what to do."""

    def __init__(self, sentence: str, *, end: End = "fault") -> None:
        """Say why; `end` is what becomes of an episode that this cuts short."""
        super().__init__(sentence)
        self.end: End = end


def move_joints(arm: SafeArm, goal: Joints, *, period_s: float) -> None:
    """Move all joints together to `goal`, shape (6,); or raise `ArmStuckError`."""
    start = arm.observe(frames=False).joint_target
    ticks = max(1, int(np.ceil(np.abs(goal - start).max() / (HOMING_SPEED * period_s))))
    for tick in range(1, ticks + 1):
        _tick(arm, start + (goal - start) * tick / ticks, period_s)
    for _ in range(round(SETTLE_S / period_s)):
        if _off(arm, goal).max() <= ARRIVED:
            return
        _tick(arm, goal, period_s)
    off = _off(arm, goal)
    joint = JOINTS[int(off.argmax())]
    raise ArmStuckError(
        f"{joint} stays {off.max():.0f} degrees from {np.round(goal)}: is the arm's way free?"
    )


def move_tool(arm: SafeArm, goal: NDArray[np.float64], *, period_s: float) -> None:
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


def _tick(arm: SafeArm, target: Joints, period_s: float) -> None:
    now = arm.clock.now()
    # The stamp is of the arm's own clock, which may be another machine's.
    command = arm.command(target, stamp=arm.observe(frames=False).stamp)
    if command.human:
        raise ArmStopped(
            "a person moves the arm; practice goes on once they let go", end="operator"
        )
    arm.clock.sleep_until(now + period_s)


def _off(arm: SafeArm, goal: Joints) -> NDArray[np.float64]:
    """Return how far five joints are from a pose; the gripper may hold something, shape (5,)."""
    return np.abs(arm.observe(frames=False).joint_pos - goal)[:5]
