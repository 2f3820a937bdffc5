"""A small network learns what was done, from what was seen, and is a policy like any other."""

import numpy as np
import pytest
import torch

from envs.actions import EeDelta
from envs.arm_env import policy_spec
from envs.twin_env import SAFETY
from policy_server.backends.learned import LearnedPolicy
from policy_server.backends.network import Encoder, encoding_of
from policy_server.policy import PolicyRequest
from rl.bc import Steps, clone, start_from, write_policy
from rl.bc_checkpoint import Checkpoint
from rl.networks import Networks
from rl.sac import SacLearner
from robot.limits import SafetyLimits

SPEC = policy_spec(EeDelta(SafetyLimits.load(SAFETY)))
SIZE = sum(SPEC.state.values())
STARTS = dict(zip(SPEC.state, np.cumsum([0, *SPEC.state.values()]).tolist(), strict=False))
SMALL = {"hidden": (32, 32), "updates": 400, "batch_size": 64, "learning_rate": 3e-3}


def at(name):
    return slice(STARTS[name], STARTS[name] + SPEC.state[name])


def made_up(count=600, *, seed=0):
    """Go to the thing and close the gripper over it; the action before is the very action."""
    draws = np.random.default_rng(seed)
    states = np.zeros((count, SIZE), np.float32)
    off = draws.uniform(-0.08, 0.08, (count, 3))
    states[:, at("thing_from_jaw")] = off
    actions = np.column_stack([np.clip(off * 10, -1, 1), np.sign(off[:, 0])]).astype(np.float32)
    states[:, at("action")] = actions
    return Steps(states=states, actions=actions, episode=np.arange(count) // 20)


def answers(networks, states):
    mean = networks.values(Encoder(encoding_of(SPEC))(torch.tensor(states)))[0].chunk(2, dim=1)[0]
    return mean.tanh().numpy()


@pytest.fixture(scope="module")
def taught():
    return clone(made_up(), SPEC, seed=1, **SMALL)


def test_what_was_done_is_learnt_and_holds_for_other_episodes(taught):
    assert taught.error < 0.25
    assert taught.held_out_error is not None
    assert taught.held_out_error < 0.3


def test_an_action_does_not_follow_from_the_one_before(taught):
    states = made_up(50, seed=5).states
    before = answers(taught.networks, states)
    states[:, at("action")] *= -1.0
    assert np.abs(answers(taught.networks, states) - before).mean() < 0.15
    states[:, at("thing_from_jaw")] *= -1.0
    assert np.abs(answers(taught.networks, states) - before).mean() > 0.5


def test_the_same_seed_gives_the_same_network(taught):
    again = clone(made_up(), SPEC, seed=1, **SMALL)
    assert torch.equal(again.networks.flat, taught.networks.flat)


class Cut(Exception):
    """Somebody ends a training."""


def cut_at(update):
    def report(lesson):
        if lesson.update == update:
            raise Cut

    return report


def kept(tmp_path, **facts):
    return Checkpoint(file=tmp_path / "clone", every=50, facts={"seed": 1, **facts})


def test_a_training_that_was_cut_off_ends_as_if_it_never_was(taught, tmp_path):
    with pytest.raises(Cut):
        clone(made_up(), SPEC, seed=1, report=cut_at(260), checkpoint=kept(tmp_path), **SMALL)
    done = []
    again = clone(
        made_up(),
        SPEC,
        seed=1,
        report=lambda lesson: done.append(lesson.update),
        checkpoint=kept(tmp_path),
        **SMALL,
    )
    assert done[0] == 260
    assert torch.equal(again.networks.flat, taught.networks.flat)
    assert again.held_out_error == taught.held_out_error


def test_nobody_goes_on_with_what_is_another_s_or_damaged(tmp_path):
    with pytest.raises(Cut):
        clone(made_up(), SPEC, report=cut_at(60), checkpoint=kept(tmp_path), **SMALL)
    with pytest.raises(ValueError, match="begun with seed=1 and not 2"):
        clone(made_up(), SPEC, checkpoint=kept(tmp_path, seed=2), **SMALL)
    (tmp_path / "clone").write_bytes((tmp_path / "clone").read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        clone(made_up(), SPEC, checkpoint=kept(tmp_path), **SMALL)


def test_what_is_written_is_served_as_any_learnt_policy(taught, tmp_path):
    write_policy(tmp_path / "clone", taught.networks, SPEC, updates=400)
    policy = LearnedPolicy.load(tmp_path / "clone", greedy=True)
    state = made_up(1).states[0]
    vectors = {name: state[at(name)] for name in SPEC.state}
    [chunk] = policy.infer_batch([PolicyRequest(state=vectors, goal="", observed_at=0.0)])
    assert policy.spec == SPEC
    assert np.allclose(chunk.actions[0], answers(taught.networks, state[None])[0], atol=1e-5)


def test_the_spread_of_an_action_is_about_what_error_is_left(taught):
    states = made_up(200, seed=7).states
    output = taught.networks.values(Encoder(encoding_of(SPEC))(torch.tensor(states)))[0]
    spread = output.chunk(2, dim=1)[1].exp().mean(dim=0)
    assert (spread > 0.02).all()
    assert (spread[:3] < 0.6).all()


def test_an_actor_starts_with_the_weights_of_a_clone(taught, tmp_path):
    write_policy(tmp_path / "clone", taught.networks, SPEC, updates=400)
    learner = SacLearner(SPEC, hidden=(32, 32), capacity=10)
    start_from(tmp_path / "clone", learner._actor.networks, SPEC)
    assert torch.equal(learner._actor.networks.flat, taught.networks.flat)


def test_a_clone_of_another_shape_is_no_start(taught, tmp_path):
    write_policy(tmp_path / "clone", taught.networks, SPEC, updates=400)
    wider = Networks(1, (encoding_of(SPEC).size, 64, 64, 8))
    before = wider.flat.detach().clone()
    with pytest.raises(ValueError, match="pretrain it for this arm"):
        start_from(tmp_path / "clone", wider, SPEC)
    with pytest.raises(ValueError, match="no policy to start from"):
        start_from(tmp_path, wider, SPEC)
    assert torch.equal(wider.flat, before)
