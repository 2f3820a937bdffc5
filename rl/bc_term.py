"""A pull of SAC's actor towards recorded actions that fades as it learns by itself."""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import json
import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from policy_server.policy import PolicySpec
from rl.adam import Adam
from rl.bc import Batches, Steps, descend
from rl.networks import Networks

TOO_LITTLE = 1e-3
"""Below this weight nothing is pulled any more."""


class BcTerm:
    """Gradient steps on an actor alone, towards what was done in recordings.

    Its weight is `weight` at first and halves every `half_life` updates of the learner. Adam takes
    steps of one length whatever a loss is multiplied by, so the weight scales the learning rate.
    """

    def __init__(  # noqa: PLR0913 - the settings of one term
        self,
        steps: Steps,
        spec: PolicySpec,
        networks: Networks,
        *,
        weight: float = 1.0,
        half_life: int = 5000,
        share: float = 0.25,
        batch_size: int = 256,
        learning_rate: float = 5e-4,
        seed: int = 0,
    ) -> None:
        """Pull `networks` in `share` as many steps as the learner takes updates."""
        for name, value in (("half_life", half_life), ("share", share)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}; expected a number above 0")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight is {weight!r}; expected a number from 0 to 1")
        self._weight, self._half_life, self._share = weight, half_life, share
        self._batch_size, self._learning_rate = batch_size, learning_rate
        self._draws = np.random.default_rng([seed, 2])
        self._batches = Batches(steps, spec, self._draws)
        self._networks = networks
        self._optimizer = Adam([networks.flat], learning_rate)

    def weight(self, updates: int) -> float:
        """Return how hard it pulls after so many updates of the learner."""
        return self._weight * 0.5 ** (updates / self._half_life)

    def step(self, updates: int, taken: int) -> dict[str, float]:
        """Pull after a slice of `taken` updates, `updates` in all; return figures."""
        weight = self.weight(updates)
        if weight < TOO_LITTLE:
            return {"learner/bc_weight": 0.0}
        self._optimizer.param_groups[0]["lr"] = weight * self._learning_rate
        due = int(self._share * updates) - int(self._share * (updates - taken))
        errors = [
            descend(self._networks, self._optimizer, *self._batches.draw(self._batch_size))
            for _ in range(due)
        ]
        figures = {"learner/bc_error": sum(errors) / due} if due else {}
        return {**figures, "learner/bc_weight": weight}

    def tensors(self) -> Mapping[str, Tensor]:
        """Return all that a step changes besides the actor, by name and not copied."""
        return {f"bc_adam.{name}": t for name, t in self._optimizer.moments[0].named().items()}

    @property
    def rng_state(self) -> str:
        """Return, as JSON, where the generator of the draws stands."""
        return json.dumps(self._draws.bit_generator.state)

    @rng_state.setter
    def rng_state(self, state: str) -> None:
        self._draws.bit_generator.state = json.loads(state)
