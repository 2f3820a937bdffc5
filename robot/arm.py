"""The shared vocabulary: joints and their units, what an arm senses, what any arm can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot.camera import Frame

JOINTS = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
)
"""Joint names in LeRobot's order; five in degrees, the gripper from 0 (closed) to 100 (open)."""

LOOK_POSE = (-80.0, -97.0, 92.0, 45.0, 90.0)
"""Of all but the gripper, degrees: folded, so that every camera sees the whole table."""

type Joints = NDArray[np.float64]
"""Six joint values, shape (6,), in the order and units of `JOINTS`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What an arm senses at one moment."""

    stamp: float
    """When the joints were read, seconds of the arm's own clock."""
    joint_pos: Joints
    """Measured joint positions, shape (6,)."""
    joint_target: Joints
    """The last command that was sent to the servos, shape (6,)."""
    frames: Mapping[str, Frame]
    """The newest frame of each camera; empty where none were asked for."""


class Arm(Protocol):
    """Six servos and their cameras, without any protection: only `GuardedArm` may hold one."""

    def joint_pos(self) -> Joints:
        """Return the measured joint positions, shape (6,)."""
        ...

    def frames(self) -> Mapping[str, Frame]:
        """Return the newest frame of each camera."""
        ...

    def command(self, joint_target: Joints) -> None:
        """Send one goal to all servos, shape (6,); return at once."""
        ...

    def close(self) -> None:
        """Release the arm."""
        ...


def frozen(values: object) -> Joints:
    """Return `values` as a read-only float64 array."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


_RADIANS_PER_UNIT = frozen([np.pi / 180] * 5 + [(1.745329 + 0.174533) / 100])
_RADIANS_AT_ZERO = frozen([0.0] * 5 + [-0.174533])


def to_radians(joints: Joints) -> NDArray[np.float64]:
    """Return joint values, shape (..., 6), as the model's hinge angles in radians.

    The gripper's 0 to 100 is the model's -0.174533 to 1.745329 rad.
    """
    return joints * _RADIANS_PER_UNIT + _RADIANS_AT_ZERO


def from_radians(angles: NDArray[np.float64]) -> Joints:
    """Return hinge angles in radians, shape (..., 6), as joint values; undoes `to_radians`."""
    return (angles - _RADIANS_AT_ZERO) / _RADIANS_PER_UNIT
