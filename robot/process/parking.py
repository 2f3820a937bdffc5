"""The way from anywhere to where an arm rests, over the table and inside its boxes."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from robot.arm import Joints
from robot.guard import Guard
from robot.kinematics import inverse, tool_position

CLEAR_Z = 0.12
"""Height of the tool, metres, at which it passes over what lies on the table."""
STILL_DEG = 0.5
"""A joint that moves no further than this rests."""
_GRAIN = 2.0  # degrees between the poses of a way that are looked at
_TOLERANCE = 1e-4


def parking_way(guard: Guard, start: Joints, park: Joints) -> list[Joints] | None:
    """Return the poses to pass, `park` last, or None where no way that is tried is free.

    Tried are: raised first, so that nothing on the table is swept away, then with the wrist as it
    will be, so that it does not hit the shoulder; raised only; straight; folded before it turns;
    turned before it folds.
    """
    raised = _raised(guard, start)
    bent = np.concatenate([raised[:3], park[3:5], raised[5:]])
    folded, turned = np.append(start[:1], park[1:]), np.append(park[:1], start[1:])
    ways = ([raised, bent, park], [raised, park], [park], [folded, park], [turned, park])
    return next((way for way in ways if _free(guard, [start, *way])), None)


def _raised(guard: Guard, start: Joints) -> Joints:
    position = tool_position(start)
    position[2] = max(position[2], CLEAR_Z)
    return inverse(
        position,
        start=start,
        lower=guard.limits.joint_lower,
        upper=guard.limits.joint_upper,
        iterations=20,
        tilt_weight=0.0,
    )


def _free(guard: Guard, poses: Sequence[Joints]) -> bool:
    """Return whether nothing gets worse than it is at the start, all along."""
    path = np.concatenate([_between(here, there) for here, there in pairwise(poses)])
    found = guard.volumes.violations(path)
    return bool((found <= np.maximum(found[:, :1], 0.0) + _TOLERANCE).all())


def _between(here: Joints, there: Joints) -> Joints:
    count = int(np.abs(there - here).max() / _GRAIN) + 2
    return here + np.linspace(0.0, 1.0, count)[:, None] * (there - here)


class Stillness:
    """How long an arm has been where it is."""

    def __init__(self, pose: Joints, now: float) -> None:
        """Start with a pose that has just been reached."""
        self._pose, self._since = pose, now

    def update(self, pose: Joints, now: float) -> None:
        """Note where the arm is."""
        if float(np.abs(pose - self._pose).max()) > STILL_DEG:
            self._pose, self._since = pose, now

    def restart(self, now: float) -> None:
        """Count from `now` on."""
        self._since = now

    def seconds(self, now: float) -> float:
        """Return for how long no joint has moved."""
        return now - self._since
