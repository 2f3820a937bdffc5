"""What a task is: its time limit and when, on ground truth, it is done."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot.scene import Truth

AT_REST = 0.02
"""Below this speed a thing is at rest, metres a second."""
OPEN_GRIPPER = 25.0
"""From this opening on the jaws clearly hold no cube (one is held at 15)."""
TOOL_AWAY = 0.05
"""From this distance on the tool has let go and left, metres."""
HOLD_S = 0.5
"""A success counts once it has held this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One of the things an arm can be asked to do; judged on ground truth, on the twin only."""

    name: str
    limit_s: float
    success: Callable[[Truth], bool]


def let_go(truth: Truth) -> bool:
    """Return whether the thing rests, the gripper is open and the tool has left."""
    away = distance(truth.tool, truth.thing) >= TOOL_AWAY
    return away and truth.gripper >= OPEN_GRIPPER and truth.thing_speed <= AT_REST


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the distance of two points, metres."""
    return float(np.linalg.norm(a - b))


def place_of(truth: Truth) -> NDArray[np.float64]:
    """Return where the place is; raise ValueError in a scene without one."""
    if truth.place is None:
        raise ValueError("the scene holds no place, but the task needs one")
    return truth.place
