"""Acting by somebody else's policy, corrected by what was learnt: `clip(a_base + alpha * u)`.

The base policy is a black box: only its rows are seen. Residual reinforcement learning as in arXiv
1812.03201, with corrections that are small at first and may grow as in arXiv 2412.13630.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from policy_server.policy import (
    ActionChunk,
    Correction,
    Policy,
    PolicyRequest,
    PolicySpec,
    begin_episode,
    told,
)
from policy_server.streaming import Streaming

type Row = NDArray[np.float32]

BASE_ACTION, CHUNK = "base_action", "chunk"
"""What a correction reads beyond the environment's state; see `corrections_of`."""
RECIPE = "residual.json"
"""Beside a learnt policy: what it corrects, and how."""
PREFIX = "residual:"
"""Before the action space of what is corrected: such rows are no actions by themselves."""


def corrections_of(base: PolicySpec) -> PolicySpec:
    """Return the spec of what corrects a policy that acts in the space of `base`, row by row.

    It reads all that `base` names, here the arm's whole state, and besides base_action, the row to
    be corrected as shares of its range from -1 to 1, and chunk: the share of its chunk that was
    used up before the row, and how late the chunk was, as a share of the chunk as well.
    """
    return replace(
        base,
        action_space=f"{PREFIX}{base.action_space}",
        state={**base.state, BASE_ACTION: base.action_dim, CHUNK: 2},
        images=(),
        horizon=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How large corrections may be, as shares of half an action's range."""

    alpha: float = 0.5
    """In the end."""
    first: float = 0.2
    """Share of `alpha` at the beginning."""
    updates: int = 2000
    """The share grows evenly to 1 over so many updates of the learner."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha <= 2.0:
            raise ValueError(f"alpha={self.alpha}; expected above 0, at most 2 (the whole range)")
        if not 0.0 <= self.first <= 1.0:
            raise ValueError(f"first={self.first}; expected a share from 0 to 1")
        if self.updates < 0:
            raise ValueError(f"updates={self.updates}; expected a number from 0 up")

    def share(self, version: int) -> float:
        """Return the share of `alpha` that a policy of so many updates may use."""
        grown = min(1.0, version / self.updates) if self.updates else 1.0
        return self.first + (1.0 - self.first) * grown


@runtime_checkable
class Streams(Protocol):
    """A policy whose rows come ahead of time."""

    streaming: Streaming


@runtime_checkable
class Closes(Protocol):
    """A policy that holds something to be released."""

    def close(self) -> None:
        """Release it."""
        ...


class ResidualPolicy:
    """One arm's rows of a base policy, each with a correction; a chunk is one row.

    Where the base has no row, there is none here and nothing is corrected: the arm holds.
    """

    def __init__(
        self,
        base: Policy,
        *,
        arm: PolicySpec,
        bounds: tuple[Row, Row],
        growth: Growth,
        name: str = "",
    ) -> None:
        """Correct nothing until `correct` is called.

        `arm` is what the arm offers, `bounds` the least and greatest action, each of shape
        (action_dim,), and `name` what the base is called in episodes.
        """
        self._base, self._growth, self._name = base, growth, name
        self._least, self._greatest = bounds
        self._half: Row = ((self._greatest - self._least) / 2).astype(np.float32)
        self._learnt: Policy | None = None
        self._share, self._last = 0.0, np.zeros(arm.action_dim, np.float32)
        self.spec = replace(
            arm, images=base.spec.images, checkpoint=base.spec.checkpoint, horizon=1
        )
        self.corrections = corrections_of(replace(arm, images=()))
        """What `correct` may be given."""

    def correct(self, learnt: Policy, *, version: int) -> None:
        """Act by these corrections from the next row on; `version` counts the learner's updates."""
        self._learnt, self._share = learnt, self._growth.share(version)

    def reset(self) -> None:
        """Begin another episode."""
        begin_episode(self._base)

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return the corrected row of one step for one arm; raise `PolicyAway` as the base does."""
        (request,) = requests
        [chunk] = self._base.infer_batch([self._asked(request)])
        if not len(chunk.actions):
            return [replace(chunk, correction=self._nothing())]
        return [self._corrected(request, chunk.actions[0])]

    def about(self) -> Mapping[str, object]:
        """Return what an episode keeps of it."""
        spec = self._base.spec
        base = {
            "name": self._name,
            "checkpoint": spec.checkpoint,
            "normalisation": spec.normalisation,
            "alpha": self._growth.alpha,
            "share": self._share,
        }
        return {**told(self._base), "base": base}

    def close(self) -> None:
        """Release the base."""
        if isinstance(self._base, Closes):
            self._base.close()

    def _asked(self, request: PolicyRequest) -> PolicyRequest:
        state = {name: request.state[name] for name in self._base.spec.state}
        return replace(request, state=state)

    def _corrected(self, request: PolicyRequest, row: Row) -> ActionChunk:
        row = np.clip(row, self._least, self._greatest)
        self._last = ((row - self._least) / self._half - 1.0).astype(np.float32)
        correction = self._correction(request)
        action = np.clip(row + correction.reach * correction.action, self._least, self._greatest)
        return ActionChunk(
            actions=action.astype(np.float32)[None],
            observed_at=request.observed_at,
            correction=correction,
        )

    def _correction(self, request: PolicyRequest) -> Correction:
        nothing = self._nothing()
        if self._learnt is None:
            return nothing
        [answer] = self._learnt.infer_batch(
            [replace(request, state={**request.state, **nothing.state}, images={})]
        )
        action = np.clip(self._share * answer.actions[0], -1.0, 1.0)
        return replace(nothing, action=action.astype(np.float32))

    def _nothing(self) -> Correction:
        return Correction(
            action=np.zeros_like(self._last),
            state={BASE_ACTION: self._last, CHUNK: self._chunk()},
            base=(self._least + (self._last + 1.0) * self._half).astype(np.float32),
            reach=(self._growth.alpha * self._half).astype(np.float32),
        )

    def _chunk(self) -> Row:
        """Return where in its chunk the row is, and how late that came, shape (2,)."""
        if not isinstance(self._base, Streams):
            return np.zeros(2, np.float32)
        streaming, horizon = self._base.streaming, self._base.spec.horizon
        left = streaming.queue[-1] if streaming.queue else horizon
        late = streaming.delays[-1] if streaming.delays else 0
        shares = np.array([1.0 - left / horizon, late / horizon])
        return np.clip(shares, 0.0, 1.0).astype(np.float32)
