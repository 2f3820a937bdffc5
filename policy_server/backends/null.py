"""Policies that know nothing: random motion to explore with, and none at all."""

import time
from collections.abc import Sequence

import numpy as np

from policy_server.policy import ActionChunk, PolicyRequest, PolicySpec
from robot.arm import JOINTS


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


class NullPolicy:
    """Stays where the arm is; it may take its time, as a model on a device does."""

    spec = PolicySpec(
        action_space="joint_pos",
        action_dim=len(JOINTS),
        state={"joint_pos": len(JOINTS)},
        hz=20.0,
        horizon=16,
        action_names=JOINTS,
        reads_goal=False,
    )

    def __init__(self, takes: str = "") -> None:
        """Take no time, or with `40+6` 40 ms a batch and 6 ms more for each request."""
        try:
            parts = [float(part) / 1e3 for part in takes.split("+")] if takes else [0.0, 0.0]
            self._batch_s, self._request_s = parts
        except ValueError as error:
            raise ValueError(f"null:{takes}; expected null or null:40+6") from error

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request: the measured pose, again and again."""
        time.sleep(self._batch_s + self._request_s * len(requests))
        return [
            ActionChunk(
                actions=np.repeat(request.state["joint_pos"][None], self.spec.horizon, axis=0),
                observed_at=request.observed_at,
            )
            for request in requests
        ]
