"""Real-Time Chunking: continue the rows that an arm carries out while the next chunk is computed.

Wherever two chunks meet here, row `i` of both belongs to the same step, and the first `delay`
rows will have been carried out when the later chunk arrives.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

type Row = NDArray[np.float32]
"""Shape (action_dim,)."""
type Rows = NDArray[np.float32]
"""Shape (rows, action_dim)."""
type Weights = NDArray[np.float64]
"""Shape (rows,), from 0 to 1."""
type Schedule = Literal["exp", "linear", "ones", "zeros"]
"""How weights decay; the paper's choice is `exp`."""


class Tensor(Protocol):
    """What numpy's arrays and torch's tensors have in common here."""

    def __add__(self, other: Any, /) -> Any: ...  # noqa: ANN401 - each library's own
    def __sub__(self, other: Any, /) -> Any: ...  # noqa: ANN401
    def __mul__(self, other: Any, /) -> Any: ...  # noqa: ANN401


def prefix_weights(
    horizon: int, *, delay: int, overlap: int, schedule: Schedule = "exp"
) -> Weights:
    """Return how much each row of a chunk is bound to the rows that it continues, (horizon,).

    1 for the first `delay` rows, 0 from row `overlap` on, decaying in between: the soft mask W of
    arXiv 2506.07339, where `overlap` is H - s. A delay beyond the overlap counts as the overlap,
    as in the paper's code, and an overlap beyond the horizon as the horizon, as in LeRobot's.
    """
    if delay < 0 or overlap < 0:
        raise ValueError(f"delay {delay} and overlap {overlap} must not be negative")
    end = min(overlap, horizon)
    start = min(delay, end)
    steps = np.arange(horizon)
    left = np.clip((end - steps) / (end - start + 1), 0.0, 1.0)
    weights = np.where(steps < start, 1.0, _decay(left, schedule))
    return np.where(steps < end, weights, 0.0)


def _decay(left: Weights, schedule: Schedule) -> Weights:
    """Return the weights at these shares of the way that is left to the end of the overlap."""
    match schedule:
        case "exp":
            return left * np.expm1(left) / math.expm1(1.0)
        case "linear":
            return left
        case "ones":
            return np.ones_like(left)
        case "zeros":
            return np.zeros_like(left)
        case _:
            raise ValueError(f"no schedule {schedule!r}; known: exp, linear, ones, zeros")


def guidance_coefficient(t: float, *, limit: float) -> float:
    """Return how hard to guide at time `t`, 0 at noise and 1 at actions (arXiv 2506.07339).

    It is min(limit, (1-t) / (t r²)) with r² = (1-t)² / (t² + (1-t)²). At t = 0 it is the limit;
    at t = 1, where no step is left and the paper's code gives no number, it is 0 as in LeRobot.
    """
    if t <= 0.0:
        return limit
    if t >= 1.0:
        return 0.0
    return min(limit, ((1.0 - t) ** 2 + t**2) / (t * (1.0 - t)))


def guided_velocity[T: Tensor](
    velocity: T,
    clean: T,
    target: T,
    weights: T,
    *,
    coefficient: float,
    vjp: Callable[[T], T] | None = None,
) -> T:
    """Return the velocity that leads to the target where it has weight (arXiv 2506.07339).

    `clean` is the chunk that the plain velocity leads to; all shapes broadcast to its own. `vjp`
    multiplies a vector with the transposed derivative of `clean` by the noisy chunk; None takes
    that derivative for the identity, as LeRobot does. The velocity points from noise to actions;
    for one that points the other way, negate the coefficient.
    """
    error = (target - clean) * weights
    return velocity + (error if vjp is None else vjp(error)) * coefficient


def mismatch(old: Rows, new: Rows, *, delay: int, schedule: Schedule = "exp") -> float:
    """Return how badly `new` goes on with `old`: the weighted mean of squared differences.

    Weights are those of `prefix_weights` over the rows that both have, so that it counts most
    whether `new` begins with the `delay` rows that are carried out meanwhile.
    """
    end = min(len(old), len(new))
    weights = prefix_weights(end, delay=delay, overlap=end, schedule=schedule)
    if not weights.any():
        return 0.0
    squares = np.square(old[:end].astype(np.float64) - new[:end]).sum(axis=1)
    return float(weights @ squares / weights.sum())


def cross_fade(
    old: Rows, new: Rows, *, delay: int, overlap: int, schedule: Schedule = "exp"
) -> Rows:
    """Return as many rows as `new` has: `delay` rows of `old` unchanged, a blend, then `new`.

    For policies whose chunks cannot be guided. From row `overlap` on, and where `old` has no row,
    `new` counts alone.
    """
    end = min(max(overlap, delay), len(old), len(new))
    weights = prefix_weights(end, delay=delay, overlap=end, schedule=schedule)[:, None]
    blend = weights * old[:end] + (1.0 - weights) * new[:end]
    return np.concatenate([blend.astype(np.float32), new[end:]])


def slew_limited(rows: Rows, *, last: Row, max_step: NDArray[np.floating]) -> Rows:
    """Return rows that follow `rows` with no number changing by more than `max_step` a row.

    `last` is the row before the first; `max_step`, shape (action_dim,), in the units of the rows,
    may hold infinity. Rows that are slow enough come back as they are.
    """
    if not (max_step >= 0.0).all():
        raise ValueError(f"max_step must not be negative: {max_step}")
    limited = np.empty_like(rows)
    before = last
    for index, row in enumerate(rows):
        limited[index] = np.clip(row, before - max_step, before + max_step)
        before = limited[index]
    return limited


def roll_forward(joint_pos: Row, rows: Rows, *, delay: int) -> Row:
    """Return the joint positions, shape (joints,), that the first `delay` rows lead to.

    The state that VLASH (arXiv 2512.01031) shows a policy whose rows are joint positions; unproven
    for one that was not fine-tuned with it. Row 0 of the answer belongs to the step after those
    `delay` rows.
    """
    if joint_pos.shape != rows.shape[1:]:
        raise ValueError(f"rows of shape {rows.shape[1:]} are no positions of {joint_pos.shape}")
    carried_out = rows[:delay]
    return (carried_out[-1] if len(carried_out) else joint_pos).copy()


def ensemble(chunks: Sequence[tuple[int, Rows]], step: int, *, decay: float = 0.01) -> Row | None:
    """Return the mean of what the chunks say of a step, or None where none has a row for it.

    Temporal ensembling of ACT (arXiv 2304.13705): chunks, each with the step of its row 0, come
    oldest first, and the i-th of those that have a row for the step weighs exp(-decay · i).
    """
    held = [rows[step - first] for first, rows in chunks if first <= step < first + len(rows)]
    if not held:
        return None
    weights = np.exp(-decay * np.arange(len(held)))
    return (weights @ np.stack(held) / weights.sum()).astype(np.float32)
