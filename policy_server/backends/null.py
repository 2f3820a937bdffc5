"""Policies that know nothing: random motion to explore with."""

from collections.abc import Sequence

import numpy as np

from policy_server.policy import ActionChunk, PolicyRequest, PolicySpec


class RandomPolicy:
    """Acts at random, each number uniformly from -1 to 1."""

    def __init__(self, spec: PolicySpec, *, seed: int = 0) -> None:
        self._spec = spec
        self._random = np.random.default_rng(seed)

    @property
    def spec(self) -> PolicySpec:
        """Return the spec it was given."""
        return self._spec

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one random chunk a request."""
        return [ActionChunk(actions=self._rows(), observed_at=r.observed_at) for r in requests]

    def _rows(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        shape = (self._spec.horizon, self._spec.action_dim)
        return self._random.uniform(-1.0, 1.0, shape).astype(np.float32)
