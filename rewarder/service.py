"""The reward service over HTTP, around any `RewardModel`.

`POST /score` and `POST /score_batch` take clips as JSON (`rewarder.messages`), `POST /preference`
takes two of one goal (`rewarder.preference_api`); `GET /health`, `/ready` and `/metrics` say how
the service is, `/openapi.json` describes all of it. Every refusal is `{code, message, request_id}`.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import prometheus_client as prometheus
import structlog
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from rewarder.messages import (
    MAX_BYTES,
    BatchAnswer,
    BatchBody,
    ClipBody,
    ScoreBody,
    score_message,
)
from rewarder.openapi import describe, takes
from rewarder.pair_judges import ScoreJudge
from rewarder.preference_api import PairBody, PreferenceBody, preference_router
from rewarder.reward import NoScore, RewardModel
from robot.access import Door, RefusedError, problem
from robot.http_server import REQUEST_ID, answer, answer_errors, asked_of, json_body
from robot.tokens import OneToken, Role

log = structlog.get_logger(__name__)

_PUBLIC = {"/health"}


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        """Count from zero."""
        self.registry = registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "rewarder_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.clips = prometheus.Counter(
            "rewarder_clips", "Clips by what became of them", ["outcome"], registry=registry
        )
        self.seconds = prometheus.Histogram(
            "rewarder_score_seconds", "Time to score a clip", registry=registry
        )
        self.pending = prometheus.Gauge(
            "rewarder_pending", "Requests that wait or are being scored", registry=registry
        )


class Desk:
    """Scores in threads, a few at a time, with a short queue before them."""

    def __init__(self, model: RewardModel, *, workers: int, max_pending: int) -> None:
        """Score with `workers` threads; refuse when `max_pending` requests are at hand."""
        self.metrics = Metrics()
        self._model = model
        self._slots = asyncio.Semaphore(workers)
        self._max_pending = max_pending
        self._pending = 0

    async def run(self, work: Callable[[], Mapping[str, object]]) -> Mapping[str, object]:
        """Return what `work` returns in a thread; raise `RefusedError` if the queue is full."""
        if self._pending >= self._max_pending:
            raise RefusedError(
                429, "busy", f"{self._pending} requests are waiting; try again later"
            )
        self._pending += 1
        self.metrics.pending.set(self._pending)
        try:
            async with self._slots:
                return await asyncio.to_thread(work)
        finally:
            self._pending -= 1
            self.metrics.pending.set(self._pending)

    def score(self, read: Callable[[], ClipBody], request_id: str) -> Mapping[str, object]:
        """Return the answer to one clip; raise `RefusedError` where it cannot be scored."""
        started = time.perf_counter()
        try:
            clip = read().clip()
        except ValidationError as error:
            raise _invalid(error) from error
        except ValueError as error:
            raise RefusedError(422, "invalid", str(error)) from error
        try:
            score = self._model.score(clip)
        except NoScore as error:
            self.metrics.clips.labels("no_score").inc()
            status = 503 if error.retry else 422
            raise RefusedError(status, "no_score", str(error)) from error
        elapsed = time.perf_counter() - started
        self.metrics.seconds.observe(elapsed)
        self.metrics.clips.labels("scored").inc()
        return score_message(score, latency_ms=1000 * elapsed, request_id=request_id)

    def score_batch(self, content: bytes, request_id: str) -> Mapping[str, object]:
        """Return an answer or an error for each clip of a batch."""
        try:
            clips = BatchBody.model_validate_json(content).clips
        except ValidationError as error:
            raise _invalid(error) from error
        return {"results": [self._item(c, request_id) for c in clips], "request_id": request_id}

    def _item(self, clip: Any, request_id: str) -> Mapping[str, object]:  # noqa: ANN401 - any JSON
        try:
            return self.score(lambda: ClipBody.model_validate(clip), request_id)
        except RefusedError as refused:
            return {"error": problem(refused, request_id)}


def create_app(
    model: RewardModel, *, token: str | None = None, workers: int = 1, max_pending: int = 16
) -> FastAPI:
    """Return the service around a model; with a `token` every path but /health asks for it."""
    app = FastAPI(title="rewarder", docs_url=None, redoc_url=None, openapi_url=None)
    desk = Desk(model, workers=workers, max_pending=max_pending)
    _add_gate(app, desk.metrics, Door(None if token is None else OneToken(token)))
    answer_errors(app, failed=lambda path: desk.metrics.requests.labels(path, 500).inc())

    @app.post("/score", openapi_extra=takes(ClipBody, answers=ScoreBody))
    async def score(request: Request) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        content, name = await json_body(request, max_bytes=MAX_BYTES), request.state.request_id
        return await desk.run(
            lambda: desk.score(lambda: ClipBody.model_validate_json(content), name)
        )

    @app.post("/score_batch", openapi_extra=takes(BatchBody, answers=BatchAnswer))
    async def score_batch(request: Request) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        content, name = await json_body(request, max_bytes=MAX_BYTES), request.state.request_id
        return await desk.run(lambda: desk.score_batch(content, name))

    app.include_router(preference_router(ScoreJudge(model), run=desk.run))

    @app.get("/health")
    async def health() -> Mapping[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Mapping[str, bool]:  # pyright: ignore[reportUnusedFunction]
        return {"ready": True}

    @app.get("/metrics")
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        text = prometheus.generate_latest(desk.metrics.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    described = (ClipBody, ScoreBody, BatchBody, BatchAnswer, PairBody, PreferenceBody)
    describe(app, described)
    return app


def _add_gate(app: FastAPI, metrics: Metrics, door: Door) -> None:
    """Let in only who may ask; name and count every request."""

    @app.middleware("http")
    async def gate(  # pyright: ignore[reportUnusedFunction]
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        request.state.request_id = name = uuid.uuid4().hex
        refused = _not_admitted(request, door)
        response = answer(refused, name) if refused else await call_next(request)
        response.headers[REQUEST_ID] = name
        path = request.url.path if response.status_code != 404 else "other"
        metrics.requests.labels(path if refused is None else "other", response.status_code).inc()
        return response


def _not_admitted(request: Request, door: Door) -> RefusedError | None:
    """Return why a request is not let in, if so."""
    try:
        door.admit(asked_of(request.scope), None if request.url.path in _PUBLIC else Role.VIEW)
    except RefusedError as refused:
        return refused
    return None


def _invalid(error: ValidationError) -> RefusedError:
    """Return the first thing that is wrong with a message, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "json_invalid":
        return RefusedError(400, "not_json", first["msg"])
    return RefusedError(422, "invalid", f"{where}: {first['msg']}{more}" if where else first["msg"])
