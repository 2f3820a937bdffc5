import numpy as np
import pytest

from envs.twin_env import make_twin_env
from policy_server.backends.null import RandomPolicy
from policy_server.policy import PolicyRequest
from rewarder.goal import task_goal
from rl.actor import Worker, load_snapshot, training_seed
from rl.fleet import Snapshot
from rl.sac import SacLearner
from rl.trial import FIRST_SEED
from robot.journal import read_episode
from robot.sealed import Damaged


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("journal")


@pytest.fixture(scope="module")
def worker(folder):
    steps = iter(range(10**6))
    worker = Worker(
        arm="arm01",
        make_env=lambda: make_twin_env(task_goal("reach")),
        journal=folder,
        seed=0,
        git_revision="0",
        config={"arm": {"preset": "stiff"}},
        greedy_every=2,
        # Every second step an operator ends the episode: what is tested here needs no long one.
        stop=lambda: next(steps) % 2 == 1,
    )
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory, worker):
    folder = tmp_path_factory.mktemp("policy")
    SacLearner(worker._env.policy_spec, hidden=[8]).snapshot(folder)
    return Snapshot.read(folder, 12)


def info_of(folder, finished):
    return read_episode(folder / "episodes" / finished.name).info


def test_without_a_policy_an_arm_acts_at_random_and_seals_what_happened(worker, folder):
    finished = worker.run_episode(None)
    info = info_of(folder, finished)
    assert (info.arm, info.policy, info.greedy, info.end) == ("arm01", "random", False, "operator")
    assert finished.steps == 2
    assert info.truth == {"success": False}


def test_now_and_then_an_episode_is_without_exploration(worker, folder, snapshot):
    infos = [info_of(folder, worker.run_episode(snapshot)) for _ in range(4)]
    assert sorted(info.greedy for info in infos) == [False, False, True, True]
    assert {info.policy for info in infos} == {"learned/000012"}


def test_no_two_episodes_have_one_layout(worker, folder):
    seeds = [info_of(folder, worker.run_episode(None)).seed for _ in range(3)]
    assert len(set(seeds)) == 3


def test_training_never_sees_the_layouts_of_evaluation():
    seeds = {training_seed(seed, 7, number) for seed in range(20) for number in range(50)}
    assert max(seeds) < FIRST_SEED
    assert len(seeds) > 990


def test_a_random_policy_uses_the_whole_range(worker):
    policy = RandomPolicy(worker._env.policy_spec)
    rows = np.array([policy.infer_batch([request])[0].actions[0] for request in [_request()] * 300])
    assert rows.min() < -0.9
    assert rows.max() > 0.9


def test_a_damaged_snapshot_is_refused(snapshot):
    cut = Snapshot(version=1, head=snapshot.head, weights=snapshot.weights[:100])
    with pytest.raises((Damaged, ValueError)):
        load_snapshot(cut, seed=0)


def _request():
    return PolicyRequest(state={}, goal="", observed_at=0.0)
