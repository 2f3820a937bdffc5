"""The environment over an arm's process: the same code as on the twin, and what only links have."""

import numpy as np
import pytest

from envs import real_env
from envs.arm_env import STEP_S
from envs.bench import Bench
from envs.homing import ArmStopped
from envs.real_env import EmulatedTable, require_cameras
from rewarder.goal import task_goal
from robot.arm import LOOK_POSE
from robot.arm_config import ArmConfig
from robot.client import ArmUnavailable
from robot.kinematics import tool_position
from robot.process.arm_state import Cause, Mode
from robot.scene import Layout
from robot.tokens import Role, own_token, rotate
from tests.envs.stand_in import StandIn

AHEAD = np.array([0.4, 0.0, 0.0, 1.0], np.float32)


@pytest.fixture
def process():
    return StandIn()


def test_stamps_of_another_machine_s_clock_are_only_handed_back(process):
    env = process.env()
    env.reset(seed=1)
    _, _, _, _, info = env.step(AHEAD)
    assert [str(event) for command in info["sensed"].commands for event in command.events] == []
    assert info["sensed"].observation.stamp > 5000


@pytest.fixture
def tokens(tmp_path, monkeypatch):
    """Keep a token where this machine's clients look for theirs; the file."""
    path = tmp_path / "tokens"
    token = rotate(Role.OPERATE, path)
    monkeypatch.setattr(real_env, "own_token", lambda: own_token({}, file=path))
    return path, token


def test_practice_shows_the_token_of_this_machine(tokens, monkeypatch):
    shown = []
    monkeypatch.setattr(real_env, "RemoteArm", lambda _, **given: shown.append(given["token"]))
    real_env.connected(ArmConfig.load("arm01"))
    assert shown == [tokens[1]]


def test_a_token_file_that_others_can_read_keeps_practice_waiting_with_the_remedy(tokens):
    tokens[0].chmod(0o644)
    with pytest.raises(ArmUnavailable, match="chmod 600"):
        real_env.connected(ArmConfig.load("arm01"))


def test_the_arm_is_off_the_table_before_that_is_laid_out(process):
    env = process.env()
    env.reset(seed=1)
    env.step(AHEAD)
    env.reset(seed=2)
    np.testing.assert_allclose(env.scene.pose_at_reset[:5], LOOK_POSE, atol=4.0)


def test_a_share_of_an_action_is_carried_out_where_the_arm_s_file_says_so():
    moved = []
    for scale in (1.0, 0.5):
        env = StandIn().env(action_scale=scale)
        state, _ = env.reset(seed=1)
        after, *_ = env.step(np.array([0.0, 1.0, 0.0, 1.0], np.float32))
        moved.append(after["tool"][1] - state["tool"][1])
    assert moved[1] == pytest.approx(moved[0] / 2, abs=0.002)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_step_in_which_a_person_moves_the_arm_is_theirs(process, scale):
    env = process.env(action_scale=scale)
    env.reset(seed=1)
    process.set(Mode.TAKEOVER, Cause.ASKED, "a person took over")
    process.person = lambda last: last + np.array([2.0, 0, 0, 0, 0, 0])
    _, _, _, truncated, info = env.step(AHEAD)
    sensed = info["sensed"]
    assert sensed.human
    assert not truncated
    assert sensed.taken[1] < -0.2
    assert abs(sensed.taken[0]) < 0.2


def test_what_a_person_did_brings_the_policy_s_arm_to_the_same_place(process):
    env = process.env()
    _, before = env.reset(seed=1)
    process.set(Mode.TAKEOVER, Cause.ASKED, "a person took over")
    process.person = lambda last: last + np.array([1.0, 1.0, -1.0, 0, 0, 0])
    sensed = env.step(AHEAD)[4]["sensed"]
    start, end = before["sensed"].observation.joint_target, sensed.observation.joint_target
    again = env.actions.joint_target(sensed.taken, start)
    assert np.linalg.norm(tool_position(again) - tool_position(end)) < 0.001


@pytest.mark.parametrize(
    ("mode", "cause", "end"),
    [
        (Mode.STOP, Cause.ASKED, "operator"),
        (Mode.STOP, Cause.FAULT, "fault"),
        (Mode.HOLD, Cause.SILENCE, "lost_link"),
        (Mode.PARK, Cause.ASKED, "operator"),
    ],
)
def test_an_arm_that_stops_obeying_truncates_the_step(process, mode, cause, end):
    env = process.env()
    env.reset(seed=1)
    last = env.step(AHEAD)[0]
    process.set(mode, cause, "a test wants it")
    state, reward, terminated, truncated, info = env.step(AHEAD)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["sensed"].stopped.end == end
    assert "a test wants it" in str(info["sensed"].stopped)
    np.testing.assert_array_equal(state["joint_pos"], last["joint_pos"])


def test_a_lost_link_truncates_the_step_and_the_next_episode_connects_again(process):
    env = process.env()
    env.reset(seed=1)
    process.gone = True
    stopped = env.step(AHEAD)[4]["sensed"].stopped
    assert stopped.end == "lost_link"
    with pytest.raises(ArmStopped, match="start it with make arm"):
        env.reset(seed=2)
    process.gone = False
    process.set(Mode.HOLD, Cause.SILENCE, "'practice-arm01' was not heard of for 0.20 s")
    env.reset(seed=2)
    assert process.connections == 2


def test_a_stopped_arm_is_left_alone_until_somebody_has_reset_it(process):
    env = process.env()
    process.set(Mode.STOP, Cause.ASKED, "a key was pressed")
    with pytest.raises(ArmStopped, match="arm01 is stopped: a key was pressed; reset it"):
        env.reset(seed=1)
    process.set(Mode.HOLD, Cause.RESET, "it was reset")
    env.reset(seed=1)


@pytest.mark.parametrize(
    "let",
    [
        (Mode.RUN, Cause.ASKED, "operator asked for it"),
        (Mode.HOLD, Cause.SILENCE, "'operator' was not heard of for 0.16 s"),
    ],
)
def test_an_arm_that_a_person_has_paused_is_left_alone_until_they_let_it_run(process, let):
    env = process.env()
    env.reset(seed=1)
    process.set(Mode.HOLD, Cause.ASKED, "dashboard asked for it")
    env.step(AHEAD)
    process.set(Mode.IDLE, Cause.PARKED, "it is parked")
    asked = len(process.asked)
    with pytest.raises(ArmStopped, match="dashboard asked for it"):
        env.reset(seed=2)
    assert len(process.asked) == asked
    process.set(*let)
    env.reset(seed=2)


def test_an_arm_that_another_program_runs_is_not_taken_from_it(process):
    env = process.env()
    process.set(Mode.RUN, Cause.ASKED, "other asked for it")
    with pytest.raises(ArmStopped, match="in use"):
        env.reset(seed=1)
    assert process.asked == []


def test_a_person_who_moves_the_arm_during_homing_is_not_fought(process):
    env = process.env()
    process.before_command = lambda: process.set(Mode.TAKEOVER, Cause.ASKED, "a person took over")
    with pytest.raises(ArmStopped, match="a person moves the arm") as stopped:
        env.reset(seed=1)
    assert stopped.value.end == "operator"


def test_closing_parks_the_arm(process):
    env = process.env()
    env.reset(seed=1)
    env.close()
    assert process.asked[-1] is Mode.PARK


def test_closing_leaves_a_person_the_arm(process):
    env = process.env()
    env.reset(seed=1)
    process.set(Mode.TAKEOVER, Cause.ASKED, "a person took over")
    env.close()
    assert Mode.PARK not in process.asked


def test_a_step_asks_for_one_observation_and_two_commands(process, monkeypatch):
    env = process.env()
    env.reset(seed=1)
    calls = []
    for name in ("observe", "command", "state", "mode", "latch", "hold"):
        monkeypatch.setattr(process, name, _counted(calls, name, getattr(process, name)))
    env.step(AHEAD)
    assert calls == ["command", "command", "observe"]


def _counted(calls, name, method):
    def call(*words, **named):
        calls.append(name)
        return method(*words, **named)

    return call


def test_steps_keep_their_period_however_long_deciding_takes(process):
    env = process.env()
    _, info = env.reset(seed=1)
    stamps = [info["sensed"].observation.stamp]
    for _ in range(5):
        process.twin.advance(process.twin.time + 0.03)
        stamps.append(env.step(AHEAD)[4]["sensed"].observation.stamp)
    np.testing.assert_allclose(np.diff(stamps), STEP_S, atol=1e-6)


def test_an_arm_whose_cameras_are_others_than_those_that_were_measured_is_refused(process):
    models = process.twin.cameras
    with pytest.raises(ValueError, match=r"camera side of arm01 is missing.*96x96.*arm01\.yaml"):
        require_cameras("arm01", {"front": (96, 96)}, models)
    with pytest.raises(ValueError, match="front of arm01 is 640x480"):
        require_cameras("arm01", {"front": (480, 640), "side": (96, 96)}, models)


class Admin:
    def __init__(self, log):
        self.log = log

    def layout(self, layout):
        self.log.append(layout)

    def close(self):
        self.log.append("closed")

    def reset(self, seed):
        if "gone" in self.log:
            raise ConnectionError("the emulator is gone")
        self.log.append(seed)


def test_an_emulator_that_was_started_again_gets_this_run_s_table():
    log = []
    layout = Layout(thing=task_goal("reach").thing)
    table = EmulatedTable(layout, lambda: Admin(log))
    table.reset(1)
    table.reset(2)
    log.append("gone")
    with pytest.raises(ArmStopped, match="the emulator is gone"):
        table.reset(3)
    log.remove("gone")
    table.reset(3)
    assert log == [layout, 1, 2, "closed", layout, 3]


@pytest.mark.parametrize(("task", "asked"), [("lift", 1), ("place", 3)])
def test_a_bench_asks_for_another_layout_where_the_task_needs_one(task, asked):
    said = []
    bench = Bench(
        task_goal(task), ask=lambda words: said.append(words) or "", terminal=lambda: True
    )
    for seed in range(3):
        bench.reset(seed)
    assert len(said) == asked
    assert "red cube" in said[0]


def test_a_bench_without_a_terminal_goes_on():
    bench = Bench(task_goal("place"), ask=pytest.fail, terminal=lambda: False)
    bench.reset(0)
    with pytest.raises(NotImplementedError):
        bench.truth()
