"""A pull of SAC's actor towards the better of two episodes, beside what it learns by itself."""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import json
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from policy_server.policy import PolicySpec
from rl.adam import Adam
from rl.bc_term import TOO_LITTLE
from rl.networks import Networks
from rl.preference import Contrast, Pairwise, Ranked


class PreferenceTerm:
    """Gradient steps on an actor alone, by contrast of pairs of episodes.

    Its weight is `weight` at first and halves every `half_life` updates of the learner. Adam takes
    steps of one length whatever a loss is multiplied by, so the weight scales the learning rate.
    """

    def __init__(  # noqa: PLR0913 - the settings of one term
        self,
        ranked: Ranked,
        spec: PolicySpec,
        networks: Networks,
        contrast: Contrast,
        *,
        weight: float = 1.0,
        half_life: int = 5000,
        share: float = 0.1,
        learning_rate: float = 1e-4,
        seed: int = 0,
    ) -> None:
        """Pull `networks` in `share` as many steps as the learner takes updates.

        What a relative contrast, and one that keeps near its start, count as the start is what the
        actor says now; `tensors` has it, so that a run goes on with the same.
        """
        if not half_life > 0 or not share > 0 or not 0 <= weight <= 1:
            raise ValueError(
                f"half_life is {half_life}, share {share}, weight {weight}; expected the first two "
                "above 0, and a weight from 0 to 1"
            )
        self._weight, self._half_life, self._share = weight, half_life, share
        self._learning_rate = learning_rate
        self._draws = np.random.default_rng([seed, 3])
        self._pairwise = Pairwise(ranked, spec, networks, contrast, draws=self._draws)
        self._optimizer = Adam([networks.flat], learning_rate)

    def weight(self, updates: int) -> float:
        """Return how hard it pulls after so many updates of the learner."""
        return self._weight * 0.5 ** (updates / self._half_life)

    def step(self, updates: int, taken: int) -> dict[str, float]:
        """Pull after a slice of `taken` updates, `updates` in all; return figures."""
        weight = self.weight(updates)
        if weight < TOO_LITTLE:
            return {"learner/preference_weight": 0.0}
        self._optimizer.param_groups[0]["lr"] = weight * self._learning_rate
        due = int(self._share * updates) - int(self._share * (updates - taken))
        losses = [self._pairwise.descend(self._optimizer) for _ in range(due)]
        figures = {"learner/preference_loss": sum(losses) / due} if due else {}
        return {**figures, "learner/preference_weight": weight}

    def tensors(self) -> Mapping[str, Tensor]:
        """Return all that a step reads or changes besides the actor, by name and not copied."""
        moments = self._optimizer.moments[0].named()
        named = {f"preference_adam.{name}": tensor for name, tensor in moments.items()}
        return {**named, "preference_start": self._pairwise.start}

    @property
    def rng_state(self) -> str:
        """Return, as JSON, where the generator of the draws stands."""
        return json.dumps(self._draws.bit_generator.state)

    @rng_state.setter
    def rng_state(self, state: str) -> None:
        self._draws.bit_generator.state = json.loads(state)
