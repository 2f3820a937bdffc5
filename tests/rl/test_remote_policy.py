"""Arms that act by a policy server: real sockets, a simulated arm in real time."""

from functools import partial

import pytest
from omegaconf import OmegaConf

from envs.twin_env import make_twin_env
from policy_server.backends.foresight import ForesightPolicy
from policy_server.client import RemotePolicy
from policy_server.host import Host
from policy_server.load import load_policy
from policy_server.service import health_of
from rewarder.goal import task_goal
from rl.actor import Worker
from rl.remote_policy import fit_to_policy, policy_maker
from rl.rollout import decide
from rl.run_record import BadRun
from rl.sac import SacLearner
from robot.journal import Journal, read_episode
from tests.policy_server.served import served

REMOTE = {"_target_": "policy_server.client.RemotePolicy", "_partial_": True}


def settings(url):
    return OmegaConf.create({"arm": {"realtime": False}, "policy": {**REMOTE, "url": url}})


def test_an_arm_takes_over_the_space_and_the_pace_of_its_policy():
    with served(ForesightPolicy("reach")) as address:
        cfg = settings(f"ws://{address}")
        fit_to_policy(cfg)
    assert cfg.arm == {"realtime": True, "actions": "ee_delta", "hz": 20.0}


def test_a_server_that_is_not_there_is_named_with_what_starts_it():
    with pytest.raises(BadRun, match="make serve-pi") as caught:
        fit_to_policy(settings("ws://127.0.0.1:9"))
    assert caught.value.code == 3


def test_an_episode_keeps_how_its_rows_came(tmp_path):
    make_env = partial(make_twin_env, task_goal("reach"), hz=20.0, realtime=True)
    with served(ForesightPolicy("reach")) as address:
        worker = Worker(
            arm="arm01",
            make_env=make_env,
            journal=tmp_path,
            seed=0,
            git_revision="",
            config={},
            make_policy=policy_maker(settings(f"ws://{address}").policy),
        )
        worker.run_episode(None)
        worker.close()
    [episode] = map(read_episode, Journal(tmp_path).episodes())
    streaming = episode.info.config["streaming"]
    assert (episode.info.policy, episode.info.greedy) == ("remote/scripted", True)
    assert episode.info.truth["success"]
    assert streaming["steps"] == episode.steps == len(streaming["queue"])
    assert streaming["starved_steps"] <= 2


def test_without_rows_the_arm_stays_where_it_is(tmp_path):
    env = make_twin_env(task_goal("reach"), hz=20.0)
    with served(ForesightPolicy("reach")) as address:
        policy = RemotePolicy(f"ws://{address}", env.offers)
        state, info = env.reset(seed=3)
        decide(policy, env, state, info)
    target = info["sensed"].observation.joint_target
    for _ in range(50):
        state, _, _, _, info = env.step(decide(policy, env, state, info))
    assert policy.streaming.starved > 0
    policy.close()
    assert abs(info["sensed"].observation.joint_target - target).max() < 5.0
    env.close()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Return the folder of a run that has a policy."""
    run, env = tmp_path_factory.mktemp("run"), make_twin_env(task_goal("reach"))
    (run / "policy").mkdir()
    SacLearner(env.policy_spec, hidden=[8]).snapshot(run / "policy")
    env.close()
    return run


def test_an_arm_has_a_row_for_every_step_from_what_was_learnt_here(learnt):
    env = make_twin_env(task_goal("reach"))
    with served(load_policy(str(learnt))) as address:
        policy = RemotePolicy(f"ws://{address}", env.offers)
        state, info = env.reset(seed=3)
        for _ in range(20):
            state, _, _, _, info = env.step(decide(policy, env, state, info))
        policy.close()
    env.close()
    assert (policy.streaming.steps, policy.streaming.starved) == (20, 0)


def test_what_was_learnt_answers_where_large_weights_cannot_be_had_and_health_says_why(learnt):
    host = Host(["pi0_fast", str(learnt)])
    host.open()
    said = health_of(host)
    host.close()
    assert said["policy"] == str(learnt)
    assert "hf download" in said["refused"]["pi0_fast"]
