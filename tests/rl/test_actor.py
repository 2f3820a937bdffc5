from dataclasses import replace

import numpy as np
import pytest

from envs.twin_env import make_twin_env
from policy_server.backends.null import RandomPolicy
from policy_server.policy import PolicyRequest
from rewarder.goal import task_goal
from rl.actor import LATELY, Layouts, Worker, load_snapshot, training_seed
from rl.fleet import Snapshot
from rl.sac import SacLearner
from rl.trial import FIRST_SEED
from robot.journal import Journal, read_episode
from robot.sealed import Damaged
from tests.rl.practice import fake_episode


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


def ended(seed, end, policy="learned/000012"):
    return replace(fake_episode(policy=policy).info, seed=seed, end=end)


def test_a_share_of_the_episodes_begin_where_the_arm_failed_lately():
    layouts = Layouts(0, 7, hard_share=0.3)
    layouts.see(ended(41, "time_limit"))
    layouts.see(ended(42, "seems_done"))
    drawn = [layouts.draw(number, fresh=False) for number in range(1000)]
    assert 250 < drawn.count(41) < 350
    assert 42 not in drawn


def test_without_a_share_or_where_it_must_be_fresh_no_layout_is_repeated():
    plain, eager = Layouts(0, 7, hard_share=0.0), Layouts(0, 7, hard_share=1.0)
    for layouts in (plain, eager):
        layouts.see(ended(41, "time_limit"))
    fresh = [training_seed(0, 7, number) for number in range(50)]
    assert [plain.draw(number, fresh=False) for number in range(50)] == fresh
    assert [eager.draw(number, fresh=True) for number in range(50)] == fresh


def test_a_layout_that_was_mastered_since_or_long_ago_failed_on_is_not_hard():
    layouts = Layouts(0, 7, hard_share=1.0)
    for seed, end in ((1, "time_limit"), (2, "time_limit"), (1, "seems_done")):
        layouts.see(ended(seed, end))
    assert layouts.hard == [2]
    for seed in range(100, 100 + LATELY):
        layouts.see(ended(seed, "seems_done"))
    assert layouts.hard == []


def test_acting_at_random_or_being_cut_short_makes_no_layout_hard():
    layouts = Layouts(0, 7, hard_share=1.0)
    layouts.see(ended(1, "time_limit", policy="random"))
    layouts.see(ended(2, "operator"))
    layouts.see(ended(3, "lost_link"))
    assert layouts.hard == []


def test_a_worker_that_starts_again_knows_the_hard_layouts(tmp_path, worker):
    journal = Journal(tmp_path)
    for number in range(2):
        info = replace(ended(number, "time_limit"), episode=f"{number:06d}-a")
        journal.seal(replace(fake_episode(), info=info))
    (tmp_path / "episodes" / "000001-a.npz").write_bytes(b"damaged")
    options = {"arm": "arm01", "journal": tmp_path, "seed": 0, "git_revision": "0", "config": {}}
    again = Worker(make_env=lambda: worker._env, hard_share=1.0, **options)
    assert again._layouts.draw(5, fresh=False) == 0


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
