"""The rows that an arm has yet to carry out, by step: no clock and no thread in here."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy_server.rtc import cross_fade

type Row = NDArray[np.float32]
type Rows = NDArray[np.float32]

RECENT = 20
"""Delays that count."""
FIRST_GUESS = 2
"""Steps that a chunk is taken to be late until one has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """What a new chunk did to the rows that were there."""

    stale: int
    """Rows of it that came too late."""
    jump: float
    """Largest change of the next row, in the row's units; 0 where there was none before."""
    naive_jump: float
    """The same, had the new chunk simply taken over."""


class ActionQueue:
    """One row for each step to come; a newer chunk takes over from the step at hand."""

    def __init__(self, *, action_dim: int, blend: int = 0, most: int | None = None) -> None:
        """Blend a new chunk into the old one over `blend` rows; keep `most` rows of each."""
        self._blend, self._most = blend, most
        self._empty = np.empty((0, action_dim), np.float32)
        self._rows, self._first = self._empty, 0

    def remaining(self, step: int) -> int:
        """Return for how many steps from `step` on there are rows."""
        return len(self.rows(step))

    def rows(self, step: int) -> Rows:
        """Return the rows from `step` on, shape (n, action_dim)."""
        return self._rows[max(0, step - self._first) :] if step >= self._first else self._empty

    def take(self, step: int) -> Row | None:
        """Return the row of a step, None where there is none; earlier ones are forgotten."""
        rows = self.rows(step)
        self._rows, self._first = rows, step
        return rows[0] if len(rows) else None

    def merge(self, rows: Rows, *, first_step: int, step: int, continues: bool = False) -> Seam:
        """Take rows over, the first of which belongs to `first_step`; `step` comes next.

        `continues` says that the rows were made to go on with those here.
        """
        stale = min(step - first_step, len(rows))
        fresh, old = rows[: self._most][stale:], self.rows(step)
        if not len(fresh):
            return Seam(stale=stale, jump=0.0, naive_jump=0.0)
        blend = 0 if continues else self._blend
        merged = cross_fade(old, fresh, delay=0, overlap=blend) if blend else fresh
        self._rows, self._first = merged, step
        return Seam(stale=stale, jump=_jump(old, merged), naive_jump=_jump(old, fresh))

    def clear(self) -> None:
        """Forget all rows."""
        self._rows = self._empty


def _jump(old: Rows, new: Rows) -> float:
    return float(np.abs(new[0] - old[0]).max()) if len(old) else 0.0


class DelayEstimate:
    """How many steps pass from an observation to its chunk: counted, never timed."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._recent = deque[int](maxlen=RECENT)

    def add(self, steps: int) -> None:
        """Count a chunk that took over so many steps after its observation."""
        self._recent.append(steps)

    @property
    def steps(self) -> int:
        """Return what nearly all of the recent chunks kept to."""
        if not self._recent:
            return FIRST_GUESS
        return math.ceil(float(np.percentile(self._recent, 95)))


def is_refill_due(*, remaining: int, horizon: int, threshold: float, delay: int) -> bool:
    """Return whether to ask for a chunk; `threshold` is a share of the horizon."""
    return remaining <= max(threshold * horizon, delay + 1)
