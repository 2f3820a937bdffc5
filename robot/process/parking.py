"""The way from anywhere to where an arm rests, over the table and inside its boxes."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints
from robot.guard import Guard
from robot.kinematics import inverse, tool_position

type Bounds = NDArray[np.float64]

CLEAR_Z = 0.12
"""Height of the tool, metres, at which it passes over what lies on the table."""
STILL_DEG = 0.5
"""A joint that moves no further than this rests."""
_GRAIN = 2.0  # degrees between the poses of a way that are looked at
_MARGIN, _TOLERANCE = 0.002, 1e-4  # metres
_TRIES, _REACH = 500, 40.0
"""How many poses a search may try, a tenth of a second, and the longest way to one, degrees."""


def parking_way(guard: Guard, start: Joints, park: Joints) -> list[Joints] | None:
    """Return the poses to pass, `park` last, or None where no way that is tried is free.

    It makes nothing worse than it is at the start, and keeps a margin from what is not near there.
    Tried are: raised first, so that nothing on the table is swept away, then with the wrist as it
    will be, so that it does not hit the shoulder; raised only; raised while the wrist bends;
    straight; folded before it turns; turned before it folds; and what a search finds.
    """
    raised = _raised(guard, start)
    bent = np.concatenate([raised[:3], park[3:5], raised[5:]])
    bending = _raised(guard, np.concatenate([start[:3], park[3:4], start[4:]]))
    folded, turned = np.append(start[:1], park[1:]), np.append(park[:1], start[1:])
    bounds = _bounds(guard, start, park)
    vias: tuple[list[Joints], ...] = ([raised, bent], [raised], [bending], [], [folded], [turned])
    ways = ([*via, park] for via in vias)
    way = next((way for way in ways if _free(guard, [start, *way], bounds)), None)
    return way or _found(guard, start, park, bounds)


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


def _found(guard: Guard, start: Joints, park: Joints, bounds: Bounds) -> list[Joints] | None:
    """Search for a way: a tree grows from the start at random until `park` is free from a leaf.

    A rapidly-exploring random tree (LaValle, 1998); the same start always gives the same way.
    """
    rng = np.random.default_rng(0)
    leaves, before = [start], [0]
    for _ in range(_TRIES):
        wish = rng.uniform(guard.limits.joint_lower, guard.limits.joint_upper)
        wish[5] = start[5]
        nearest = int(np.abs(np.array(leaves) - wish).max(1).argmin())
        way = wish - leaves[nearest]
        leaf = leaves[nearest] + way * min(1.0, _REACH / float(np.abs(way).max()))
        if not _free(guard, [leaves[nearest], leaf], bounds):
            continue
        leaves.append(leaf)
        before.append(nearest)
        if _free(guard, [leaf, park], bounds):
            return [*_branch(leaves, before), park]
    return None


def _branch(leaves: Sequence[Joints], before: Sequence[int]) -> list[Joints]:
    """Return the poses from the root, which is left out, to the newest leaf."""
    branch, leaf = list[Joints](), len(leaves) - 1
    while leaf:
        branch.insert(0, leaves[leaf])
        leaf = before[leaf]
    return branch


def _bounds(guard: Guard, start: Joints, park: Joints) -> Bounds:
    """Return what `Volumes.violations` may be on the way, shape (15, 1, 3)."""
    found = guard.volumes.violations(np.array([start, park]))
    return np.maximum(found[:, :1], np.clip(found[:, 1:], -_MARGIN, 0.0)) + _TOLERANCE


def _free(guard: Guard, poses: Sequence[Joints], bounds: Bounds) -> bool:
    """Return whether a way stays within what it may be, all along."""
    path = np.concatenate([_between(here, there) for here, there in pairwise(poses)])
    return bool((guard.volumes.violations(path) <= bounds).all())


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
