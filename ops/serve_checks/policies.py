"""Policies to measure a server with: one that looks, and one whose rows say whose they are."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policy_server.backends.null import NullPolicy
from policy_server.policy import ActionChunk, Policy, PolicyRequest, PolicySpec

SIZE = (224, 224)
"""Of a picture, pixels: what openpi's policies take."""
HORIZON = 40
"""Rows of a chunk: two seconds at 20 Hz."""
MOST_S = 0.03
"""Of the time that `Stamped` takes, so that some rows come late."""


class Seeing:
    """`null` behind two cameras; it may take its time in the same way."""

    def __init__(self, takes: str = "") -> None:
        """Take no time, or with `40+6` 40 ms a batch and 6 ms more for each request."""
        self._null = NullPolicy(takes)
        self.spec = replace(
            NullPolicy.spec, images=("base", "wrist"), image_size=SIZE, horizon=HORIZON
        )

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return the measured pose, and a little of the first picture added, for 40 rows."""
        poses = [chunk.actions[:1] for chunk in self._null.infer_batch(requests)]
        return [
            ActionChunk(actions=_rows(pose, request), observed_at=request.observed_at)
            for pose, request in zip(poses, requests, strict=True)
        ]


def _rows(pose: NDArray[np.float32], request: PolicyRequest) -> NDArray[np.float32]:
    # A policy that does not look at all is refused by the server's test at the start.
    seen = 1e-3 * float(request.images["base"][0, 0, 0])
    return np.repeat(pose + np.float32(seen), HORIZON, axis=0)


class Stamped:
    """Rows that say arm, episode and step, counted on from the state that the arm gave."""

    spec = PolicySpec(
        action_space="joint_pos",
        action_dim=3,
        state={"stamp": 3},
        horizon=16,
        hz=20.0,
        reads_goal=False,
    )

    def __init__(self, takes: str = "") -> None:
        """Take up to 30 ms a batch, at random, or exactly as many as `takes` says."""
        self._random = random.Random(0)  # noqa: S311 - delays, no secrets
        self._exactly_s = float(takes) / 1e3 if takes else None

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request."""
        exactly = self._exactly_s
        time.sleep(self._random.uniform(0.0, MOST_S) if exactly is None else exactly)
        return [self._chunk(request) for request in requests]

    def _chunk(self, request: PolicyRequest) -> ActionChunk:
        rows = np.repeat(request.state["stamp"][None], self.spec.horizon, axis=0)
        rows[:, 2] += np.arange(self.spec.horizon)
        return ActionChunk(actions=rows, observed_at=request.observed_at)


def bench_policy(name: str) -> Policy:
    """Return `seeing`, `seeing:40+6`, `stamped` or `stamped:10`; raise `KeyError`."""
    kind, _, takes = name.partition(":")
    return {"seeing": Seeing, "stamped": Stamped}[kind](takes)
