"""Real-Time Chunking inside the denoising loop of LeRobot's flow policies, chunk by chunk."""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from policy_server.rtc import Schedule, guidance_coefficient, guided_velocity, prefix_weights

type Denoise = Callable[[Tensor], Tensor]
"""From a noisy batch to its velocity, both of shape (batch, horizon, action_dim)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefix:
    """The rows that a batch of chunks continues, in the model's own units."""

    rows: Tensor
    """Shape (batch, horizon, action_dim), 0 where there is none."""
    weights: Tensor
    """Shape (batch, horizon, action_dim), from 0 to 1, 0 where there is no row."""


class Guidance:
    """Pulls the chunks of a flow policy towards the rows that they continue.

    It takes the place of LeRobot's `RTCProcessor` in pi0, pi05 and SmolVLA, whose time runs from
    1 at noise to 0 at actions and whose velocity points from actions to noise. Each chunk of a
    batch has its own delay and its own rows, or none. Rows and columns that nobody gave are not
    guided.
    """

    def __init__(
        self,
        *,
        overlap: int | None = None,
        schedule: Schedule = "exp",
        limit: float = 5.0,
        jacobian: Literal["identity", "true"] = "identity",
    ) -> None:
        """Guide up to row `overlap`, or as far as the given rows reach.

        `limit` bounds the guidance coefficient: 5 in the paper, 10 in LeRobot; above the number
        of denoising steps, the first one overshoots. The true Jacobian costs a backward pass a
        step, and needs `torch.no_grad` where the policy would use `torch.inference_mode`.
        """
        if jacobian not in {"identity", "true"}:
            raise ValueError(f"no Jacobian {jacobian!r}; known: identity, true")
        self._overlap, self._limit = overlap, limit
        self._schedule: Schedule = schedule
        self._true_jacobian = jacobian == "true"

    def is_debug_enabled(self) -> bool:
        """Return False: LeRobot's policies then leave its tracker alone."""
        return False

    def prefix(
        self,
        like: Tensor,
        rows: Sequence[Tensor | None],
        delays: Sequence[int],
        *,
        overlap: int | None = None,
    ) -> Prefix:
        """Return what a batch of the shape, type and device of `like` continues.

        `rows`, each of shape (n, columns) in the model's own units, and `delays` have one entry a
        chunk; None or no rows leave it free. `overlap` stands in for the guidance's own.
        """
        reach = self._overlap if overlap is None else overlap
        prefix = Prefix(rows=torch.zeros_like(like), weights=torch.zeros_like(like))
        for chunk, (given, delay) in enumerate(zip(rows, delays, strict=True)):
            if given is not None:
                end = len(given) if reach is None else reach
                self._fill(prefix, chunk, given, delay=delay, overlap=end)
        return prefix

    def _fill(self, prefix: Prefix, chunk: int, given: Tensor, *, delay: int, overlap: int) -> None:
        """Write what one chunk continues, shape (n, columns), into the prefix of its batch."""
        horizon, width = prefix.rows.shape[1:]
        n, columns = min(len(given), horizon), given.shape[1]
        if columns > width:
            raise ValueError(f"rows to continue have {columns} columns, expected at most {width}")
        weights = prefix_weights(n, delay=delay, overlap=overlap, schedule=self._schedule)
        column = torch.tensor(weights, dtype=prefix.weights.dtype)[:, None]
        prefix.rows[chunk, :n, :columns] = given[:n]
        prefix.weights[chunk, :n, :columns] = column

    def denoise_step(
        self,
        x_t: Tensor,
        prev_chunk_left_over: Prefix | Tensor | Sequence[Tensor | None] | None,
        inference_delay: int | Sequence[int] | None,
        time: float,
        original_denoise_step_partial: Denoise,
        execution_horizon: int | None = None,
    ) -> Tensor:
        """Return the guided velocity of a noisy batch `x_t`, (batch, horizon, action_dim).

        The leftover is a `Prefix`, which has delays and overlap in it and is made once a batch;
        or rows (batch, n, columns), rows for each chunk, or rows (n, columns) for all. LeRobot
        names the overlap `execution_horizon`.
        """
        given = prev_chunk_left_over
        if given is None:
            return original_denoise_step_partial(x_t)
        if not isinstance(given, Prefix):
            rows = _rows(given, len(x_t))
            delays = _delays(inference_delay, len(x_t))
            given = self.prefix(x_t, rows, delays, overlap=execution_horizon)
        return self._guided(x_t, given, time, original_denoise_step_partial)

    def _guided(self, x_t: Tensor, prefix: Prefix, time: float, denoise: Denoise) -> Tensor:
        vjp: Denoise | None = None
        if self._true_jacobian:
            velocity, clean, vjp = _with_vjp(x_t, time, denoise)
        else:
            velocity = denoise(x_t)
            clean = x_t - time * velocity
        # LeRobot's velocity points from actions to noise.
        coefficient = -guidance_coefficient(1.0 - time, limit=self._limit)
        return guided_velocity(
            velocity, clean, prefix.rows, prefix.weights, coefficient=coefficient, vjp=vjp
        )


def _rows(given: Tensor | Sequence[Tensor | None], batch: int) -> Sequence[Tensor | None]:
    if not isinstance(given, Tensor):
        return given
    return [given] * batch if given.ndim == 2 else list(given)


def _delays(given: int | Sequence[int] | None, batch: int) -> Sequence[int]:
    if given is None:
        raise ValueError("rows to continue need the delay that the new ones arrive with")
    return [given] * batch if isinstance(given, int) else given


def _with_vjp(x_t: Tensor, time: float, denoise: Denoise) -> tuple[Tensor, Tensor, Denoise]:
    """Return velocity, clean batch, and the product with the latter's transposed derivative."""
    with torch.enable_grad():
        noisy = x_t.detach().requires_grad_()
        velocity = denoise(noisy)
        clean = noisy - time * velocity

    def vjp(error: Tensor) -> Tensor:
        return torch.autograd.grad(clean, noisy, error)[0]

    return velocity.detach(), clean.detach(), vjp
