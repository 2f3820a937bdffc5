"""Stack: put the thing on top of another cube and leave it there."""

from envs.tasks.task import Task, distance, let_go, place_of
from robot.scene import CUBE_EDGE, Truth


def success(truth: Truth) -> bool:
    """Return whether the thing rests on the other cube and the open gripper has left it."""
    above = truth.thing[2] - place_of(truth)[2]
    level = abs(above - CUBE_EDGE) <= 0.005
    over = distance(truth.thing[:2], place_of(truth)[:2]) <= CUBE_EDGE / 2
    return bool(level and over and let_go(truth))


STACK = Task(name="stack", limit_s=12.0, success=success)
