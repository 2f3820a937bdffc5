"""Reach: bring the tool to a point over the thing."""

import numpy as np
from numpy.typing import NDArray

from envs.tasks.task import Task, distance
from rewarder.goal import REACH_HEIGHT
from robot.scene import Truth

_ABOVE = np.array([0.0, 0.0, REACH_HEIGHT])


def target(truth: Truth) -> NDArray[np.float64]:
    """Return the point over the thing, shape (3,)."""
    return truth.thing + _ABOVE


def success(truth: Truth) -> bool:
    """Return whether the tool centre point is within 20 mm of the target point."""
    return distance(truth.tool, target(truth)) <= 0.02


REACH = Task(name="reach", limit_s=4.0, success=success)
