"""Weights of fewer bits: what becomes of the numbers, and of what is not a linear layer."""

import torch
from torch import nn

from policy_server.backends.precision import quantise_linear


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False))


def test_every_weight_is_within_half_a_step_of_its_own_row():
    plain, small = nn.Linear(40, 5), nn.Linear(40, 5)
    with torch.no_grad():
        plain.weight *= torch.tensor([[1e-3], [1.0], [50.0], [0.0], [1.0]])
        small.weight.copy_(plain.weight)
    quantise_linear(small)
    step = plain.weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((small.weight - plain.weight).abs() <= 0.501 * step).all()


def test_weights_are_kept_in_eight_bits_and_read_in_the_layer_s_own_type():
    small = network().to(torch.bfloat16)
    quantise_linear(small)
    kept = small[0].parametrizations.weight
    assert (kept.original0.dtype, kept.original1.shape) == (torch.int8, (7, 1))
    assert small[0].weight.dtype == torch.bfloat16


def test_nothing_but_linear_layers_changes():
    plain, small = network(), network()
    quantise_linear(small)
    assert torch.equal(small[1].weight, plain[1].weight)
    assert torch.equal(small[0].bias, plain[0].bias)
    assert not hasattr(small[1], "parametrizations")


def test_answers_are_nearly_the_same_and_repeatable():
    plain, small, x = network(), network(), torch.randn(4, 12)
    quantise_linear(small)
    with torch.no_grad():
        error = (small(x) - plain(x)).abs().max()
        assert torch.equal(small(x), small(x))
    assert 0.0 < error < 0.05


def test_attention_s_own_linear_layer_goes_on_working():
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2).eval(), torch.randn(3, 1, 8)
    with torch.no_grad():
        plain = attention(x, x, x)[0]
        quantise_linear(attention)
        torch.testing.assert_close(attention(x, x, x)[0], plain, atol=0.02, rtol=0.0)
