"""The rows that an arm has yet to carry out, by step: no clock and no thread in here."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy_server.rtc import cross_fade, ensemble, slew_limited

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

    def __init__(
        self,
        *,
        action_dim: int,
        blend: int = 0,
        most: int | None = None,
        max_step: float | None = None,
        ensemble: float | None = None,
    ) -> None:
        """Blend a new chunk into the old one over `blend` rows; keep `most` rows of each.

        After a seam no number changes by more than `max_step` a row. With `ensemble` a step's row
        is the mean of all chunks that have one, older ones weighing more by this decay (ACT).
        """
        self._blend, self._most = blend, most
        self._max_step = np.full(action_dim, math.inf if max_step is None else max_step)
        self._decay, self._chunks = ensemble, list[tuple[int, Rows]]()
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

        Rows that begin later than that follow the ones here, where these reach so far.
        `continues` says that the rows were made to go on with those here.
        """
        old, early = self.rows(step), max(0, first_step - step)
        stale = min(max(0, step - first_step), len(rows))
        fresh = np.concatenate([old[:early], rows[: self._most][stale:]])
        if len(old) < early or stale == len(rows):
            return Seam(stale=stale, jump=0.0, naive_jump=0.0)
        if self._decay is not None:
            merged = self._mean(step, fresh)
        elif self._blend and not continues:
            merged = cross_fade(old, fresh, delay=0, overlap=self._blend)
        else:
            merged = fresh
        if len(old):
            merged = slew_limited(merged, last=old[0], max_step=self._max_step)
        self._rows, self._first = merged, step
        return Seam(stale=stale, jump=_jump(old, merged), naive_jump=_jump(old, fresh))

    def clear(self) -> None:
        """Forget all rows."""
        self._rows = self._empty
        self._chunks.clear()

    def _mean(self, step: int, fresh: Rows) -> Rows:
        """Return for each step from `step` on the mean of all chunks that have a row for it."""
        kept = [(first, rows) for first, rows in self._chunks if first + len(rows) > step]
        self._chunks = [*kept, (step, fresh)]
        steps = range(step, max(first + len(rows) for first, rows in self._chunks))
        rows = [ensemble(self._chunks, at, decay=self._decay or 0.0) for at in steps]
        return np.array(rows, np.float32)


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
