"""Place: put the thing in the bowl and leave it there."""

from envs.tasks.task import Task, distance, let_go, place_of
from robot.scene import BOWL_RADIUS, CUBE_EDGE, Truth


def success(truth: Truth) -> bool:
    """Return whether the thing rests inside the bowl and the open gripper has left it."""
    inside = distance(truth.thing[:2], place_of(truth)[:2]) <= BOWL_RADIUS
    low = truth.thing[2] - place_of(truth)[2] <= CUBE_EDGE
    return bool(inside and low and let_go(truth))


PLACE = Task(name="place", limit_s=10.0, success=success)
