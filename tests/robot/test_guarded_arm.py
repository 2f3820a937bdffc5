"""A guarded arm knows its last command, its clock, and where it may start from."""

from pathlib import Path

import numpy as np
import pytest

from robot.arm import frozen
from robot.guard import Guard, GuardedArm
from robot.limits import SafetyLimits
from robot.scene import Item, Layout
from robot.twin import Twin
from tests.robot.clock import SetClock

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
GUARD = Guard(LIMITS)
START = frozen([0, -40, 30, 85, 90, 20])
DT = 0.05


class FakeArm:
    """An arm that is wherever `pos` says and writes down what it is told."""

    def __init__(self):
        self.pos = START.copy()
        self.sent = []
        self.closed = False

    def joint_pos(self):
        return self.pos.copy()

    def frames(self):
        return {"front": "picture"}

    def command(self, joint_target):
        self.sent.append(np.array(joint_target))

    def close(self):
        self.closed = True


@pytest.fixture
def arm():
    return FakeArm()


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def guarded(arm, clock):
    return GuardedArm(arm, GUARD, clock, period_s=DT)


def test_the_first_step_is_counted_from_where_the_arm_is(guarded, arm, clock):
    arm.pos = START + frozen([30, 0, 0, 0, 0, 0])
    command = guarded.command(START, stamp=clock.now())
    assert arm.pos[0] - command.joint_target[0] == pytest.approx(LIMITS.max_speed[0] * DT)


def test_an_arm_that_does_not_know_where_it_is_gets_no_command(guarded, arm, clock):
    arm.pos = np.full(6, np.nan)
    with pytest.raises(ValueError, match="check the servo bus"):
        guarded.command(START, stamp=clock.now())
    with pytest.raises(ValueError, match="check the servo bus"):
        guarded.latch()
    assert arm.sent == []


def test_an_encoder_that_breaks_on_the_way_holds_the_arm(guarded, arm, clock):
    guarded.command(START, stamp=clock.now())
    arm.pos = np.full(6, np.nan)
    guarded.command(START + 1.0, stamp=clock.now())
    np.testing.assert_array_equal(arm.sent[-1], START)


def test_what_is_sent_is_what_the_command_says(guarded, arm, clock):
    command = guarded.command(START + 100.0, stamp=clock.now())
    np.testing.assert_array_equal(arm.sent[-1], command.joint_target)
    np.testing.assert_array_equal(guarded.observe().joint_target, command.joint_target)


def test_commands_in_a_burst_do_not_add_up_to_speed(guarded, arm, clock):
    wanted = START + frozen([30, 0, 0, 0, 0, 0])
    for _ in range(10):
        guarded.command(wanted, stamp=clock.now())
    assert arm.sent[-1][0] - START[0] == pytest.approx(LIMITS.max_speed[0] * DT)


def test_a_pause_gives_no_leave_for_a_jump(guarded, arm, clock):
    guarded.command(START, stamp=clock.now())
    clock.time += 10.0
    guarded.command(START + frozen([60, 0, 0, 0, 0, 0]), stamp=clock.now())
    assert arm.sent[-1][0] - START[0] == pytest.approx(LIMITS.max_speed[0] * DT)


def test_an_old_observation_moves_nothing(guarded, arm, clock):
    stamp = guarded.observe().stamp
    clock.time += 0.6
    guarded.command(START + 1.0, stamp=stamp)
    np.testing.assert_array_equal(arm.sent[-1], START)
    assert guarded.events["refused"] == 1


def test_hold_sends_the_last_command_even_if_the_arm_sagged(guarded, arm, clock):
    command = guarded.command(START + 1.0, stamp=clock.now())
    arm.pos = START - 3.0
    guarded.hold()
    np.testing.assert_array_equal(arm.sent[-1], command.joint_target)


def test_after_a_hand_move_a_latched_arm_starts_from_where_it_was_put(guarded, arm, clock):
    guarded.command(START, stamp=clock.now())
    arm.pos = START + frozen([50, 0, 0, 0, 0, 0])
    guarded.latch()
    clock.time += 1.0
    guarded.command(START, stamp=clock.now())
    assert arm.pos[0] - arm.sent[-1][0] == pytest.approx(LIMITS.max_speed[0] * DT)


def test_events_are_counted_by_rule(guarded, clock):
    guarded.command(START + frozen([30, 0, 0, 0, 30, 0]), stamp=clock.now())
    guarded.command(np.full(6, np.nan), stamp=clock.now())
    assert guarded.events == {"step": 2, "refused": 1}


def test_an_observation_without_frames_draws_none(guarded, arm):
    arm.frames = None
    assert guarded.observe(frames=False).frames == {}


def test_closing_a_guarded_arm_closes_the_arm(guarded, arm):
    guarded.close()
    assert arm.closed


@pytest.fixture(scope="module")
def compliant():
    return Twin(Layout(thing=Item("cube", "red")), preset="compliant")


def sent_to(arm, goal, *, seconds):
    """Ask for `goal` at 20 Hz and return the last command."""
    for _ in range(round(seconds / DT)):
        now = arm.clock.now()
        command = arm.command(goal, stamp=now)
        arm.clock.sleep_until(now + DT)
    return command


@pytest.mark.parametrize(
    "goal",
    [(-20, -30, 20, 85, 90, 45), (60, -60, 60, 60, 90, 10), (0, -10, 30, 75, 90, 45)],
)
def test_a_compliant_arm_reaches_its_targets_under_the_guard(compliant, goal):
    compliant.reset(seed=0)
    arm = GuardedArm(compliant, GUARD, compliant.clock, period_s=DT)
    # The wrist last: bent before the elbow is straighter it would meet the shoulder.
    sent_to(arm, frozen([-80, -40, 30, 45, 90, 20]), seconds=2.0)
    sent_to(arm, START, seconds=2.0)
    command = sent_to(arm, frozen(goal), seconds=3.0)
    np.testing.assert_array_equal(command.joint_target, goal)
    # It sags by 3.2 degrees a N·m, and its links have a degree of play.
    assert np.abs(arm.observe(frames=False).joint_pos - goal)[:5].max() < 4.0
