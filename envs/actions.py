"""Rows of an action chunk as joint targets, the only place where they are read."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints
from robot.kinematics import inverse, tool_position
from robot.limits import SafetyLimits

TOOL_ROLL_DEG = 90.0
"""Wrist roll with the jaws to the sides, which leaves the front camera's view free."""
OPEN = 45.0
"""Widest commanded opening: about 70 mm between the tips, wide enough for a cube at any yaw."""
MARGIN_M = 0.002
"""The tool is steered this far inside its box: a straight way in joint space bows about as much."""


class ActionSpace(Protocol):
    """A way to read actions, each number within its bounds."""

    @property
    def name(self) -> str:
        """Return the name that a `PolicySpec` gives."""
        ...

    @property
    def dim(self) -> int:
        """Return how many numbers an action has."""
        ...

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the least and the greatest action, shape (dim,) each."""
        ...

    def joint_target(self, action: NDArray[np.float32], last: Joints) -> Joints:
        """Return where the joints shall be a policy tick after the command `last`, shape (6,)."""
        ...

    def action(self, target: Joints, last: Joints) -> NDArray[np.float32]:
        """Return what `joint_target` turns into `target`, as near as an action can say it."""
        ...


class EeDelta:
    """Move the tool: x, y, z in steps of at most `step_m`, and the gripper's opening, absolute."""

    name = "ee_delta"
    dim = 4

    def __init__(self, limits: SafetyLimits, *, step_m: float = 0.025) -> None:
        self._limits = limits
        self._step_m = step_m

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return -1 and 1 for each number."""
        return _shares(self.dim)

    def joint_target(self, action: NDArray[np.float32], last: Joints) -> Joints:
        """Return the joints that bring the tool to its next place, kept inside the tool box."""
        box = self._limits.tool_box
        move = self._step_m * np.clip(action[:3], -1.0, 1.0)
        inside = box.lower + MARGIN_M, box.upper - MARGIN_M
        position = np.clip(tool_position(last) + move, *inside)
        target = inverse(
            position,
            start=last,
            lower=self._limits.joint_lower,
            upper=self._limits.joint_upper,
            roll=TOOL_ROLL_DEG,
        )
        return _with_gripper(target, action[3])

    def action(self, target: Joints, last: Joints) -> NDArray[np.float32]:
        """Return how far the tool and the gripper have gone from `last`, in steps."""
        move = (tool_position(target) - tool_position(last)) / self._step_m
        return _action([*move, _opening(target)])


class JointDelta:
    """Move five joints in steps of at most `step_deg`, and the gripper's opening, absolute."""

    name = "joint_delta"
    dim = 6

    def __init__(self, limits: SafetyLimits, *, step_deg: float = 8.0) -> None:
        self._limits = limits
        self._step_deg = step_deg

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return -1 and 1 for each number."""
        return _shares(self.dim)

    def joint_target(self, action: NDArray[np.float32], last: Joints) -> Joints:
        """Return the last command plus the step, within the joints' ranges."""
        target = last + self._step_deg * np.clip(action, -1.0, 1.0)
        target = np.clip(target, self._limits.joint_lower, self._limits.joint_upper)
        return _with_gripper(target, action[5])

    def action(self, target: Joints, last: Joints) -> NDArray[np.float32]:
        """Return how far the joints and the gripper have gone from `last`, in steps."""
        return _action([*((target - last) / self._step_deg)[:5], _opening(target)])


class JointAbsolute:
    """Say where the five joints and the gripper shall be: -1 and 1 are the ends of each range."""

    name = "joint_absolute"
    dim = 6

    def __init__(self, limits: SafetyLimits) -> None:
        self._lower, self._upper = limits.joint_lower, limits.joint_upper

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return -1 and 1 for each number."""
        return _shares(self.dim)

    def joint_target(self, action: NDArray[np.float32], last: Joints) -> Joints:  # noqa: ARG002
        """Return the named place in the joints' ranges; the guard limits how fast it is reached."""
        share = (np.clip(action.astype(np.float64), -1.0, 1.0) + 1) / 2
        return self._lower + share * (self._upper - self._lower)

    def action(self, target: Joints, last: Joints) -> NDArray[np.float32]:  # noqa: ARG002
        """Return where `target` is within the joints' ranges."""
        return _action(2 * (target - self._lower) / (self._upper - self._lower) - 1)


class JointPos:
    """Say where the five joints and the gripper shall be, in the arm's own units.

    The space of policies that were trained on recordings: LeRobot's absolute targets.
    """

    name = "joint_pos"
    dim = 6

    def __init__(self, limits: SafetyLimits) -> None:
        self._lower, self._upper = limits.joint_lower, limits.joint_upper

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the ends of the joints' ranges."""
        return self._lower.astype(np.float32), self._upper.astype(np.float32)

    def joint_target(self, action: NDArray[np.float32], last: Joints) -> Joints:  # noqa: ARG002
        """Return the named place; the guard limits how fast it is reached."""
        return np.clip(action.astype(np.float64), self._lower, self._upper)

    def action(self, target: Joints, last: Joints) -> NDArray[np.float32]:  # noqa: ARG002
        """Return the target itself."""
        return np.clip(target, self._lower, self._upper).astype(np.float32)


def _shares(dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return -np.ones(dim, np.float32), np.ones(dim, np.float32)


def _with_gripper(target: Joints, action: np.float32) -> Joints:
    target = target.copy()
    target[5] = OPEN * (float(np.clip(action, -1.0, 1.0)) + 1) / 2
    return target


def _opening(target: Joints) -> float:
    return 2 * target[5] / OPEN - 1


def _action(values: object) -> NDArray[np.float32]:
    return np.clip(np.asarray(values, np.float32), -1.0, 1.0)
