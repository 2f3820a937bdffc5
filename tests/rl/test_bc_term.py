"""The pull towards recordings moves the actor, fades, and goes on where it was."""

import numpy as np
import pytest
import torch

from policy_server.backends.network import encoding_of
from rl.bc_term import BcTerm
from rl.networks import Networks
from tests.rl.test_bc import SPEC, answers, made_up


def actor():
    torch.manual_seed(3)
    return Networks(1, (encoding_of(SPEC).size, 32, 32, 8))


def term(networks, **settings):
    return BcTerm(made_up(), SPEC, networks, batch_size=64, learning_rate=3e-3, **settings)


def test_it_pulls_the_actor_towards_what_was_done():
    networks, fresh = actor(), made_up(100, seed=9)
    pull = term(networks, share=1.0)
    before = np.abs(answers(networks, fresh.states) - fresh.actions).mean()
    figures = pull.step(300, 300)
    assert np.abs(answers(networks, fresh.states) - fresh.actions).mean() < 0.5 * before
    assert figures["learner/bc_error"] < before


def test_its_weight_halves_and_then_it_lets_go():
    networks = actor()
    pull = term(networks, weight=0.8, half_life=100)
    assert [pull.weight(updates) for updates in (0, 100, 200)] == [0.8, 0.4, 0.2]
    before = networks.flat.detach().clone()
    assert pull.step(2000, 500) == {"learner/bc_weight": 0.0}
    assert torch.equal(networks.flat, before)


def test_a_tenth_of_the_weight_moves_the_actor_a_tenth_as_far():
    moved: list[float] = []
    for weight in (1.0, 0.1):
        networks = actor()
        before = networks.flat.detach().clone()
        term(networks, weight=weight, share=1.0, half_life=10**9).step(1, 1)
        moved.append(float((networks.flat.detach() - before).abs().sum()))
    assert moved[1] == pytest.approx(0.1 * moved[0], rel=0.02)


def test_slices_of_any_length_take_the_same_steps():
    ends: list[torch.Tensor] = []
    for slices in ([40], [7, 13, 1, 19]):
        networks = actor()
        pull, updates = term(networks, share=0.25, half_life=10**12), 0
        for taken in slices:
            updates += taken
            pull.step(updates, taken)
        ends.append(networks.flat.detach())
    assert torch.allclose(ends[0], ends[1], atol=1e-6)


def test_a_resumed_term_goes_on_as_if_nothing_had_happened():
    networks = actor()
    pull = term(networks)
    pull.step(40, 40)
    kept = {name: tensor.clone() for name, tensor in pull.tensors().items()}
    draws, flat = pull.rng_state, networks.flat.detach().clone()
    pull.step(80, 40)
    other = actor()
    other.flat.detach().copy_(flat)
    resumed = term(other)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(kept[name])
    resumed.rng_state = draws
    resumed.step(80, 40)
    assert torch.equal(other.flat, networks.flat)


@pytest.mark.parametrize("wrong", [{"half_life": 0}, {"share": -1.0}, {"weight": 2.0}])
def test_settings_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a number"):
        term(actor(), **wrong)
