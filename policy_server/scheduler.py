"""One device thread for all arms: a slot for each, earliest deadline first, small batches."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import structlog

from policy_server.policy import ActionChunk, Policy, PolicyRequest

log = structlog.get_logger(__name__)

MAX_BATCH = 4
GATHER_S = 0.004
"""How long a batch waits for another arm that is about to ask."""
SERVICE_SHARE = 0.2
"""Weight of the newest batch in the estimate of how long one takes."""


class NotAnswered(Exception):
    """A request that gets no chunk; `code` says why in a word."""

    def __init__(self, code: str, message: str) -> None:
        """Say why, to the client."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """A chunk, and what it took."""

    chunk: ActionChunk
    waited_s: float
    """From the request's arrival to the start of its batch."""
    infer_s: float
    batch: int
    """Requests that were answered together."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot:
    """A request that waits."""

    session: str
    request: PolicyRequest
    arrived: float
    deadline: float
    answer: Future[Answer]


@dataclass(slots=True)
class _Habit:
    """When a session was answered last, and how soon after an answer it asks again."""

    answered: float = -math.inf
    thinks_s: float = math.inf


class Scheduler:
    """Answers requests in a thread of its own; of one session, only the newest that waits."""

    def __init__(
        self,
        policy: Policy,
        *,
        max_batch: int = MAX_BATCH,
        gather_s: float = GATHER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to answer with `policy`, at most `max_batch` requests at once."""
        self._policy, self._max_batch, self._gather_s = policy, max_batch, gather_s
        self._clock = clock
        self._slots: dict[str, _Slot] = {}
        self._habits: dict[str, _Habit] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._service_s = 0.0
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return len(self._slots)

    def submit(
        self, session: str, request: PolicyRequest, *, slack_s: float = math.inf
    ) -> Future[Answer]:
        """Return the answer to come, a `NotAnswered` among them; it is wanted within `slack_s`."""
        now = self._clock()
        slot = _Slot(
            session=session, request=request, arrived=now, deadline=now + slack_s, answer=Future()
        )
        with self._changed:
            if self._closing:
                slot.answer.set_exception(NotAnswered("draining", "the server is shutting down"))
                return slot.answer
            habit = self._habits.setdefault(session, _Habit())
            habit.thinks_s = now - habit.answered
            older = self._slots.pop(session, None)
            self._slots[session] = slot
            self._changed.notify()
        if older:
            _fail(older, NotAnswered("superseded", "a newer observation took this one's place"))
        return slot.answer

    def forget(self, session: str) -> None:
        """Drop what a session still waits for: it has hung up."""
        with self._changed:
            slot = self._slots.pop(session, None)
            self._habits.pop(session, None)
        if slot:
            slot.answer.cancel()

    def swap(self, policy: Policy) -> None:
        """Answer with another policy from the next batch on; whoever waits is not disturbed."""
        self._policy = policy

    def close(self, *, patience_s: float = 10.0) -> None:
        """Answer what waits, take nothing more, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=patience_s)

    def _run(self) -> None:
        while batch := self._next_batch():
            self._serve(batch)

    def _next_batch(self) -> list[_Slot]:
        """Return the most urgent requests, none once all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._slots or self._closing)
            self._gather()
            urgent = sorted(self._slots.values(), key=lambda slot: slot.deadline)
            batch = urgent[: self._max_batch]
            for slot in batch:
                del self._slots[slot.session]
        return batch

    def _gather(self) -> None:
        """Wait a moment for others that are about to ask; the condition is held."""
        if not self._slots:
            return
        ends = self._clock() + self._gather_s
        while len(self._slots) < self._max_batch and self._is_another_due():
            left = ends - self._clock()
            if left <= 0 or not self._changed.wait(timeout=left):
                return

    def _is_another_due(self) -> bool:
        now = self._clock()
        return any(
            abs(habit.answered + habit.thinks_s - now) <= self._gather_s
            for session, habit in self._habits.items()
            if session not in self._slots
        )

    def _serve(self, batch: Sequence[_Slot]) -> None:
        began = self._clock()
        on_time = [slot for slot in batch if slot.deadline - began >= self._service_s]
        for slot in batch:
            if slot not in on_time:
                late = f"an answer takes {1e3 * self._service_s:.0f} ms: too late for this arm"
                _fail(slot, NotAnswered("late", late))
        if not on_time:
            # What was slow once may be quick again.
            self._service_s *= 1 - SERVICE_SHARE
            return
        try:
            chunks = self._policy.infer_batch([slot.request for slot in on_time])
        except Exception:  # one bad batch must not end the service
            log.exception("policy failed", batch=len(on_time))
            for slot in on_time:
                _fail(slot, NotAnswered("internal", "the policy failed; see the server's log"))
            return
        took = self._clock() - began
        self._service_s += SERVICE_SHARE * (took - self._service_s)
        for slot, chunk in zip(on_time, chunks, strict=True):
            self._answer(slot, chunk, began=began, infer_s=took, batch=len(on_time))

    def _answer(
        self, slot: _Slot, chunk: ActionChunk, *, began: float, infer_s: float, batch: int
    ) -> None:
        habit = self._habits.get(slot.session)
        if habit:
            habit.answered = self._clock()
        trouble = unusable(chunk, self._policy.spec.action_dim)
        if trouble:
            _fail(slot, NotAnswered("no_chunk", trouble))
        elif slot.answer.set_running_or_notify_cancel():
            waited = began - slot.arrived
            slot.answer.set_result(
                Answer(chunk=chunk, waited_s=waited, infer_s=infer_s, batch=batch)
            )


def unusable(chunk: ActionChunk, action_dim: int) -> str:
    """Return why no arm should carry out a chunk; empty if one may."""
    rows = chunk.actions
    if not len(rows):
        return chunk.refusal or "the policy has no answer"
    if rows.ndim != 2 or rows.shape[1] != action_dim:
        return f"the policy answered shape {rows.shape}, expected (n, {action_dim})"
    if not np.isfinite(rows).all():
        return "the policy answered numbers that are not finite"
    if not rows.any():
        return "the policy answered nothing but zeros"
    return ""


def _fail(slot: _Slot, error: NotAnswered) -> None:
    if slot.answer.set_running_or_notify_cancel():
        slot.answer.set_exception(error)
