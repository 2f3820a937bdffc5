"""Reach: bring the tool to a point over the thing."""

from envs.tasks.task import Task, distance
from rewarder.goal import REACH_HEIGHT
from robot.scene import Truth


def success(truth: Truth) -> bool:
    """Return whether the tool centre point is within 20 mm of the target point."""
    return distance(truth.tool, truth.thing + (0.0, 0.0, REACH_HEIGHT)) <= 0.02


REACH = Task(name="reach", limit_s=4.0, success=success)
