import numpy as np
import pytest

from robot.arm import to_radians
from robot.emulator.bus_judge import BusJudge
from robot.kinematics import tool_position
from robot.limits import SafetyLimits
from robot.volumes import MOVING_LINKS, Volumes
from tests.robot.emulated import ROOT

SAFETY = ROOT / "conf" / "safety" / "default.yaml"
FREE = np.array([0.0, -30.0, 30.0, 60.0, 90.0, 30.0])
TICK = 0.02
BODIES = dict(zip(MOVING_LINKS, MOVING_LINKS, strict=True)) | {"moving_jaw": "moving_jaw_so101_v1"}


@pytest.fixture(scope="module")
def judge_once():
    return BusJudge(SAFETY)


@pytest.fixture
def judge(judge_once):
    judge_once.clear()
    return judge_once


def show(judge, poses, *, measured=None, every=TICK):
    for k, pose in enumerate(poses):
        here = pose if measured is None else measured
        judge.see(to_radians(np.asarray(pose)), k * every, measured=to_radians(np.asarray(here)))


def broken(judge):
    return {rule for rule, count in judge.report()["violations"].items() if count}


def toward(joint, end, *, step, start=FREE):
    poses = [start.copy()]
    while abs(poses[-1][joint] - end) > 1e-9:
        last = poses[-1].copy()
        last[joint] += np.clip(end - last[joint], -step, step)
        poses.append(last)
    return poses


def test_a_quiet_motion_breaks_nothing(judge):
    show(judge, toward(0, 40.0, step=2.3))
    assert (broken(judge), judge.report()["frames"]) == (set(), 19)


def test_a_goal_beyond_a_joint_s_range_is_counted(judge):
    show(judge, toward(4, 160.0, step=2.3))
    assert "range" in broken(judge)


def test_a_leap_is_counted_as_speed(judge):
    show(judge, [FREE, FREE + (9.0, 0, 0, 0, 0, 0)], measured=FREE)
    assert broken(judge) == {"speed"}


def test_steps_that_are_too_fast_together_are_counted(judge):
    show(judge, toward(0, 60.0, step=3.0), measured=FREE)
    assert broken(judge) == {"speed"}


def test_a_late_step_may_make_up_for_its_lateness(judge):
    poses = toward(0, 40.0, step=2.4)
    for k, pose in enumerate(poses):
        at = k * TICK + (0.015 if k % 2 else 0.0)
        judge.see(to_radians(pose), at, measured=to_radians(pose))
    assert broken(judge) == set()


def test_going_into_the_table_is_counted(judge):
    show(judge, toward(1, 60.0, step=2.3))
    assert {"table", "tool_box"} <= broken(judge)


def test_what_lies_between_two_goals_is_judged_too(judge):
    over, other = FREE + (0, 0, 0, 0, 0, 0), FREE + (0, 60.0, 0, -150.0, 0, 0)
    show(judge, [over, other], measured=over)
    assert broken(judge) > {"speed"}


def test_an_arm_that_lies_on_the_table_may_rise(judge):
    low = toward(1, 60.0, step=2.3)[-1]
    show(judge, toward(1, -30.0, step=2.3, start=low))
    assert broken(judge) == set()


def test_holding_an_arm_where_it_sank_to_is_no_step(judge):
    sunk = FREE + (0, 8.0, 5.0, 0, 0, 0)
    judge.see(to_radians(FREE), 0.0, measured=to_radians(FREE))
    judge.see(to_radians(sunk), 1.0, measured=to_radians(sunk))
    assert broken(judge) == set()


@pytest.mark.parametrize(("ago", "rules"), [(0.08, set()), (0.30, {"speed"})])
def test_an_arm_may_be_held_where_it_was_a_moment_ago(judge, ago, rules):
    sunk = FREE + (0, 8.0, 5.0, 0, 0, 0)
    judge.see(to_radians(FREE), 0.0, measured=to_radians(FREE))
    judge.see(to_radians(FREE), 1.0, measured=to_radians(sunk))
    judge.see(to_radians(sunk), 1.0 + ago, measured=to_radians(FREE))
    assert broken(judge) == rules


def test_what_a_limp_servo_is_told_does_not_matter(judge):
    show(judge, [np.full(6, np.nan)] * 2, measured=FREE)
    assert broken(judge) == set()


def test_the_judge_sees_the_arm_where_the_guard_does(judge):
    limits = SafetyLimits.load(SAFETY)
    volumes = Volumes(limits)
    rng = np.random.default_rng(5)
    rows = [judge.shapes.bodies.index(BODIES[link]) for link in MOVING_LINKS]
    for pose in rng.uniform(limits.joint_lower, limits.joint_upper, (100, 6)):
        low, high, tool = judge.shapes.extent(to_radians(pose))
        found = volumes.violations(pose[None])[:, 0]
        np.testing.assert_allclose(tool, tool_position(pose), atol=1e-6)
        # The guard adds to a link what its few points leave out, a millimetre at most.
        too_low = found[:6, 2] - (judge.floor - low[:, 2])[rows]
        assert too_low.min() > -1e-6
        assert too_low.max() < 0.0011
        outside = np.maximum(limits.arm_box.lower - low, high - limits.arm_box.upper)[rows]
        assert (np.maximum(found[:6], found[6:12])[:, :2] - outside[:, :2]).min() > -1e-6


def test_without_space_only_joints_are_judged():
    judge = BusJudge(SAFETY, space=False)
    show(judge, toward(1, 60.0, step=2.3))
    assert broken(judge) == set()
