"""A policy elsewhere as a `Policy` here: chunks are asked for ahead, so that no arm waits."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from policy_server.action_queue import ActionQueue, DelayEstimate, Row, Seam, is_refill_due
from policy_server.handshake import agree
from policy_server.link import Arrived, Inquiry, PolicyLink
from policy_server.policy import (
    ActionChunk,
    Committed,
    PolicyAway,
    PolicyRequest,
    PolicySpec,
    no_chunk,
)
from policy_server.rtc import roll_forward
from policy_server.streaming import Streaming

FIRST_S = 10.0
"""An arm that rests waits so long for the first chunk of an episode."""
LONE_ROW_TICKS = 0.5
"""It waits so much of a tick for a chunk of one row, which is of no use to any later step."""
AWAY_S = 3.0
"""An arm without rows for so long ends its episode."""
BLEND_STEPS = 4
"""Rows over which a chunk is blended into the one before, where a policy cannot continue it."""


class RemotePolicy:
    """One arm's rows from a policy server; each call takes the row of one more step.

    A step without a row is answered by a chunk without rows: the arm holds. After three seconds
    of that `PolicyAway` is raised.
    """

    def __init__(  # noqa: PLR0913 - the constructor is the schema of conf/policy
        self,
        url: str,
        arm: PolicySpec,
        *,
        name: str = "",
        token: str | None = None,
        rtc: bool = True,
        threshold: float = 0.5,
        actions_per_chunk: int | None = None,
        ensemble: float | None = None,
        max_step: float | None = None,
        rolls_forward: bool = False,
        rename: Mapping[str, str] | None = None,
        timeout_s: float = 2.0,
        jpeg: bool | None = None,
        delay_s: float = 0.0,
        waits: bool = False,
    ) -> None:
        """Connect for an arm whose environment offers `arm`; raise `PolicyUnavailable`.

        Raise `SpecMismatch` where policy and arm do not fit. conf/policy/remote.yaml says what the
        settings do; `jpeg` is the link's, and `name` what the server calls this arm. With `waits`
        no step passes while an answer is on its way, as suits an arm whose time stands still
        meanwhile: every chunk is one step late, and one of a single row is not late at all;
        `delay_s` then passes in the arm's own steps.
        """
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold={threshold}; expected above 0, at most 1")
        self._link = PolicyLink(
            url,
            name=name,
            token=token,
            timeout_s=timeout_s,
            jpeg=jpeg,
            delay_s=0.0 if waits else delay_s,
        )
        self._cameras = _agreed(self._link, arm, rename)
        self.spec = replace(self._link.spec, images=tuple(self._cameras.values()))
        self._rtc, self._threshold = rtc, threshold
        self._patience_s = timeout_s if waits else 0.0
        self._late_steps = round(delay_s * self.spec.hz) if waits else 0
        self._horizon = min(actions_per_chunk or self.spec.horizon, self.spec.horizon)
        self._queue = ActionQueue(
            action_dim=self.spec.action_dim,
            blend=min(BLEND_STEPS, self._horizon // 2) if rtc else 0,
            most=actions_per_chunk,
            max_step=max_step,
            ensemble=ensemble,
        )
        self._rolls = rolls_forward and self.spec.action_space == "joint_pos"
        self._delay, self.streaming = DelayEstimate(), Streaming()
        self._step = self._episode = self._opens = 0
        self._empty_since: float | None = None

    def reset(self) -> None:
        """Begin another episode: no row of the last one is left."""
        self._link.drop()
        self._queue.clear()
        self._step, self._opens, self._empty_since = 0, 0, None
        self._episode += 1
        self.streaming = Streaming()

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return the row of this step for the one arm that this is for; raise `PolicyAway`."""
        (request,) = requests
        step, self._step = self._step, self._step + 1
        self.streaming.steps += 1
        if step >= self._opens:
            self._take_in(step, wait_s=self._patience_s if step and self._link.is_busy else 0.0)
            if self._is_due(step):
                self._ask(request, step)
                self._opens = step + 1 + self._late_steps if step else 0
        row = self._queue.take(step)
        if row is None:
            row = self._awaited(step)
        self.streaming.queue.append(self._queue.remaining(step))
        if row is None:
            return [self._starved(request)]
        self._empty_since = None
        return [ActionChunk(actions=row[None], observed_at=request.observed_at)]

    def about(self) -> Mapping[str, object]:
        """Return what an episode keeps of how its rows came."""
        return {"streaming": self.streaming.figures()}

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def _is_due(self, step: int) -> bool:
        # What is still on its way at the start is of the episode before.
        return (not step or not self._link.is_busy) and is_refill_due(
            remaining=self._queue.remaining(step),
            horizon=self._horizon,
            threshold=self._threshold,
            delay=self._delay.steps,
        )

    def _ask(self, request: PolicyRequest, step: int) -> None:
        left = self._queue.remaining(step)
        rows = self._queue.rows(step)[: self.spec.horizon]
        delay = min(self._delay.steps, len(rows))
        asked = request
        if self._rolls and delay:
            joints = roll_forward(request.state["joint_pos"], rows, delay=delay)
            asked, step = (
                replace(request, state={**request.state, "joint_pos": joints}),
                step + delay,
            )
        elif self._rtc and self.spec.rtc and len(rows):
            asked = replace(request, committed=Committed(rows=rows, delay=delay))
        self._link.ask(
            Inquiry(
                request=asked,
                episode=self._episode,
                step=step,
                cameras=self._cameras,
                # The fewer rows are left the more urgent; half a chunk is of use even when late.
                slack_s=(len(rows) + self._horizon / 2) / self.spec.hz if step else None,
                rows_left=left,
                underflows=self.streaming.underflows,
            )
        )

    def _awaited(self, step: int) -> Row | None:
        """Return a row that is worth waiting for, unless the server says first that none comes."""
        patience_s = self._patience_s or LONE_ROW_TICKS / self.spec.hz
        lone_s = patience_s if self._horizon == 1 else 0.0
        deadline = time.monotonic() + (lone_s if step else FIRST_S)
        heard = self.streaming.heard
        while self.streaming.heard == heard and (left := deadline - time.monotonic()) > 0:
            self._take_in(step, wait_s=left)
        return self._queue.take(step)

    def _take_in(self, step: int, *, wait_s: float = 0.0) -> None:
        """Put what has come where it belongs; what is of an earlier episode belongs nowhere."""
        arrived, lost = self._link.poll(wait_s=wait_s)
        if lost:
            self.streaming.lost += 1
            self._queue.clear()
        for one in arrived:
            if one.inquiry.episode != self._episode:
                continue
            if one.rows is None:
                self.streaming.refused += 1
            else:
                self._note(one, self._merge(one, step), step)

    def _merge(self, one: Arrived, step: int) -> Seam:
        asked = one.inquiry
        late = max(0, step - asked.step)
        committed = asked.request.committed
        # What was continued for a shorter delay than it took is blended as well.
        continues = self.spec.continues and committed is not None and late <= committed.delay
        assert one.rows is not None  # noqa: S101 - looked at by the caller
        return self._queue.merge(one.rows, first_step=asked.step, step=step, continues=continues)

    def _note(self, one: Arrived, seam: Seam, step: int) -> None:
        said = self.streaming
        # What a policy was shown ahead of time may be here before its step is.
        late = max(0, step - one.inquiry.step)
        if said.chunks:
            # The first chunk of an episode is waited for.
            self._delay.add(late)
            said.delays.append(late)
            said.jumps.append(seam.jump)
            said.naive_jumps.append(seam.naive_jump)
        said.chunks += 1
        said.stale += seam.stale

    def _starved(self, request: PolicyRequest) -> ActionChunk:
        self.streaming.starved += 1
        # The arm's own time does not pass while it is waited for an answer.
        now = time.monotonic() if self._patience_s else request.observed_at
        if self._empty_since is None:
            self._empty_since = now
            self.streaming.underflows += 1
        without_s = now - self._empty_since
        if without_s > AWAY_S:
            raise PolicyAway(f"{self._link.url} has sent no rows for {without_s:.1f} s")
        return no_chunk(request, self.spec, "no rows have come")


def _agreed(link: PolicyLink, arm: PolicySpec, rename: Mapping[str, str] | None) -> dict[str, str]:
    """Return the arm's camera for each of the policy's; where they do not fit hang up and raise."""
    try:
        return agree(link.spec, arm, rename=rename)
    except ValueError:
        link.close()
        raise
