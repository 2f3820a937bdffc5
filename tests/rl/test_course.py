from types import SimpleNamespace

import numpy as np
import pytest

from rl.course import Course, rms_jerk


def moment(stamp, joints, commands=2):
    seen = SimpleNamespace(stamp=stamp, joint_pos=np.asarray(joints, float))
    return {"sensed": SimpleNamespace(observation=seen, commands=(None,) * commands)}


class ClockAt:
    def __init__(self, now):
        self._now = now

    def now(self):
        return self._now


def along(stamps, path):
    """Return a path (T, 6) whose first joint goes as `path` says; the gripper jumps about."""
    return [[path(t), 0, 0, 0, 0, 50 * (i % 2)] for i, t in enumerate(stamps)]


def test_the_jerk_of_a_cubic_is_its_third_derivative():
    stamps = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert rms_jerk(stamps, along(stamps, lambda t: 5 * t**3)) == pytest.approx(30.0)


def test_moments_that_lie_unevenly_give_the_same_jerk():
    stamps = [0.0, 0.1, 0.25, 0.3, 0.45, 0.5]
    assert rms_jerk(stamps, along(stamps, lambda t: 5 * t**3)) == pytest.approx(30.0)


def test_an_even_acceleration_has_no_jerk():
    stamps = [0.0, 0.1, 0.2, 0.3]
    assert rms_jerk(stamps, along(stamps, lambda t: 40 * t**2)) == pytest.approx(0.0)


def test_joints_add_up_as_the_sides_of_a_box_do():
    stamps = [0.0, 0.1, 0.2, 0.3]
    both = [[3 * t**3, 4 * t**3, 0, 0, 0, 0] for t in stamps]
    assert rms_jerk(stamps, both) == pytest.approx(6 * 5)


def test_three_moments_have_no_jerk_to_tell():
    assert rms_jerk([0.0, 0.1, 0.2], [[0] * 6] * 3) is None


def test_a_step_that_was_cut_short_adds_no_second_moment():
    course = Course()
    for stamp in (0.0, 0.1, 0.2, 0.3):
        course.see(moment(stamp, [5 * stamp**3] + [0] * 5))
    course.see(moment(0.3, [5 * 0.3**3] + [0] * 5, commands=0))
    assert course.jerk == pytest.approx(30.0)
    assert course.commands == 8


def test_an_answer_is_as_old_as_its_observation():
    course = Course()
    course.answered(moment(2.0, [0] * 6), ClockAt(2.035))
    assert course.answer_ms == [35.0]


def test_a_clock_that_stands_still_has_no_latency():
    course = Course()
    course.answered(moment(2.0, [0] * 6), ClockAt(2.0))
    assert course.answer_ms == []
