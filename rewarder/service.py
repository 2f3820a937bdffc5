"""The reward service over HTTP, around any `RewardModel`.

`POST /score` and `POST /score_batch` take clips as JSON (`rewarder.messages`), `POST /preference`
takes two of one goal (`rewarder.preference_api`); people say in `rewarder.admin_api` how right
scores were and which model is to answer; `GET /health`, `/ready` and `/metrics` say how
the service is, `/openapi.json` describes all of it. Every refusal is `{code, message, request_id}`.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping

import prometheus_client as prometheus
import structlog
from fastapi import FastAPI, Request, Response

from rewarder.admin_api import MODELS, ROLES, Load, Office, Records, admin_router
from rewarder.desk import Answer, Desk, Limits, patience_of
from rewarder.host import Host
from rewarder.messages import (
    LONGEST_S,
    MAX_BYTES,
    PATIENCE,
    BatchAnswer,
    BatchBody,
    ClipBody,
    ScoreBody,
)
from rewarder.metrics import Metrics
from rewarder.openapi import Header, describe, takes
from rewarder.pair_judges import ScoreJudge
from rewarder.preference_api import PairBody, PreferenceBody, preference_router
from rewarder.reward import RewardModel
from robot.access import Door, RefusedError
from robot.http_server import REQUEST_ID, answer, answer_errors, asked_of, json_body
from robot.tokens import Role, Tokens

log = structlog.get_logger(__name__)

_PUBLIC = {"/health"}
WAITS = Header(
    name=PATIENCE,
    about="Seconds that an answer is waited for; a later one is a 503",
    above=0.0,
    most=LONGEST_S,
)


def create_app(
    model: RewardModel,
    *,
    tokens: Tokens | None = None,
    limits: Limits | None = None,
    records: Records | None = None,
    load: Load | None = None,
) -> FastAPI:
    """Return the service around a model; with `tokens` every path but /health asks for one.

    `load` gives the models that may take its place.
    """
    app = FastAPI(title="rewarder", docs_url=None, redoc_url=None, openapi_url=None)
    limits, records, metrics = limits or Limits(), records or Records(), Metrics()
    host = Host(model, metrics=metrics, cached=limits.cached)
    desk = Desk(host, limits, records.score_log)
    _add_gate(app, metrics, Door(tokens))
    answer_errors(app, failed=lambda path: metrics.requests.labels(path, 500).inc())
    _add_scores(app, desk)
    app.include_router(preference_router(ScoreJudge(host), run=desk.run))
    app.include_router(admin_router(Office(host, records, load)))
    _add_status(app, metrics)
    scores = (ClipBody, ScoreBody, BatchBody, BatchAnswer, PairBody, PreferenceBody)
    describe(app, (*scores, *MODELS))
    return app


def _add_scores(app: FastAPI, desk: Desk) -> None:
    @app.post("/score", openapi_extra=takes(ClipBody, answers=ScoreBody, headers=(WAITS,)))
    async def score(request: Request) -> Answer:  # pyright: ignore[reportUnusedFunction]
        within_s = patience_of(request.headers.get(PATIENCE))
        content = await json_body(request, max_bytes=MAX_BYTES)
        return await desk.score(content, request.state.request_id, within_s=within_s)

    @app.post("/score_batch", openapi_extra=takes(BatchBody, answers=BatchAnswer, headers=(WAITS,)))
    async def score_batch(request: Request) -> Answer:  # pyright: ignore[reportUnusedFunction]
        within_s = patience_of(request.headers.get(PATIENCE))
        content = await json_body(request, max_bytes=MAX_BYTES)
        return await desk.score_batch(content, request.state.request_id, within_s=within_s)


def _add_status(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Mapping[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Mapping[str, bool]:  # pyright: ignore[reportUnusedFunction]
        return {"ready": True}

    @app.get("/metrics")
    async def figures() -> Response:  # pyright: ignore[reportUnusedFunction]
        # The second ones are of this process: memory, the log's lines, questions put together.
        registries = (metrics.registry, prometheus.REGISTRY)
        text = b"".join(prometheus.generate_latest(registry) for registry in registries)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)


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
    """Return why a request is not let in, if so; note who is."""
    path, asked = request.url.path, asked_of(request.scope)
    needed = None if path in _PUBLIC else ROLES.get(path, Role.VIEW)
    try:
        request.state.caller = caller = door.admit(asked, needed)
        if needed is not None and needed > Role.VIEW:
            door.check_pace(asked)
            log.info("control", peer=asked.peer, path=path, token=caller.token)
    except RefusedError as refused:
        return refused
    return None
