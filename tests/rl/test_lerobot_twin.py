"""LeRobot's own evaluation runs on our tasks, and ground truth says what was a success."""

import numpy as np
import pytest
from lerobot.configs import parser
from lerobot.envs import EnvConfig, make_env, make_env_pre_post_processors
from lerobot.policies import make_pre_post_processors
from lerobot.policies.factory import get_policy_class
from lerobot.scripts.lerobot_eval import eval_policy

from policy_server.tiny import make
from rl.lerobot_twin import So101TwinConfig, TwinTaskEnv
from rl.record_scripted import WORDS, record
from robot.journal import Journal, read_episode

GOAL = "Reach for the red cube."


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """The commands of one recording, on the layout of seed 3."""
    folder = tmp_path_factory.mktemp("reach")
    record(WORDS | {"task": "reach", "episodes": "1", "size": "96", "seed": "3"}, Journal(folder))
    return read_episode(Journal(folder).episodes()[0]).joint_target[1:]


@pytest.fixture
def env():
    env = TwinTaskEnv(goal=GOAL, fps=20, pixels=96)
    yield env
    env.close()


def test_an_episode_terminates_once_success_has_held(env, demonstration):
    env.reset(seed=3)
    ends = []
    for target in [*demonstration, *[demonstration[-1]] * 20]:
        _, reward, terminated, truncated, info = env.step(target.astype(np.float32))
        ends.append((reward, terminated, truncated, info["is_success"]))
        if terminated:
            break
    assert ends[-1] == (1.0, True, False, True)
    assert set(ends[:-1]) == {(0.0, False, False, False)}
    assert len(ends) > 10


def test_an_arm_that_stays_where_it_is_runs_out_of_time(env):
    seen, _ = env.reset(seed=3)
    for step in range(1, 81):
        _, _, terminated, truncated, info = env.step(seen["agent_pos"])
        assert (terminated, truncated, info["is_success"]) == (False, step == 80, False)


def test_what_is_seen_fits_the_space_that_is_told(env):
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    assert (env.task, env.task_description) == ("reach", GOAL)


def test_lerobot_finds_the_environment_and_evaluates_a_policy_in_it(tmp_path, monkeypatch):
    parser.load_plugin("rl.lerobot_twin")
    config = EnvConfig.get_choice_class("so101_twin")(task="reach", pixels=96)
    folder = make("act", tmp_path / "act")
    policy = get_policy_class("act").from_pretrained(folder)
    [(name, envs)] = make_env(config, n_envs=1).items()
    before, after = make_env_pre_post_processors(config, policy.config)
    pre, post = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    said = eval_policy(envs[0], policy, before, after, pre, post, n_episodes=1, start_seed=3)
    assert name == "reach"
    assert said["aggregated"]["pc_success"] == 0.0
    assert len(said["per_episode"]) == 1
    envs[0].close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"task": "fold"}, "unknown"), ({"task": "lift", "goal": GOAL}, "is of the task reach")],
)
def test_what_no_environment_can_be_made_of_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        So101TwinConfig(**wrong)
