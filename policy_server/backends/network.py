"""A small network in plain torch: how it sees a state, and its layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from policy_server.policy import PolicySpec

LOG_STD = (-20.0, 2.0)
"""Bounds of the logarithm of an action's standard deviation."""

_LIMIT = 3.0
"""An encoded number is clipped to plus and minus this."""
_FINE = 50.0
"""What a relative position is multiplied by for its fine copy: 20 mm are 1 before the tanh."""
_JOINTS = ((0.0,) * 5 + (50.0,), (1 / 90,) * 5 + (1 / 50,))
_POSITION = ((0.22, 0.0, 0.0), (10.0, 10.0, 10.0))
_SEEN = ((0.22, 0.0, 0.0, 0.0), (10.0, 10.0, 10.0, 1.0))
_RELATIVE = ((0.0,) * 3, (10.0,) * 3)
_KNOWN = {
    "joint_pos": _JOINTS,
    "joint_target": _JOINTS,
    "jaw": _POSITION,
    "tool": _POSITION,
    "thing": _SEEN,
    "place": _SEEN,
    "thing_from_jaw": _RELATIVE,
    "place_from_thing": _RELATIVE,
}
"""Centre and scale of the state vectors that need one."""
_HAVE_FINE_COPY = ("thing_from_jaw", "place_from_thing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Fixed numbers that make a network's input of a state: nothing that drifts while it learns."""

    centre: tuple[float, ...]
    """What each element of the joined state vectors is reduced by."""
    scale: tuple[float, ...]
    """What each element is multiplied by afterwards."""
    fine: tuple[int, ...]
    """Elements that are given a second time, magnified and squashed."""

    @property
    def size(self) -> int:
        """Return the size of a network's input."""
        return len(self.centre) + len(self.fine)


def encoding_of(spec: PolicySpec) -> Encoding:
    """Return the encoding of the state vectors that a spec names."""
    centre: list[float] = []
    scale: list[float] = []
    fine: list[int] = []
    for name, size in spec.state.items():
        if name in _HAVE_FINE_COPY:
            fine += range(len(centre), len(centre) + size)
        middle, factor = _KNOWN.get(name, ((0.0,) * size, (1.0,) * size))
        if len(middle) != size:
            raise ValueError(f"the state vector {name} has {size} elements, expected {len(middle)}")
        centre += middle
        scale += factor
    return Encoding(centre=tuple(centre), scale=tuple(scale), fine=tuple(fine))


class Encoder:
    """Turns joined state vectors, shape (batch, n), into a network's input, shape (batch, size)."""

    def __init__(self, encoding: Encoding) -> None:
        self._scale = torch.tensor(encoding.scale)
        self._shift = -torch.tensor(encoding.centre) * self._scale
        self._fine = torch.tensor(encoding.fine, dtype=torch.int64)

    def __call__(self, state: Tensor) -> Tensor:
        """Return the network's input."""
        coarse = torch.addcmul(self._shift, state, self._scale).clamp_(-_LIMIT, _LIMIT)
        fine = state.index_select(1, self._fine).mul_(_FINE).tanh_()
        return torch.cat([coarse, fine], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The weights of one linear layer, and of the normalisation behind it if there is one."""

    weight: Tensor
    """Shape (inputs, outputs)."""
    bias: Tensor
    gain: Tensor | None = None
    offset: Tensor | None = None


def forward(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Return the output of layers with LayerNorm and ReLU between them, (batch, outputs)."""
    *hidden, last = layers
    for layer in hidden:
        x = torch.addmm(layer.bias, x, layer.weight)
        x = torch.layer_norm(x, layer.bias.shape, layer.gain, layer.offset).relu_()
    return torch.addmm(last.bias, x, last.weight)


def tensors_of(layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Return the weights of layers by name, e.g. `layers.0.weight`."""
    return {
        f"layers.{index}.{name}": tensor
        for index, layer in enumerate(layers)
        for name in ("weight", "bias", "gain", "offset")
        if (tensor := getattr(layer, name)) is not None
    }


def layers_of(tensors: Mapping[str, Tensor], sizes: Sequence[int]) -> list[Layer]:
    """Return a network's layers; raise `ValueError` if the weights are not of these sizes."""
    layers: list[Layer] = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        shapes = {"weight": (inputs, outputs), "bias": (outputs,)}
        if index < len(sizes) - 2:
            shapes |= {"gain": (outputs,), "offset": (outputs,)}
        layers.append(
            Layer(**{n: _tensor(tensors, f"layers.{index}.{n}", s) for n, s in shapes.items()})
        )
    return layers


def _tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    found = tensors.get(name)
    if found is None or tuple(found.shape) != shape:
        there = "is missing" if found is None else f"has shape {tuple(found.shape)}"
        raise ValueError(f"{name} {there}, expected shape {shape}")
    return found
