import numpy as np
import pytest
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from policy_server.policy import PolicySpec
from rl.replay import Mixed, Replay
from rl.transition import Transition

SPEC = PolicySpec(action_space="ee_delta", action_dim=2, state={"thing": 2, "held": 1})


def replay_of(capacity=100, seed=0):
    return Replay(SPEC, np.random.default_rng(seed), capacity=capacity)


def state_of(number):
    # The policy's order is not the observation's, and it does not read all of it.
    return {
        "unused": np.full(7, np.nan, np.float32),
        "held": np.array([-number], np.float32),
        "thing": np.array([number, number + 0.5], np.float32),
    }


def step_of(number, *, terminated=False, truncated=False, **changes):
    parts = {
        "state": state_of(number),
        "action": np.array([number / 100, 0.5], np.float32),
        "reward": number / 10 - 1.0,
        "reward_before": number / 20 - 1.0,
        "next_state": state_of(number + 1),
        "terminated": terminated,
        "truncated": truncated,
    }
    return Transition(**{**parts, **changes})


def test_a_batch_holds_steps_as_they_were_with_states_in_the_policys_order():
    replay = replay_of()
    replay.add([step_of(number) for number in range(10)])
    batch = replay.sample(64)
    number = batch.observations[:, :1]
    torch.testing.assert_close(batch.observations, torch.cat([number, number + 0.5, -number], 1))
    torch.testing.assert_close(
        batch.next_observations, torch.cat([number + 1, number + 1.5, -number - 1], 1)
    )
    torch.testing.assert_close(batch.actions, torch.cat([number / 100, 0 * number + 0.5], 1))
    torch.testing.assert_close(batch.rewards, number / 10 - 1.0)
    assert set(number.flatten().tolist()) == set(range(10))


def test_a_batch_is_what_sb3_reads():
    replay = replay_of()
    replay.add([step_of(1)])
    batch = replay.sample(8, env=None)
    assert isinstance(batch, ReplayBufferSamples)
    assert batch.discounts is None
    shapes = {
        name: tuple(part.shape) for name, part in batch._asdict().items() if name != "discounts"
    }
    assert shapes == {
        "observations": (8, 3),
        "actions": (8, 2),
        "next_observations": (8, 3),
        "dones": (8, 1),
        "rewards": (8, 1),
    }


def test_running_out_of_time_is_no_termination():
    replay = replay_of()
    replay.add([step_of(0, truncated=True), step_of(1, terminated=True)])
    batch = replay.sample(50)
    torch.testing.assert_close(batch.dones, batch.observations[:, :1])


def test_the_newest_steps_replace_the_oldest():
    replay = replay_of(capacity=4)
    replay.add([step_of(number) for number in range(10)])
    assert (len(replay), replay.added) == (4, 10)
    assert set(replay.sample(200).observations[:, 0].tolist()) == {6.0, 7.0, 8.0, 9.0}


def test_a_batch_stays_as_it_is_when_the_next_is_drawn():
    replay = replay_of()
    replay.add([step_of(number) for number in range(50)])
    batch = replay.sample(32)
    before = batch.observations.clone()
    replay.sample(32)
    replay.add([step_of(number) for number in range(60, 200)])
    torch.testing.assert_close(batch.observations, before)


def test_draws_go_on_where_they_stood():
    first, resumed = replay_of(seed=1), replay_of(seed=2)
    for replay in (first, resumed):
        replay.add([step_of(number) for number in range(50)])
    first.sample(32)
    resumed.rng_state = first.rng_state
    torch.testing.assert_close(first.sample(32).observations, resumed.sample(32).observations)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"next_state": {"thing": np.zeros(2, np.float32)}}, "'held' is missing"),
        ({"state": {"thing": np.zeros(3), "held": np.zeros(1)}}, r"'thing' is \(3,\)"),
        ({"action": np.zeros(3, np.float32)}, "action"),
        ({"reward": float("nan")}, "not finite"),
    ],
)
def test_steps_that_do_not_fit_are_refused_together_with_their_episode(changes, sentence):
    replay = replay_of()
    with pytest.raises(ValueError, match=sentence):
        replay.add([step_of(0), step_of(1, **changes)])
    assert len(replay) == 0


def test_an_empty_replay_says_so():
    with pytest.raises(ValueError, match="empty"):
        replay_of().sample(4)


def mixed_of(own, prior, share=0.5):
    """Steps of this run have numbers up to 9, those of the prior from 50 on."""
    mine, theirs = replay_of(), replay_of(seed=1)
    mine.add([step_of(number) for number in range(own)])
    theirs.add([step_of(50 + number, terminated=True) for number in range(prior)])
    return Mixed(mine, theirs, share=share)


def of_the_prior(batch):
    return int((batch.rewards >= 4.0 - 1e-6).sum())


def test_a_batch_has_its_share_of_the_prior():
    batch = mixed_of(10, 10, share=0.25).sample(40)
    assert len(batch.rewards) == 40
    assert of_the_prior(batch) == 10


def test_a_step_of_a_mixed_batch_stays_whole():
    batch = mixed_of(10, 10).sample(40)
    numbers = (batch.rewards[:, 0] + 1.0) * 10
    torch.testing.assert_close(batch.observations[:, 0], numbers)
    torch.testing.assert_close(batch.next_observations[:, 0], numbers + 1)
    torch.testing.assert_close(batch.actions[:, 0], numbers / 100)
    assert torch.equal(batch.dones[:, 0] == 1.0, numbers >= 49.5)


def test_without_a_prior_the_draws_are_those_of_the_replay_alone():
    alone = replay_of()
    alone.add([step_of(number) for number in range(10)])
    for ours, plain in zip(mixed_of(10, 0).sample(32), alone.sample(32), strict=True):
        assert ours is plain is None or torch.equal(ours, plain)


def test_before_the_first_step_of_a_run_its_prior_is_all_there_is():
    assert of_the_prior(mixed_of(0, 10).sample(16)) == 16
