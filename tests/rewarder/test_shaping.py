from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarder.shaping import PROGRESS, REST, Moment, lift, place, push, reach, stack

BOWL = np.array([0.20, 0.15, 0.0])
FAR = np.array([0.22, -0.05, REST])
UP = np.array([0.0, 0.0, 1.0])


def moment(thing, jaw, *, place=BOWL, held=False, command=10.0, gap=0.028, moved=0.0):
    thing, jaw = np.array(thing, float), np.array(jaw, float)
    across = np.array([0.0, 1.0, 0.0])
    return Moment(
        tool=jaw, jaw=jaw, across=across, gap=gap, command=command,
        held=held, thing=thing, place=place, moved=moved,
    )  # fmt: skip


def carried(thing, **more):
    return moment(thing, thing, held=True, **more)


IN_BOWL = BOWL + REST * UP
OVER_BOWL = BOWL + 0.06 * UP
PLACE_STORY = [
    moment(FAR, FAR + 0.15 * UP, command=45, gap=0.07),
    moment(FAR, FAR + 0.05 * UP, command=45, gap=0.07),
    moment(FAR, FAR, command=45, gap=0.07),
    moment(FAR, FAR, command=20, gap=0.035),
    carried(FAR),
    carried(FAR + 0.02 * UP),
    carried(FAR + 0.05 * UP),
    carried((FAR + BOWL) / 2 + 0.05 * UP),
    carried(OVER_BOWL),
    moment(OVER_BOWL, OVER_BOWL, command=45, moved=0.02),
    moment(IN_BOWL, IN_BOWL + 0.045 * UP, command=45, moved=0.02),
    moment(IN_BOWL, IN_BOWL + 0.08 * UP, command=45),
]


def test_every_stage_of_placing_pays_more_than_the_one_before():
    progress = [place(stage)[1] for stage in PLACE_STORY]
    assert np.diff(progress).min() > 0
    assert progress[-1] == 1.0


def test_placing_succeeds_at_its_last_stage_only():
    assert [place(stage)[0] for stage in PLACE_STORY].index(True) == len(PLACE_STORY) - 1


def test_opening_over_the_bowl_pays_by_command_while_the_jaw_is_still_blocked():
    shut, opened = carried(OVER_BOWL), carried(OVER_BOWL, command=45)
    assert place(opened)[1] > place(shut)[1]


def test_every_bit_of_letting_go_over_the_bowl_pays():
    progress = [place(carried(OVER_BOWL, command=command))[1] for command in (0, 5, 10, 20, 30)]
    assert np.diff(progress).min() > 0


def test_nothing_short_of_success_is_as_good_as_success():
    # The tool has left, but the jaws' middle has not; or all but rest is there.
    beside = IN_BOWL + np.array([0.0, 0.05, 0.0])
    undone = [
        moment(IN_BOWL, beside, command=100),
        moment(IN_BOWL, IN_BOWL + 0.2 * UP, command=100, moved=0.005),
    ]
    for stage in undone:
        assert not place(stage)[0]
        assert place(stage)[1] < 0.95


def test_hovering_high_over_the_bowl_pays_less_than_low():
    assert place(carried(BOWL + 0.2 * UP))[1] < place(carried(OVER_BOWL))[1]


def test_a_shut_gripper_on_top_of_the_cube_has_not_closed_around_it():
    above = FAR + 0.015 * UP
    shut, around = moment(FAR, above, gap=0.012), moment(FAR, above, gap=0.028)
    assert lift(shut)[1] < lift(around)[1]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"command": 10.0},
        {"moved": 0.01},
        {"tool": IN_BOWL + 0.03 * UP},
        {"thing": IN_BOWL + 0.05 * UP},
        {"thing": IN_BOWL + np.array([0.06, 0.0, 0.0])},
    ],
)
def test_placing_needs_all_of_its_conditions(spoilt):
    assert not place(replace(PLACE_STORY[-1], **spoilt))[0]


def test_lifting_needs_a_held_cube_50_mm_up():
    assert lift(carried(FAR + 0.06 * UP)) == (True, 1.0)
    assert not lift(carried(FAR + 0.045 * UP))[0]
    assert not lift(moment(FAR + 0.06 * UP, FAR + 0.06 * UP))[0]


def test_reaching_is_to_be_over_the_thing():
    assert reach(moment(FAR, FAR + 0.06 * UP)) == (True, 1.0)
    assert not reach(moment(FAR, FAR))[0]


def test_pushing_pays_for_being_behind_the_cube_rather_than_before_it():
    marker = FAR + np.array([0.0, 0.1, -REST])
    behind = moment(FAR, FAR - np.array([0.0, 0.035, 0.0]), place=marker)
    before = moment(FAR, FAR + np.array([0.0, 0.035, 0.0]), place=marker)
    assert push(behind)[1] > push(before)[1]
    assert push(moment(marker + REST * UP, FAR, place=marker)) == (True, 1.0)


def test_stacking_pays_for_setting_down_then_opening_then_leaving():
    other = np.array([0.2, 0.1, REST])
    top = other + 2 * REST * UP
    story = [
        carried(top + 0.05 * UP, place=other),
        carried(top + 0.02 * UP, place=other),
        carried(top, place=other),
        moment(top, top, place=other, command=45),
        moment(top, top + 0.06 * UP, place=other, command=45),
    ]
    results = [stack(stage) for stage in story]
    assert np.diff([progress for _, progress in results]).min() > 0
    assert [success for success, _ in results] == [False] * 4 + [True]


points = st.tuples(*[st.floats(-1, 1)] * 3)


@given(st.sampled_from(sorted(PROGRESS)), points, points, points, st.booleans(), st.floats(0, 100))
def test_progress_is_between_0_and_1_and_1_at_success(task, thing, jaw, other, held, command):
    now = moment(thing, jaw, place=np.array(other), held=held, command=command)
    success, progress = PROGRESS[task](now)
    assert 0.0 <= progress <= 1.0
    assert progress == 1.0 or not success
