"""A joint that stays short is named, and delay and play are told apart."""

import numpy as np
import pytest

from robot.arm import JOINTS
from robot.envelope import LiveEnvelope, delay_and_play, sentences, shortfalls, tracking
from robot.guard import Guard
from robot.limits import SafetyLimits
from robot.scene import Item, Layout
from robot.twin import Twin

STAMPS = np.arange(0.0, 10.0, 0.02)
STILL = np.tile([0.0, -40.0, 20.0, 80.0, 90.0, 40.0], (len(STAMPS), 1))
ELBOW = JOINTS.index("elbow_flex")


def hanging(*, by, begin=3.0, seconds=2.5, joint=ELBOW):
    achieved = STILL.copy()
    first, last = np.searchsorted(STAMPS, [begin, begin + seconds])
    achieved[first:last, joint] -= by
    return achieved


def test_a_joint_that_hangs_is_named_with_how_far_and_how_long():
    (found,) = shortfalls(STILL, hanging(by=9.0), STAMPS)
    assert str(found).startswith(
        "elbow_flex stays 9° short for 2 s: it stands at 11°, commanded to 20°"
    )
    assert found.began == pytest.approx(3.0)


@pytest.mark.parametrize(
    "achieved",
    [
        hanging(by=9.0, seconds=1.8),
        hanging(by=3.0),
        hanging(by=9.0, joint=JOINTS.index("gripper")),
        STILL - 9.0 + np.linspace(0, 8, len(STAMPS))[:, None],
    ],
    ids=["briefly", "a little", "a gripper that holds", "slowly coming"],
)
def test_what_is_brief_small_holding_or_coming_is_no_shortfall(achieved):
    assert shortfalls(STILL, achieved, STAMPS) == []


def test_a_joint_that_hangs_while_its_command_moves_is_found():
    commanded = STILL.copy()
    commanded[:, ELBOW] += 15.0 + 3.0 * np.sin(STAMPS)
    assert [item.joint for item in shortfalls(commanded, STILL, STAMPS)] == ["elbow_flex"]


def moves(seed=0):
    """A wandering command at 20 Hz, seen at 50 Hz, degrees."""
    rng = np.random.default_rng(seed)
    knots = np.cumsum(rng.uniform(-4, 4, 201))
    return np.interp(STAMPS, np.arange(201) * 0.05, knots)


def after(commanded, *, delay, play):
    """What an ideal joint with a delay and backlash does."""
    due = np.interp(STAMPS - delay, STAMPS, commanded)
    achieved, here = np.empty_like(due), due[0]
    for i, goal in enumerate(due):
        here = min(max(here, goal - play / 2), goal + play / 2)
        achieved[i] = here
    return achieved


@pytest.mark.parametrize("delay", [0.0, 0.06, 0.15])
@pytest.mark.parametrize("play", [0.0, 1.0, 3.0])
def test_delay_and_play_are_told_apart(delay, play):
    commanded = moves()
    found = delay_and_play(commanded, after(commanded, delay=delay, play=play), STAMPS)
    assert found[0] == pytest.approx(delay, abs=0.011)
    assert found[1] == pytest.approx(play, abs=0.26)


def test_a_joint_that_hardly_moved_says_nothing_of_its_play():
    assert delay_and_play(STILL[:, 0], STILL[:, 0], STAMPS) == (None, None)


def test_play_gets_a_sentence_that_names_the_joint():
    commanded, achieved = STILL.copy(), STILL.copy()
    commanded[:, 4] += moves()
    achieved[:, 4] += after(moves(), delay=0.05, play=3.0)
    (said,) = sentences(commanded, achieved, STAMPS)
    assert said.startswith("wrist_roll has ")
    assert "of play" in said


def test_a_sound_arm_gets_no_sentence():
    assert sentences(STILL, STILL + 0.3, STAMPS) == []


def test_the_envelope_says_how_far_each_joint_was_off():
    found = tracking(STILL, hanging(by=8.0, begin=0.0, seconds=5.0), STAMPS)
    assert found["elbow_flex"].worst == 8.0
    assert found["elbow_flex"].mean == pytest.approx(4.0, abs=0.1)
    assert found["wrist_roll"].p95 == 0.0


def test_a_running_arm_is_told_of_a_shortfall_once():
    live, said = LiveEnvelope(), []
    for now, commanded, achieved in zip(STAMPS, STILL, hanging(by=9.0, seconds=6.0), strict=True):
        fresh = live.update(now, commanded=commanded, achieved=achieved)
        said += [(now, text) for text in fresh]
    ((when, text),) = said
    assert 5.0 <= when <= 5.6
    assert "elbow_flex stays 9° short" in text


def test_a_shortfall_that_comes_again_is_told_again():
    live, count = LiveEnvelope(), 0
    achieved = np.concatenate([hanging(by=9.0), hanging(by=9.0)])
    for i, pose in enumerate(achieved):
        count += len(live.update(i * 0.02, commanded=STILL[0], achieved=pose))
    assert count == 2


def test_a_compliant_twin_that_sags_is_not_said_to_be_stuck():
    twin = Twin(Layout(thing=Item("cube", "red")), preset="compliant", cameras=())
    guard = Guard(SafetyLimits.load("conf/safety/default.yaml"))
    wanted = twin.joint_pos()
    commanded, achieved, stamps = [], [], []
    for step in range(400):
        goal = np.array([0.0, -10.0, 30.0, 75.0, 90.0, 45.0])
        wanted = guard.check(goal, last=wanted, measured=twin.joint_pos(), dt=0.02).joint_target
        twin.command(wanted)
        twin.advance(twin.time + 0.02)
        commanded.append(wanted)
        achieved.append(twin.joint_pos())
        stamps.append(step * 0.02)
    assert shortfalls(np.array(commanded), np.array(achieved), np.array(stamps)) == []
