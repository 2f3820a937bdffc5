"""Push: slide the thing to a marker on the table."""

from envs.tasks.task import AT_REST, Task, distance, place_of
from robot.scene import Truth


def success(truth: Truth) -> bool:
    """Return whether the thing's centre rests within 30 mm of the marker, seen from above."""
    off = distance(truth.thing[:2], place_of(truth)[:2])
    return off <= 0.03 and truth.thing_speed <= AT_REST


PUSH = Task(name="push", limit_s=8.0, success=success)
