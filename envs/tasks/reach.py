"""Reach: bring the tool to a point over the thing."""

import numpy as np

from envs.tasks.task import Task, distance
from rewarder.goal import REACH_HEIGHT
from robot.scene import Truth

_ABOVE = np.array([0.0, 0.0, REACH_HEIGHT])


def success(truth: Truth) -> bool:
    """Return whether the tool centre point is within 20 mm of the target point."""
    return distance(truth.tool, truth.thing + _ABOVE) <= 0.02


REACH = Task(name="reach", limit_s=4.0, success=success)
