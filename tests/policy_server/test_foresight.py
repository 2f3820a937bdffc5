"""The scripted expert with chunks: what it imagines is what the simulated arm then does."""

import numpy as np
import pytest

from envs.twin_env import make_twin_env
from policy_server.backends.foresight import HORIZON, PACE, ForesightPolicy
from policy_server.policy import Committed
from rewarder.goal import task_goal
from rl.rollout import request_of
from rl.trial import TruthJudge


@pytest.fixture(scope="module")
def env():
    env = make_twin_env(task_goal("place"), hz=ForesightPolicy.spec.hz)
    yield env
    env.close()


def request(env, *, seed=1_000_000, committed=None):
    state, info = env.reset(seed=seed)
    asked = request_of(ForesightPolicy.spec, env, state, info)
    object.__setattr__(asked, "committed", committed)
    return asked


def test_half_a_chunk_at_a_time_is_enough_to_place_a_cube(env):
    policy, judge = ForesightPolicy("place"), TruthJudge()
    state, info = env.reset(seed=1_000_000)
    judge.begin(env)
    for step in range(200):
        if step % 8 == 0:
            asked = request_of(policy.spec, env, state, info)
            rows = iter(policy.infer_batch([asked])[0].actions)
        state, _, _, _, info = env.step(next(rows))
        if judge.done():
            break
    assert judge.success()


def test_committed_rows_come_back_as_they_are(env):
    policy = ForesightPolicy("place")
    plain = policy.infer_batch([request(env)])[0].actions
    committed = Committed(rows=np.flip(plain[:6], 0).copy(), delay=4)
    rows = policy.infer_batch([request(env, committed=committed)])[0].actions
    np.testing.assert_array_equal(rows[:4], committed.rows[:4])
    assert rows.shape == (HORIZON, 4)
    assert np.abs(rows[4:, :3]).max() <= PACE + 1e-6


def test_a_chunk_is_all_that_is_left_to_do(env):
    """Once the cube is above the bowl the expert lets go and rises."""
    policy = ForesightPolicy("place")
    rows = policy.infer_batch([request(env)])[0].actions
    assert rows[0, 3] == 1.0
    assert (rows[:, 3] == -1.0).any()


def test_a_task_without_an_expert_is_refused():
    with pytest.raises(ValueError, match="no scripted expert for 'stack'"):
        ForesightPolicy("stack")
