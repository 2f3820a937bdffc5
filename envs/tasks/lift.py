"""Lift: hold the thing up."""

from envs.tasks.task import Task
from robot.scene import Truth


def success(truth: Truth) -> bool:
    """Return whether the thing is held at least 50 mm above its start."""
    return bool(truth.held and truth.thing[2] - truth.thing_start[2] >= 0.05)


LIFT = Task(name="lift", limit_s=6.0, success=success)
