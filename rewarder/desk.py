"""What the reward service does with a clip: admits it, scores it in time, writes that down."""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError

from rewarder.cache import clip_sha
from rewarder.host import Host
from rewarder.messages import LONGEST_S, PATIENCE, BatchBody, ClipBody, ScoreBody, score_body
from rewarder.reward import Clip, NoScore
from rewarder.score_log import ScoreLog, entry_of
from robot.access import RefusedError, problem

log = structlog.get_logger(__name__)

type Answer = Mapping[str, object]
type Work = Callable[[], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a service takes on."""

    workers: int = 4
    """Clips that are scored at a time."""
    max_pending: int = 16
    """Clips at hand from which on others are answered 429."""
    deadline_s: float = 30.0
    """After which a clip is answered 503, unless its request says how long it waits."""
    cached: int = 256
    """Scores that are kept for clips that come again."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.max_pending < 1 or not 0.0 < self.deadline_s <= LONGEST_S:
            raise ValueError(
                f"workers={self.workers} and max_pending={self.max_pending} must be at least 1, "
                f"deadline_s={self.deadline_s} above 0, at most {LONGEST_S:g}"
            )


class Desk:
    """Scores in threads, a few clips at a time, with a short queue before them.

    A clip that is late is answered so, without a label; its thread goes on, holds its place in the
    queue, and what it finds is there for whoever asks again.
    """

    def __init__(self, host: Host, limits: Limits, score_log: ScoreLog | None = None) -> None:
        """Score with `host`, and write what became of each clip to `score_log`."""
        self.metrics = host.metrics
        self._host, self._limits, self._log = host, limits, score_log
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="score")
        self._pending = 0

    async def run(self, work: Work, *, within_s: float | None = None) -> Answer:
        """Return what `work` returns in a thread; raise `RefusedError` if busy, or late."""
        self._admit()
        return await self._in_time(work, within_s)

    async def score(self, content: bytes, request_id: str, *, within_s: float | None) -> Answer:
        """Return the answer to one clip; raise `RefusedError` where it cannot be scored."""
        read = partial(ClipBody.model_validate_json, content)
        return await self.run(partial(self._score, read, request_id), within_s=within_s)

    async def score_batch(
        self, content: bytes, request_id: str, *, within_s: float | None
    ) -> Answer:
        """Return an answer or an error for each clip of a batch, all of them in one deadline."""
        self._admit()
        try:
            clips = (await asyncio.to_thread(BatchBody.model_validate_json, content)).clips
        except ValidationError as error:
            raise invalid(error) from error
        results = await asyncio.gather(*(self._item(c, request_id, within_s) for c in clips))
        return {"results": results, "request_id": request_id}

    async def _item(self, clip: Any, request_id: str, within_s: float | None) -> Answer:  # noqa: ANN401 - any JSON
        # A verdict has to be able to name one clip of a batch.
        work = partial(self._score, partial(ClipBody.model_validate, clip), uuid.uuid4().hex)
        try:
            return await self._in_time(work, within_s)
        except RefusedError as refused:
            return {"error": problem(refused, request_id)}

    def _admit(self) -> None:
        """Raise `RefusedError` if there is enough to do."""
        if self._pending >= self._limits.max_pending:
            self.metrics.refused.labels("busy").inc()
            raise RefusedError(429, "busy", f"{self._pending} clips are waiting; try again later")

    async def _in_time(self, work: Work, within_s: float | None) -> Answer:
        """Return what `work` returns in a thread; raise `RefusedError` once it is late."""
        allowed_s = self._limits.deadline_s if within_s is None else within_s
        began = time.monotonic()
        turn = partial(self._begin, work, began=began, deadline=began + allowed_s)
        future = asyncio.get_running_loop().run_in_executor(self._threads, turn)
        self._count(1)
        future.add_done_callback(self._leave)
        try:
            # The thread cannot be stopped; only the waiting for it ends.
            return await asyncio.wait_for(asyncio.shield(future), allowed_s)
        except TimeoutError:
            self.metrics.refused.labels("late").inc()
            future.add_done_callback(_say_what_failed)
            raise _late(allowed_s) from None

    def _begin(self, work: Work, *, began: float, deadline: float) -> Answer:
        """Do the work of a request whose turn it is, unless nobody waits for it any more."""
        now = time.monotonic()
        self.metrics.waited.observe(now - began)
        if now >= deadline:
            raise _late(deadline - began)
        return work()

    def _leave(self, _: asyncio.Future[Answer]) -> None:
        self._count(-1)

    def _count(self, more: int) -> None:
        self._pending += more
        self.metrics.pending.set(self._pending)

    def _score(self, read: Callable[[], ClipBody], request_id: str) -> Answer:
        started = time.perf_counter()
        clip = _clip(read)
        sha = clip_sha(clip)
        try:
            judged = self._host.judge(clip, sha)
        except NoScore as error:
            self.metrics.clips.labels("no_score").inc()
            self._note(clip, sha, str(error), request_id=request_id, started=started)
            raise RefusedError(503 if error.retry else 422, "no_score", str(error)) from error
        elapsed = time.perf_counter() - started
        self.metrics.seconds.observe(elapsed)
        self.metrics.clips.labels("scored").inc()
        body = score_body(
            judged.score,
            latency_ms=1000 * elapsed,
            request_id=request_id,
            clip=sha,
            cached=judged.cached,
        )
        self._note(clip, sha, body, request_id=request_id, started=started)
        return body.model_dump()

    def _note(
        self, clip: Clip, sha: str, said: ScoreBody | str, *, request_id: str, started: float
    ) -> None:
        if self._log is not None:
            elapsed_ms = 1000 * (time.perf_counter() - started)
            entry = entry_of(clip, sha, said, request_id=request_id, latency_ms=elapsed_ms)
            self._log.put(entry, {name: row[-1] for name, row in clip.frames.items()})


def _clip(read: Callable[[], ClipBody]) -> Clip:
    """Return the clip of a message; raise `RefusedError` where it is none."""
    try:
        return read().clip()
    except ValidationError as error:
        raise invalid(error) from error
    except ValueError as error:
        raise RefusedError(422, "invalid", str(error)) from error


def _late(allowed_s: float) -> RefusedError:
    why = f"no score within {allowed_s:g} s, which is no label; ask again later"
    return RefusedError(503, "late", why)


def _say_what_failed(done: asyncio.Future[Answer]) -> None:
    """Log the failure of work that nobody waits for any more."""
    error = None if done.cancelled() else done.exception()
    if error is not None and not isinstance(error, RefusedError):
        log.error("a late clip could not be scored", error=repr(error))


def invalid(error: ValidationError) -> RefusedError:
    """Return the first thing that is wrong with a message, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "json_invalid":
        return RefusedError(400, "not_json", first["msg"])
    return RefusedError(422, "invalid", f"{where}: {first['msg']}{more}" if where else first["msg"])


def patience_of(header: str | None) -> float | None:
    """Return how many seconds a request waits for its answer; raise `RefusedError`."""
    if header is None:
        return None
    try:
        patience_s = float(header)
    except ValueError:
        patience_s = math.nan
    if not 0.0 < patience_s <= LONGEST_S:
        raise RefusedError(
            422, "invalid", f"{PATIENCE} must be seconds, above 0 and at most {LONGEST_S:g}"
        )
    return patience_s
