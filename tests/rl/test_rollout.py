"""Whole episodes on the twin: how they end, and what is kept of them."""

from pathlib import Path

import numpy as np
import pytest

from envs.arm_env import STEP_S, ArmEnv
from envs.twin_env import make_task_env
from policy_server.backends.null import RandomPolicy
from policy_server.backends.scripted import ScriptedPolicy
from rl.rollout import HOLD_STEPS, SEEMS_DONE_STEPS, Plan, run_episode
from robot.journal import SOURCES, Journal, read_episode


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
    assert truth["success_at_s"] >= HOLD_STEPS * STEP_S
    assert episode.steps >= SEEMS_DONE_STEPS


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
