"""Home, park and jog move slowly, arrive, or name the joint that does not."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from robot.arm import frozen
from robot.arm_config import ArmConfig
from robot.client import ArmUnavailable
from robot.guard import Command, Guard, GuardedArm, GuardEvent
from robot.journal import Journal
from robot.limits import SafetyLimits
from robot.process.arm_state import Mode
from robot.recording import dataset
from robot.scene import Item, Layout
from robot.teleop import motions
from robot.teleop.motions import JOG_SPEED, PERIOD_S, NotThere, go, jog, start_pose
from robot.twin import REST_POSE, Twin
from robot.words import UsageError
from tests.robot.recorded import make_episode

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
START = frozen([8, -14, 10, 94, 90, 45])
PARK = frozen([-80, -97, 92, 45, 90, 45])


@pytest.fixture(scope="module")
def twin():
    return Twin(Layout(thing=Item("cube", "red")), preset="compliant", cameras=())


@pytest.fixture
def arm(twin):
    twin.reset(seed=0)
    return GuardedArm(twin, Guard(LIMITS), twin.clock, period_s=PERIOD_S)


def test_a_compliant_arm_goes_from_rest_to_its_start_pose_and_back(arm):
    for pose in (START, frozen(REST_POSE)):
        go(arm, pose, park=PARK)
        assert np.abs(arm.observe(frames=False).joint_pos - pose)[:5].max() <= 4.0
    assert arm.events["table"] == arm.events["tool_box"] == 0


def test_a_jog_moves_one_joint_slowly(arm):
    go(arm, START, park=PARK)
    before = arm.clock.now()
    pose = jog(arm, "shoulder_pan", 10.0)
    assert pose[0] == pytest.approx(START[0] + 10.0, abs=2.0)
    assert arm.clock.now() - before >= 10.0 / JOG_SPEED - PERIOD_S


def test_a_jog_past_the_end_of_a_joint_moves_nothing(arm):
    before = arm.observe(frames=False).joint_target
    with pytest.raises(NotThere, match=r"elbow_flex would be at .*; it goes from -96.8 to 96.8"):
        jog(arm, "elbow_flex", 90.0)
    np.testing.assert_array_equal(arm.observe(frames=False).joint_target, before)


def test_a_joint_that_does_not_follow_is_named(arm, monkeypatch):
    go(arm, START, park=PARK)
    stuck = arm._arm.joint_pos

    def joint_pos():
        pose = stuck().copy()
        pose[2] = START[2]
        return pose

    monkeypatch.setattr(arm._arm, "joint_pos", joint_pos)
    with pytest.raises(NotThere, match="elbow_flex stays"):
        go(arm, START + frozen([0, 0, 30, 0, 0, 0]), park=PARK)


def test_an_arm_that_takes_no_commands_ends_the_motion(arm, monkeypatch):
    refused = Command(joint_target=START, events=(GuardEvent("refused", "mode:STOP"),))
    monkeypatch.setattr(arm, "command", lambda target, *, stamp: refused)
    with pytest.raises(NotThere, match="mode:STOP"):
        go(arm, START, park=PARK)


def test_home_is_where_most_episodes_began(tmp_path):
    journal = Journal(tmp_path)
    starts = []
    for number in range(3):
        episode = make_episode(number, cameras=())
        journal.seal(episode)
        starts.append(episode.joint_pos[0])
    np.testing.assert_allclose(start_pose(journal), np.median(starts, axis=0))


def test_home_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no episode"):
        start_pose(Journal(tmp_path))


def test_home_of_a_dataset_that_is_not_there_makes_none_and_names_those_that_are(
    tmp_path, monkeypatch
):
    Journal(tmp_path / "pick-cube")
    monkeypatch.setattr(dataset, "JOURNALS", tmp_path)
    with pytest.raises(UsageError, match=r"pick-cub is no folder; datasets there: pick-cube"):
        motions.home(None, ArmConfig.load("arm01"), {"dataset": "pick-cub"})
    with pytest.raises(UsageError, match="expected letters"):
        motions.home(None, ArmConfig.load("arm01"), {"dataset": "../etc"})
    assert [path.name for path in tmp_path.iterdir()] == ["pick-cube"]


class Process(SimpleNamespace):
    def state(self):
        return SimpleNamespace(mode=self.modes[-1], reason="a test wants it")

    def mode(self, mode):
        self.modes.append(mode)
        return mode


def test_a_motion_leaves_the_arm_holding():
    process = Process(modes=[Mode.HOLD])
    motions._with_arm(process, lambda: None)
    assert process.modes == [Mode.HOLD, Mode.TAKEOVER, Mode.HOLD]


def test_a_motion_does_not_take_the_arm_from_a_policy():
    process = Process(modes=[Mode.RUN])
    with pytest.raises(ArmUnavailable, match="a policy drives the arm"):
        motions._with_arm(process, lambda: None)
    assert process.modes == [Mode.RUN]


@pytest.mark.parametrize("words", [["do=dance"], ["speed=9"], ["do=home", "arm_id=arm99"]])
def test_words_that_mean_nothing_end_with_two(words, capsys):
    assert motions.main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
