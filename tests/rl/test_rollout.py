"""Whole episodes on the twin: how they end, and what is kept of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from envs.arm_env import STEP_S, ArmEnv
from envs.homing import ArmStopped
from envs.tasks import HOLD_S
from envs.twin_env import make_task_env
from policy_server.backends.null import RandomPolicy
from policy_server.backends.scripted import ScriptedPolicy
from policy_server.policy import ActionChunk, PolicyRequest
from rl.rollout import SEEMS_DONE_S, Plan, run_episode
from robot.journal import SOURCES, Journal, read_episode
from robot.process.arm_state import Cause, Mode
from tests.envs.stand_in import StandIn


@pytest.fixture(scope="module")
def env() -> ArmEnv:
    return make_task_env("reach")


def plan(seed: int = 0) -> Plan:
    return Plan(
        episode=f"{seed:06d}-test",
        arm="arm01",
        seed=seed,
        source="scripted",
        policy="scripted",
        greedy=True,
        git_revision="test",
        config={},
    )


def test_an_episode_ends_early_once_the_goal_has_seemed_reached(env: ArmEnv) -> None:
    episode = run_episode(env, ScriptedPolicy(env.policy_spec, "reach"), plan())
    assert episode.info.end == "seems_done"
    assert episode.steps < env.task.limit_s / STEP_S / 2
    truth = episode.info.truth
    assert truth is not None
    assert truth["success"]
    assert truth["success_at_s"] >= HOLD_S
    assert episode.steps >= SEEMS_DONE_S / STEP_S


def test_an_aimless_episode_ends_with_the_clock(env: ArmEnv) -> None:
    episode = run_episode(env, RandomPolicy(env.policy_spec, seed=3), plan(1))
    assert (episode.info.end, episode.steps) == ("time_limit", 40)
    assert episode.info.truth == {"success": False}


def test_the_operator_ends_an_episode_between_two_steps(env: ArmEnv) -> None:
    policy = RandomPolicy(env.policy_spec)
    episode = run_episode(env, policy, plan(), stop=lambda: True)
    assert (episode.info.end, episode.steps) == ("operator", 1)


def test_what_is_kept_has_a_look_before_the_steps_and_a_look_after(env: ArmEnv) -> None:
    episode = run_episode(env, ScriptedPolicy(env.policy_spec, "reach"), plan(2))
    count = episode.steps + 3
    assert episode.first_step == 1
    assert episode.stamps.shape == (count,)
    assert all(len(frames) == count and all(frames) for frames in episode.frames.values())
    assert {len(values) for values in episode.state.values()} == {episode.steps + 1}
    assert len(episode.guard_events) == episode.steps
    np.testing.assert_array_equal(episode.source, SOURCES.index("scripted"))
    np.testing.assert_allclose(np.diff(episode.stamps[1:-1]), STEP_S)
    np.testing.assert_allclose(episode.joint_pos[0, :5], episode.joint_pos[-1, :5], atol=3.0)


def test_an_episode_comes_back_from_the_journal_as_it_was(env: ArmEnv, tmp_path: Path) -> None:
    episode = run_episode(env, ScriptedPolicy(env.policy_spec, "reach"), plan(3))
    stored = read_episode(Journal(tmp_path).seal(episode))
    np.testing.assert_array_equal(stored.actions, episode.actions)
    np.testing.assert_array_equal(stored.joint_target, episode.joint_target)
    assert stored.frames["front"][0] == episode.frames["front"][0]
    assert stored.info == episode.info


class Interrupted:
    """A policy during whose fourth decision something happens to the arm."""

    def __init__(self, env: ArmEnv, happens: Callable[[], None]) -> None:
        self._policy, self._happens, self._asked = RandomPolicy(env.policy_spec), happens, 0
        self.spec = env.policy_spec

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        self._asked += 1
        if self._asked == 4:
            self._happens()
        return self._policy.infer_batch(requests)


def test_a_lost_link_keeps_the_steps_before_it(tmp_path: Path) -> None:
    process = StandIn()
    env = process.env()
    policy = Interrupted(env, lambda: setattr(process, "gone", True))
    episode = run_episode(env, policy, plan())
    assert (episode.info.end, episode.steps) == ("lost_link", 3)
    assert len(episode.stamps) == 1 + episode.steps + 1
    assert read_episode(Journal(tmp_path).seal(episode)).steps == 3


def test_a_stopped_arm_ends_the_episode_with_a_look_from_where_it_is(tmp_path: Path) -> None:
    process = StandIn()
    env = process.env()
    policy = Interrupted(env, lambda: process.set(Mode.STOP, Cause.ASKED, "a key was pressed"))
    episode = run_episode(env, policy, plan())
    assert (episode.info.end, episode.steps) == ("operator", 3)
    assert len(episode.stamps) == 1 + episode.steps + 2
    Journal(tmp_path).seal(episode)


def test_an_arm_that_stops_before_the_first_step_leaves_no_episode() -> None:
    process = StandIn()
    process.set(Mode.STOP, Cause.ASKED, "a key was pressed")
    with pytest.raises(ArmStopped, match="a key was pressed"):
        run_episode(process.env(), RandomPolicy(process.env().policy_spec), plan())


def test_steps_of_a_person_are_marked_human_and_hold_what_they_did() -> None:
    process = StandIn()
    env = process.env()
    process.person = lambda last: last + np.array([1.0, 0, 0, 0, 0, 0])
    policy = Interrupted(env, lambda: process.set(Mode.TAKEOVER, Cause.ASKED, "a person took over"))
    episode = run_episode(env, policy, plan())
    scripted, human = SOURCES.index("scripted"), SOURCES.index("human")
    np.testing.assert_array_equal(episode.source[:3], scripted)
    np.testing.assert_array_equal(episode.source[3:], human)
    assert (episode.actions[3:10, 1] < 0).all()
    np.testing.assert_allclose(episode.actions[3:10, 2], 0.0, atol=0.2)


def test_an_episode_with_a_person_s_help_is_none_of_the_policy_s_own(tmp_path: Path) -> None:
    process = StandIn()
    env = process.env()
    policy = Interrupted(env, lambda: process.set(Mode.TAKEOVER, Cause.ASKED, "a person took over"))
    episode = run_episode(env, policy, plan())
    assert not episode.info.greedy
    assert episode.info.end == "operator"
    assert episode.info.config["calibration"] == "0123456789ab"
