"""A policy comes to act as in the better episodes, and stays near where it began."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch.distributions import Normal, kl_divergence

from policy_server.backends.learned import LearnedPolicy
from policy_server.backends.network import encoding_of, tensors_of
from rl.adam import Adam
from rl.bc import SATURATED, Steps
from rl.networks import Networks
from rl.preference import (
    Contrast,
    Pairwise,
    Ranked,
    actor_of,
    divergence,
    log_density,
    prefer,
)
from tests.rl.test_bc import SIZE, SPEC, answers, at

GOOD = np.array([0.5, -0.5, 0.3, 0.0], np.float32)


def made_up(episodes=20, *, steps=10, seed=0):
    """Return episodes of much the same action each; the better of two went on along `GOOD`."""
    draws = np.random.default_rng(seed)
    states = np.zeros((episodes * steps, SIZE), np.float32)
    states[:, at("thing_from_jaw")] = draws.uniform(-0.08, 0.08, (len(states), 3))
    about = np.repeat(draws.uniform(-0.8, 0.8, (episodes, 4)), steps, axis=0)
    actions = (about + draws.uniform(-0.1, 0.1, about.shape)).astype(np.float32)
    owners = np.arange(len(states)) // steps
    along = np.bincount(owners, actions @ GOOD)
    one, other = np.triu_indices(episodes, k=1)
    return Ranked(
        steps=Steps(states=states, actions=actions, episode=owners),
        better=np.where(along[one] > along[other], one, other),
        worse=np.where(along[one] > along[other], other, one),
        weights=np.ones(len(one), np.float32),
    )


def actor(seed=3):
    torch.manual_seed(seed)
    return Networks(1, (encoding_of(SPEC).size, 32, 32, 8))


def along(networks, states):
    """Return how far an actor's answers go along `GOOD`, on average."""
    return float((answers(networks, states) @ GOOD).mean())


def test_the_density_of_an_action_is_that_of_sb3():
    outputs = torch.tensor([[0.3, -0.2, -1.0, 0.4], [1.5, 0.1, 0.2, -0.7]])
    actions = torch.tensor([[0.5, -0.9], [0.1, 0.0]])
    theirs = SquashedDiagGaussianDistribution(2, epsilon=0.0)
    theirs.proba_distribution(outputs[:, :2], outputs[:, 2:])
    torch.testing.assert_close(log_density(outputs, actions), theirs.log_prob(actions))


def test_an_action_at_its_bound_counts_with_the_probability_of_all_beyond():
    outputs = torch.tensor([[1.0, -0.5]], requires_grad=True)
    edge = torch.tensor(SATURATED).atanh()
    for action in (1.0, 0.99):
        found = log_density(outputs, torch.tensor([[action]]))
        beyond = 1.0 - Normal(1.0, float(np.exp(-0.5))).cdf(edge)
        assert found.item() == pytest.approx(float(beyond.log()), abs=1e-5)
    far = torch.tensor([[30.0, -3.0]], requires_grad=True)
    log_density(far, torch.tensor([[1.0]])).sum().backward()
    assert far.grad is not None
    # A mean that is out there already has nothing to gain by coming back.
    assert far.grad.abs().max() < 1e-6


def test_the_divergence_is_that_of_the_gaussians():
    a, b = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).split([3, 3], dim=1)
    now, start = torch.cat([a, 0.3 * b], dim=1), torch.cat([b, 0.2 * a], dim=1)
    theirs = kl_divergence(Normal(a, (0.3 * b).exp()), Normal(b, (0.2 * a).exp())).sum(dim=1)
    torch.testing.assert_close(divergence(now, start), theirs)


def test_it_does_what_the_better_episodes_did():
    networks, fresh = actor(), made_up(seed=9).steps.states
    before = along(networks, fresh)
    contrast = Contrast(keep=0.02)
    learnt = prefer(networks, SPEC, made_up(), contrast, updates=300, learning_rate=3e-3)
    assert along(networks, fresh) > before + 0.1
    assert learnt.taught.right > 0.75 * learnt.taught.pairs
    assert learnt.held.pairs == 38
    assert learnt.held.right > 0.65 * learnt.held.pairs


def test_pairs_the_other_way_round_teach_the_opposite():
    ranked = made_up()
    turned = Ranked(
        steps=ranked.steps, better=ranked.worse, worse=ranked.better, weights=ranked.weights
    )
    ways: list[float] = []
    for pairs in (ranked, turned):
        networks = actor()
        prefer(networks, SPEC, pairs, Contrast(keep=0.02), updates=100, learning_rate=3e-3)
        ways.append(along(networks, ranked.steps.states))
    assert ways[0] > 0.1 > -0.1 > ways[1]


def test_the_more_it_is_kept_the_less_it_moves():
    moved = [
        prefer(actor(), SPEC, made_up(), Contrast(keep=keep), updates=60, learning_rate=3e-3).moved
        for keep in (0.0, 0.3, 100.0)
    ]
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 0.01


@pytest.mark.parametrize("relative", [False, True])
def test_the_log_odds_are_differences_of_discounted_sums_over_means_alone(relative):
    ranked, networks, other = made_up(2, steps=3), actor(), actor(4)
    contrast = Contrast(alpha=0.2, discount=0.5, relative=relative)
    pairwise = pairs_of(ranked, networks, contrast)
    means, spreads = pairs_of(ranked, other, contrast).start[:, :4], pairwise.start[:, 4:]
    networks.flat.detach().copy_(other.flat)
    actions = torch.from_numpy(ranked.steps.actions)
    density = log_density(torch.cat([means, spreads], dim=1), actions)
    if relative:
        density -= log_density(pairwise.start, actions)
    sums = 0.2 * (density.reshape(2, 3) * torch.tensor([1.0, 0.5, 0.25])).sum(dim=1)
    margin = float(sums[ranked.better[0]] - sums[ranked.worse[0]])
    assert pairwise.standing(ranked).margin == pytest.approx(margin, rel=1e-5)


def pairs_of(ranked, networks, contrast):
    return Pairwise(ranked, SPEC, networks, contrast, draws=np.random.default_rng(0))


def test_pairs_leave_the_spread_of_actions_alone():
    ranked, networks = made_up(), actor()
    spreads = pairs_of(ranked, networks, Contrast()).start[:, 4:]
    prefer(networks, SPEC, ranked, Contrast(keep=1.0), updates=100, learning_rate=3e-3)
    now = pairs_of(ranked, networks, Contrast()).start
    assert (now[:, 4:] - spreads).abs().mean() < 0.1


def test_who_counts_more_is_believed_where_two_contradict_each_other():
    ranked = made_up(2)
    both = Ranked(
        steps=ranked.steps,
        better=np.array([0, 1]),
        worse=np.array([1, 0]),
        weights=np.array([1.0, 5.0], np.float32),
    )
    networks, contrast = actor(), Contrast(keep=0.0, conservative=1.0)
    pairwise = Pairwise(both, SPEC, networks, contrast, draws=np.random.default_rng(0))
    optimizer = Adam([networks.flat], 1e-3)
    for _ in range(40):
        pairwise.descend(optimizer)
    assert pairwise.standing(both.take(np.array([1]))).margin > 0.2


def test_the_policy_that_it_begins_as_stays_as_it_was():
    layers = actor().layers[0]
    policy = LearnedPolicy(SPEC, encoding_of(SPEC), layers, greedy=True)
    before = {name: tensor.clone() for name, tensor in tensors_of(layers).items()}
    networks = actor_of(policy)
    assert all(torch.equal(before[n], t) for n, t in tensors_of(networks.layers[0]).items())
    prefer(networks, SPEC, made_up(), Contrast(), updates=5, learning_rate=1e-2)
    assert not torch.equal(networks.layers[0][0].weight, before["layers.0.weight"])
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(layers).items())


def test_a_training_that_diverges_is_no_policy():
    with pytest.raises(FloatingPointError, match="lower learning_rate="):
        prefer(actor(), SPEC, made_up(), Contrast(), updates=20, learning_rate=1e30)


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0.0}, {"discount": 1.5}, {"conservative": 0.0}, {"keep": -1.0}, {"alpha": np.nan}],
)
def test_settings_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Contrast(**wrong)
