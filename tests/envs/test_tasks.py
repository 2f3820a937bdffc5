"""When a task is done, on ground truth."""

from dataclasses import replace

import numpy as np
import pytest

from envs.tasks import TASKS
from rewarder.goal import FORMS, REACH_HEIGHT
from robot.scene import Truth

CUBE = np.array([0.2, 0.0, 0.0125])
BOWL = np.array([0.2, 0.15, 0.0])
UP = np.array([0.0, 0.0, 0.06])


def truth(**changes: object) -> Truth:
    """Return a cube at rest, an open gripper far away, and a place elsewhere."""
    resting = Truth(
        thing=CUBE,
        thing_start=CUBE,
        thing_speed=0.0,
        place=BOWL,
        tool=CUBE + 2 * UP,
        gripper=45.0,
        held=False,
    )
    return replace(resting, **changes)


def test_there_is_a_task_for_every_sentence() -> None:
    assert TASKS.keys() == FORMS.keys()


@pytest.mark.parametrize("task", ["push", "lift", "place", "stack"])
def test_nothing_is_done_at_the_start(task: str) -> None:
    assert not TASKS[task].success(truth())


def test_a_reach_ends_within_20_mm_of_the_point_over_the_cube() -> None:
    target = CUBE + (0, 0, REACH_HEIGHT)
    assert TASKS["reach"].success(truth(tool=target + (0.019, 0, 0)))
    assert not TASKS["reach"].success(truth(tool=target + (0.021, 0, 0)))


def test_a_push_counts_within_30_mm_once_the_cube_rests() -> None:
    near = CUBE + (0.029, 0, 0)
    assert TASKS["push"].success(truth(place=near))
    assert not TASKS["push"].success(truth(place=near, thing_speed=0.05))
    assert not TASKS["push"].success(truth(place=CUBE + (0.031, 0, 0)))


def test_a_lift_counts_from_50_mm_and_only_while_held() -> None:
    up = CUBE + (0, 0, 0.051)
    assert TASKS["lift"].success(truth(thing=up, held=True))
    assert not TASKS["lift"].success(truth(thing=up))
    assert not TASKS["lift"].success(truth(thing=CUBE + (0, 0, 0.049), held=True))


IN_BOWL = BOWL + (0.02, 0.0, 0.0145)


def test_a_cube_in_the_bowl_counts_once_it_is_left_there() -> None:
    assert TASKS["place"].success(truth(thing=IN_BOWL, tool=IN_BOWL + UP))


@pytest.mark.parametrize(
    "change",
    [
        {"tool": IN_BOWL + 0.7 * UP},
        {"gripper": 15.0},
        {"thing_speed": 0.05},
        {"thing": BOWL + (0.06, 0, 0.0145)},
        {"thing": IN_BOWL + (0, 0, 0.03)},
    ],
)
def test_a_place_needs_all_of_it(change: dict[str, object]) -> None:
    assert not TASKS["place"].success(
        truth(**({"thing": IN_BOWL, "tool": IN_BOWL + 2 * UP} | change))
    )


def test_a_stack_stands_on_the_other_cube() -> None:
    top = CUBE + (0.005, 0, 0.025)
    assert TASKS["stack"].success(truth(thing=top, place=CUBE, tool=top + UP))
    assert not TASKS["stack"].success(truth(thing=top + (0, 0, 0.01), place=CUBE, tool=top + UP))
    assert not TASKS["stack"].success(truth(thing=top + (0.01, 0, 0), place=CUBE, tool=top + UP))
