"""How far a task has come at one moment: dense progress that pays for finishing, not for hovering.

Each function returns whether the goal looks reached and a progress from 0 to 1, which is 1 where
it is reached. Success is judged a little more strictly than the task defines it, because positions
come from pictures. What pays for opening is the *commanded* opening: a jaw that was blocked by
a cube opens visibly only after the command has opened by a quarter of a radian.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewarder.goal import REACH_HEIGHT
from robot.scene import CUBE_EDGE

type Vector = NDArray[np.float64]

REST = CUBE_EDGE / 2
"""Height of a cube's centre on the table, metres."""
TOOL_AWAY = 0.053
"""From this distance on the tool has left a thing, metres."""
OPEN = 27.0
"""From this commanded opening on the gripper is open."""
AT_REST = 0.004
"""Metres that a thing at rest seems to move from one observation to the next."""
WIDE_GAP, CUBE_GAP, EMPTY_GAP = 0.070, 0.028, 0.019
"""Between the jaws when open, around a cube, and with nothing between them, metres."""
CEILING = 0.09
"""Carrying a thing higher than this over its rest does not pay, metres."""
IN_BOWL, OVER_BOWL = 0.042, 0.035
"""Horizontal distance from the bowl's centre, metres."""
IN_BOWL_HEIGHT = 0.030
"""A cube lower than this over the bowl's foot is in it, metres."""
OVER_CUBE = 0.011
"""Horizontal distance between the centres of stacked cubes, metres."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """What can be known from the sensors at one observation; metres, base frame."""

    tool: Vector
    """Tool centre point, shape (3,)."""
    jaw: Vector
    """Middle between the jaws, shape (3,)."""
    across: Vector
    """Unit vector from jaw to jaw, shape (3,)."""
    gap: float
    """Between the jaws, as measured."""
    command: float
    """Commanded opening of the gripper, 0 to 100."""
    held: bool
    thing: Vector
    """Centre, shape (3,)."""
    place: Vector | None
    """Centre (bowl, marker: on the table), shape (3,)."""
    moved: float
    """How far the thing comes from one step to the next."""

    @property
    def from_jaw(self) -> float:
        """Return the distance of the thing from the middle between the jaws."""
        return distance(self.thing, self.jaw)

    @property
    def apart(self) -> float:
        """Return how far the tool is from the thing, and the middle between the jaws as well."""
        return min(distance(self.thing, self.tool), self.from_jaw)

    @property
    def let_go(self) -> bool:
        """Return whether the thing rests, the gripper is open and the tool has left."""
        return self.apart >= TOOL_AWAY and self.command >= OPEN and self.moved <= AT_REST


type Progress = Callable[[Moment], tuple[bool, float]]


def distance(a: Vector, b: Vector) -> float:
    """Return the distance of two points."""
    return math.sqrt(float((a - b) @ (a - b)))


def near(x: float, scale: float) -> float:
    """Return 1 at x = 0, falling to 0 the faster the larger `scale` is."""
    return 1.0 - math.tanh(scale * x)


def ramp(x: float, start: float, end: float) -> float:
    """Return 0 up to `start`, 1 from `end` on, and a straight line between."""
    return min(1.0, max(0.0, (x - start) / (end - start)))


def _place_of(moment: Moment) -> Vector:
    if moment.place is None:
        raise ValueError("this goal needs a place, and the moment has none")
    return moment.place


def _grasp(moment: Moment) -> float:
    """Return up to 1.8 for reaching, closing around and holding the thing."""
    apart = moment.from_jaw
    reach = 0.5 * near(apart, 5) + 0.5 * near(apart, 30)
    if moment.held:
        return reach + 0.8
    # A gripper that is shut above the cube must not look as if it had closed around it.
    around = apart < 0.016 and moment.gap > EMPTY_GAP
    return reach + 0.4 * around * ramp(WIDE_GAP - moment.gap, 0.0, WIDE_GAP - CUBE_GAP)


def _lifted(moment: Moment, enough: float) -> float:
    """Return from 0 on the table to 1 at `enough` metres over it, as long as the jaws are about."""
    return ramp(moment.thing[2] - REST, 0.0, enough) if moment.from_jaw < 0.05 else 0.0


def _low(moment: Moment) -> float:
    """Return 1 up to the ceiling, less above."""
    return near(max(0.0, float(moment.thing[2]) - REST - CEILING), 8)


def _opening(moment: Moment) -> float:
    """Return from 0 for the firmest squeeze to 1 for open: every bit of letting go pays."""
    return ramp(moment.command, 0.0, 30.0)


def _released(moment: Moment) -> float:
    """Return up to 1 for opening the gripper, and then for leaving."""
    opening = _opening(moment)
    away = ramp(moment.apart, 0.012, TOOL_AWAY)
    return 0.5 * opening + 0.5 * opening * away


def _share(success: bool, reward: float, most: float) -> tuple[bool, float]:
    return success, 1.0 if success else min(1.0, max(0.0, reward / most))


def reach(moment: Moment) -> tuple[bool, float]:
    """Judge the distance of the tool from the point over the thing."""
    off = distance(moment.tool, moment.thing + np.array([0.0, 0.0, REACH_HEIGHT]))
    return _share(off <= 0.018, 0.5 * near(off, 5) + 0.5 * near(off, 20), 2.0)


def push(moment: Moment) -> tuple[bool, float]:
    """Judge the tool's way to the point behind the thing, and the thing's way to the marker."""
    way = (_place_of(moment) - moment.thing)[:2]
    off = math.sqrt(float(way @ way))
    along = way / max(off, 1e-6)
    # The closed jaws are 33 mm wide from jaw to jaw and 14 mm thin.
    wide = float(along @ moment.across[:2])
    stand_off = 0.021 + math.hypot(0.0165 * wide, 0.007 * math.sqrt(max(0.0, 1.0 - wide * wide)))
    behind = np.array([*(moment.thing[:2] - stand_off * along), REST])
    apart = distance(moment.jaw, behind)
    reward = 0.5 * near(apart, 5) + 0.5 * near(apart, 20) + 2.5 * max(-0.5, 1.0 - off / 0.12)
    # Open jaws straddle the thing, and it slips away between them.
    closed = 0.5 * (1.0 - ramp(moment.command, 0.0, 20.0))
    return _share(off <= 0.027 and moment.moved <= AT_REST, reward + closed, 5.0)


def lift(moment: Moment) -> tuple[bool, float]:
    """Judge the grasp and the height over the table."""
    reward = _grasp(moment) + 2.5 * _lifted(moment, 0.065)
    return _share(moment.held and float(moment.thing[2]) - REST >= 0.053, reward, 5.3)


def _carried(off: float) -> float:
    """Return from 0 far from the place to 3 over it.

    The straight line reaches as far as the arm does, where the curve is flat: without it a thing
    that is held firmly far away is as good as one on its way.
    """
    return 1.5 * near(off, 6) + 1.5 * (1.0 - ramp(off, 0.0, 0.38))


def place(moment: Moment) -> tuple[bool, float]:
    """Judge grasp, carrying, release into the bowl and leaving it."""
    bowl = _place_of(moment)
    off = distance(moment.thing[:2], bowl[:2])
    if off <= IN_BOWL and moment.thing[2] - bowl[2] <= IN_BOWL_HEIGHT:
        return _share(moment.let_go, 6.5 + 2.8 * _released(moment), 10.0)
    carried = 1.5 + _carried(max(0.0, off - 0.02))
    if off <= OVER_BOWL:
        return _share(False, 1.8 + carried * _low(moment) + _opening(moment), 10.0)
    lifted = _lifted(moment, 0.035) * _low(moment)
    return _share(False, _grasp(moment) + lifted * carried, 10.0)


def stack(moment: Moment) -> tuple[bool, float]:
    """Judge grasp, carrying, setting down on the other cube and leaving it."""
    other = _place_of(moment)
    off = distance(moment.thing[:2], other[:2])
    above = abs(float(moment.thing[2] - other[2]) - CUBE_EDGE)
    if off <= OVER_CUBE and above <= 0.007:
        return _share(moment.let_go, 6.9 + 2.8 * _released(moment), 10.4)
    lifted = _lifted(moment, 0.035) * _low(moment)
    lowered = 0.6 * near(above, 20) if off <= OVER_CUBE and moment.held else 0.0
    carried = 1.5 + _carried(max(0.0, off - 0.005))
    return _share(False, _grasp(moment) + lifted * carried + lowered, 10.4)


PROGRESS: Mapping[str, Progress] = {
    "reach": reach,
    "push": push,
    "lift": lift,
    "place": place,
    "stack": stack,
}
"""By task."""
