"""Weights of fewer bits: int8 for linear layers, a scale for each of their outputs."""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

LARGEST = 127
"""Of an int8 that has its negative."""


def quantise_linear(*networks: nn.Module) -> None:
    """Keep the weights of all linear layers as int8; they are multiplied out whenever read.

    What reads a layer's weight or its type sees what it saw before. All else stays as it is:
    embeddings, convolutions, norms, biases and activations.
    """
    for network in networks:
        for module in list(network.modules()):
            if isinstance(module, nn.Linear):
                module.weight.requires_grad = False
                part = _Int8(module.weight.dtype)
                parametrize.register_parametrization(module, "weight", part)


class _Int8(nn.Module):
    """A weight, shape (outputs, inputs), as whole numbers and a scale for each output."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, whole: Tensor, scale: Tensor) -> Tensor:
        """Return the weight in the layer's own type."""
        return (whole * scale).to(self._dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whole numbers and the scales, shape (outputs, 1), of a weight."""
        full = weight.float()
        # A row of nothing but zeros has no scale of its own.
        scale = full.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LARGEST
        return (full / scale).round().to(torch.int8), scale
