"""The environment over the twin: Gymnasium's contract, and ours."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.arm_env import START_POSE, STEP_S, ArmEnv
from envs.twin_env import make_task_env
from envs.wrappers import HeuristicReward
from policy_server.backends.scripted import ScriptedPolicy
from policy_server.policy import PolicyRequest

TASKS = ["reach", "push", "lift", "place", "stack"]


@pytest.fixture(scope="module")
def env() -> ArmEnv:
    return make_task_env("reach")


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_makes_every_task_and_finds_nothing_to_complain_of(task: str) -> None:
    check_env(gymnasium.make("envs:SO101-v0", task=task).unwrapped, skip_render_check=True)


def test_frames_join_the_observation_when_asked_for() -> None:
    env = make_task_env("lift", images=True)
    state, _ = env.reset(seed=0)
    assert state["front"].shape == (96, 96, 3)
    assert env.observation_space.contains(state)


def test_a_goal_sentence_picks_task_and_colours() -> None:
    env = make_task_env(goal="Put the green cube in the red bowl.")
    assert (env.task.name, env.goal.thing.colour) == ("place", "green")
    state, _ = env.reset(seed=0)
    assert state["thing"][3] == state["place"][3] == 1.0


def test_the_same_seed_gives_the_same_first_observation(env: ArmEnv) -> None:
    first, _ = env.reset(seed=5)
    env.step(np.ones(4, np.float32))
    again, _ = env.reset(seed=5)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])


def test_an_episode_starts_over_the_table_in_the_start_pose(env: ArmEnv) -> None:
    _, info = env.reset(seed=1)
    np.testing.assert_allclose(info["sensed"].observation.joint_pos[:5], START_POSE, atol=4.0)


def test_running_out_of_time_truncates_and_never_terminates(env: ArmEnv) -> None:
    env.reset(seed=2)
    ends = [env.step(np.zeros(4, np.float32))[1:4] for _ in range(round(4.0 / STEP_S))]
    assert ends[-1] == (0.0, False, True)
    assert set(ends[:-1]) == {(0.0, False, False)}


def test_a_step_takes_a_tenth_of_a_second_and_moves_the_tool_as_told(env: ArmEnv) -> None:
    first, before = env.reset(seed=3)
    state, _, _, _, after = env.step(np.array([0, 1, 0, 1], np.float32))
    assert after["sensed"].observation.stamp - before["sensed"].observation.stamp == pytest.approx(
        STEP_S
    )
    assert state["tool"][1] - first["tool"][1] == pytest.approx(0.025, abs=0.003)
    assert state["action"][1] == 1.0


def test_an_action_that_is_not_finite_is_refused(env: ArmEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([0, np.nan, 0, 0], np.float32))


@pytest.mark.parametrize("actions", ["joint_delta", "joint_absolute"])
def test_joint_actions_move_the_joints(actions: str) -> None:
    env = make_task_env("reach", actions=actions)
    _, before = env.reset(seed=0)
    action = np.array([0.5, 0, 0, 0, 0, 0], np.float32)
    after = [env.step(action)[4] for _ in range(5)][-1]
    turned = after["sensed"].observation.joint_pos - before["sensed"].observation.joint_pos
    assert turned[0] > 5.0


@pytest.mark.parametrize(
    ("task", "needed"), [("reach", 5), ("push", 4), ("lift", 4), ("place", 4), ("stack", 4)]
)
def test_the_scripted_expert_does_the_task_from_estimates_alone(task: str, needed: int) -> None:
    env = HeuristicReward(make_task_env(task))
    arm_env = env.unwrapped
    assert isinstance(arm_env, ArmEnv)
    policy = ScriptedPolicy(arm_env.policy_spec, task)
    done = sum(_attempt(env, policy, seed) for seed in range(5))
    assert done >= needed


def _attempt(env: HeuristicReward, policy: ScriptedPolicy, seed: int) -> bool:
    """Return whether the goal was truly reached when the reward said so."""
    state, info = env.reset(seed=seed)
    terminated = truncated = False
    while not (terminated or truncated):
        request = PolicyRequest(state=state, goal="", observed_at=info["sensed"].observation.stamp)
        action = policy.infer_batch([request])[0].actions[0]
        state, _, terminated, truncated, info = env.step(action)
    arm_env = env.unwrapped
    assert isinstance(arm_env, ArmEnv)
    return terminated and arm_env.task.success(arm_env.scene.truth())
