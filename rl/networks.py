"""LayerNorm networks side by side in one flat parameter, with derivatives written out by hand.

The same mathematics as `nn.Sequential(Linear, LayerNorm, ReLU, ..., Linear)`, in fewer and smaller
steps: one tensor for the optimiser and the target average, nothing stored that a derivative does
not read, and no derivative that nobody asks for. `ops.bench_learner` says what that is worth.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Torch's own types are partly unknown.

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from policy_server.backends.network import Layer, forward

type Context = Any
"""What torch hands over to keep things in between the two directions."""

_EPSILON = 1e-5
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward
_relu_backward_into = torch.ops.aten.threshold_backward.grad_input


class Networks(nn.Module):
    """Networks of one shape that read the same input and know nothing of each other."""

    def __init__(self, count: int, sizes: Sequence[int]) -> None:
        """Draw the weights as `nn.Linear` and `nn.LayerNorm` do."""
        super().__init__()
        self.flat = nn.Parameter(torch.empty(count * _length(sizes)))
        self.layers = _networks(self.flat.detach(), sizes)
        """Views of `flat`, by network."""
        # Kept, because memory that is fresh at each update is slower than what is written to it.
        self._gradient = torch.empty_like(self.flat.detach())
        self._gradient_layers = _networks(self._gradient, sizes)
        for network in self.layers:
            _initialise(network)

    def values(self, x: Tensor, among: Sequence[int] | None = None) -> list[Tensor]:
        """Return the output of each network, or of those `among`, without derivatives."""
        asked = range(len(self.layers)) if among is None else among
        return [forward(self.layers[index], x) for index in asked]

    def silence(self) -> None:
        """Have every network answer 0 to whatever it is asked, until it learns better."""
        for network in self.layers:
            network[-1].weight.zero_()
            network[-1].bias.zero_()

    def trained(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return each network's output, differentiable by the weights and not by `x`.

        The derivative replaces what `flat.grad` was; it is not added to it.
        """
        return _ByWeights.apply(self, self.flat, x)  # type: ignore[no-any-return]

    def steered(self, given: Tensor, choice: Tensor) -> tuple[Tensor, ...]:
        """Return each network's one output for both joined, differentiable by `choice` alone."""
        return _ByChoice.apply(self, given, choice)  # type: ignore[no-any-return]

    def differentiate(self, passes: Sequence[Sequence["_Pass"]], grads: Sequence[Tensor]) -> None:
        """Set `flat.grad`, given each network's passes and the derivative by its output."""
        for layers, kept, grad, into in zip(
            self.layers, passes, grads, self._gradient_layers, strict=True
        ):
            _backward(layers, kept, grad, into)
        self.flat.grad = self._gradient


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """What a derivative reads of a hidden layer."""

    x: Tensor
    linear: Tensor
    mean: Tensor
    rstd: Tensor
    output: Tensor


class _ByWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, networks: Networks, flat: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        del flat
        results = [_remember(layers, x) for layers in networks.layers]
        # An output kept here would hold its own graph, megabytes, until garbage is collected.
        ctx.networks, ctx.passes = networks, [passes for _, passes in results]
        return tuple(output for output, _ in results)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Context, *grads: Tensor
    ) -> tuple[None, None, None]:
        ctx.networks.differentiate(ctx.passes, grads)
        return None, None, None


class _ByChoice(torch.autograd.Function):
    """The derivative is taken on the way forward, while what it reads is in the cache."""

    @staticmethod
    def forward(
        ctx: Context, networks: Networks, given: Tensor, choice: Tensor
    ) -> tuple[Tensor, ...]:
        x = torch.cat([given, choice], dim=1)
        one = x.new_ones(len(x), 1)
        outputs: list[Tensor] = []
        ctx.slopes = []
        for layers in networks.layers:
            output, passes = _remember(layers, x)
            grad = _backward(layers, passes, one)
            ctx.slopes.append(grad @ layers[0].weight[given.shape[1] :].t())
            outputs.append(output)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Context, *grads: Tensor
    ) -> tuple[None, None, Tensor]:
        total = ctx.slopes[0] * grads[0]
        for slope, grad in zip(ctx.slopes[1:], grads[1:], strict=True):
            total.addcmul_(slope, grad)
        return None, None, total


def _remember(layers: Sequence[Layer], x: Tensor) -> tuple[Tensor, list[_Pass]]:
    """Return the output and what `_backward` needs."""
    *hidden, last = layers
    passes: list[_Pass] = []
    for layer in hidden:
        linear = torch.addmm(layer.bias, x, layer.weight)
        normal, mean, rstd = torch.native_layer_norm(
            linear, layer.bias.shape, layer.gain, layer.offset, _EPSILON
        )
        output = normal.relu_()
        passes.append(_Pass(x, linear, mean, rstd, output))
        x = output
    return torch.addmm(last.bias, x, last.weight), passes


def _backward(
    layers: Sequence[Layer],
    passes: Sequence[_Pass],
    grad: Tensor,
    into: Sequence[Layer] | None = None,
) -> Tensor:
    """Return the derivative by the first linear output; write those by the weights `into`."""
    if into:
        _write(into[-1], grad, passes[-1].output)
    for index in reversed(range(len(passes))):
        grad = grad @ layers[index + 1].weight.t()
        grad, *affine = _hidden_backward(layers[index], passes[index], grad, weights=bool(into))
        if into:
            _write(into[index], grad, passes[index].x, *affine)
    return grad


def _hidden_backward(layer: Layer, kept: _Pass, grad: Tensor, *, weights: bool) -> list[Tensor]:
    """Return the derivatives by linear output, gain and offset; `grad` is overwritten."""
    _relu_backward_into(grad, kept.output, 0.0, grad_input=grad)
    return _layer_norm_backward(
        grad,
        kept.linear,
        layer.bias.shape,
        kept.mean,
        kept.rstd,
        layer.gain,
        layer.offset,
        [True, weights, weights],
    )


def _write(target: Layer, grad: Tensor, x: Tensor, *affine: Tensor) -> None:
    torch.mm(x.t(), grad, out=target.weight)
    torch.sum(grad, 0, out=target.bias)
    for mine, theirs in zip((target.gain, target.offset), affine, strict=False):
        if mine is not None:
            mine.copy_(theirs)


def _length(sizes: Sequence[int]) -> int:
    return sum(math.prod(shape) for _, shape in _shapes(sizes))


def _shapes(sizes: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the layer's index and the shape of weight, bias, gain and offset, in this order."""
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        yield index, (inputs, outputs)
        for _ in range(3 if index < len(sizes) - 2 else 1):
            yield index, (outputs,)


def _networks(flat: Tensor, sizes: Sequence[int]) -> list[list[Layer]]:
    """Return the layers of each network as views of the vector that holds them all."""
    return [list(_views(part, sizes)) for part in flat.split(_length(sizes))]


def _views(flat: Tensor, sizes: Sequence[int]) -> Iterator[Layer]:
    shapes = list(_shapes(sizes))
    parts = flat.split([math.prod(shape) for _, shape in shapes])
    for layer in range(len(sizes) - 1):
        yield Layer(
            *(
                part.view(shape)
                for part, (index, shape) in zip(parts, shapes, strict=True)
                if index == layer
            )
        )


def _initialise(layers: Sequence[Layer]) -> None:
    for layer in layers:
        bound = len(layer.weight) ** -0.5
        nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(layer.bias, -bound, bound)
        if layer.gain is not None and layer.offset is not None:
            nn.init.ones_(layer.gain)
            nn.init.zeros_(layer.offset)
