"""The pull towards better episodes moves the actor, fades, and goes on where it was."""

import numpy as np
import pytest
import torch

from rl.preference import Contrast
from rl.preference_term import PreferenceTerm
from tests.rl.test_bc import SPEC
from tests.rl.test_preference import actor, along, made_up


def term(networks, **settings):
    return PreferenceTerm(
        made_up(), SPEC, networks, Contrast(keep=0.02), learning_rate=3e-3, **settings
    )


def test_it_pulls_the_actor_towards_the_better_episodes():
    networks, fresh = actor(), made_up(seed=9).steps.states
    before = along(networks, fresh)
    figures = term(networks, share=1.0).step(200, 200)
    assert along(networks, fresh) > before + 0.2
    assert figures["learner/preference_loss"] < np.log(2.0)


def test_its_weight_halves_and_then_it_lets_go():
    networks = actor()
    pull = term(networks, weight=0.8, half_life=100)
    assert [pull.weight(updates) for updates in (0, 100, 200)] == [0.8, 0.4, 0.2]
    before = networks.flat.detach().clone()
    assert pull.step(2000, 500) == {"learner/preference_weight": 0.0}
    assert torch.equal(networks.flat, before)


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
    pull.step(60, 60)
    kept = {name: tensor.clone() for name, tensor in pull.tensors().items()}
    draws, flat = pull.rng_state, networks.flat.detach().clone()
    pull.step(120, 60)
    other = actor(7)
    resumed = term(other)
    other.flat.detach().copy_(flat)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(kept[name])
    resumed.rng_state = draws
    resumed.step(120, 60)
    assert torch.equal(other.flat, networks.flat)


@pytest.mark.parametrize("wrong", [{"half_life": 0}, {"share": -1.0}, {"weight": 2.0}])
def test_settings_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        term(actor(), **wrong)
