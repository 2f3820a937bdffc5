"""Adam for a few large tensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_fused_adam: Any = vars(torch)["_fused_adam_"]
"""The arithmetic of `torch.optim.Adam(fused=True)`."""
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What Adam remembers of one tensor's derivatives."""

    first: Tensor
    second: Tensor
    step: Tensor

    def named(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {"first": self.first, "second": self.second, "step": self.step}


class Adam:
    """Does what `torch.optim.Adam` does, as far as SB3 asks for it.

    Torch's own imports torch's compiler, which takes seconds, and spends as long on bookkeeping as
    on the arithmetic.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        self._params = list(params)
        self.param_groups: list[dict[str, Any]] = [{"params": self._params, "lr": lr}]
        """SB3 writes its learning rate here."""
        self.moments = [
            Moments(torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())) for p in self._params
        ]

    def zero_grad(self) -> None:
        """Forget the derivatives."""
        for param in self._params:
            param.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the tensors against their derivatives."""
        for moments in self.moments:
            moments.step.add_(1)
        _fused_adam(
            self._params,
            [param.grad for param in self._params],
            [moments.first for moments in self.moments],
            [moments.second for moments in self.moments],
            [],
            [moments.step for moments in self.moments],
            lr=self.param_groups[0]["lr"],
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )
