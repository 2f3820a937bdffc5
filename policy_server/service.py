"""The policy service: openpi's WebSocket, and HTTP for those who want one answer at a time.

`/` and `/v1/realtime/robot/openpi` (any path, as openpi has it) speak msgpack; `POST /live` and
`/act` JSON; `/health`, `/healthz`, `/readyz` and `/metrics` say how the service is.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

import prometheus_client as prometheus
import structlog
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp
from starlette.websockets import WebSocketDisconnect, WebSocketState

from policy_server import json_forms
from policy_server.host import Host
from policy_server.messages import (
    JPEG,
    RT,
    BadRequest,
    Question,
    is_reset,
    metadata,
    question,
    refusal,
    reply,
    seq_of,
)
from policy_server.policy import PolicyUnavailable
from policy_server.scheduler import Answer, NotAnswered
from robot.access import Door, RefusedError
from robot.http_server import Gate, answer_errors, asked_of, json_body
from robot.tokens import OneToken, Role
from robot.wire import MAX_BYTES, WireError, decode_map, encode

log = structlog.get_logger(__name__)

_PUBLIC = {"/healthz", "/readyz"}
_JPEG = JPEG.encode()
_STATUS = {"superseded": 409, "late": 503, "draining": 503, "loading": 503, "internal": 500}
GOING_AWAY, POLICY_VIOLATION, INTERNAL, TRY_AGAIN = 1001, 1008, 1011, 1013


def create_app(host: Host, *, token: str | None = None) -> ASGIApp:
    """Return the service; with a `token` every path but /healthz and /readyz asks for it."""
    app = FastAPI(title="policies", docs_url=None, redoc_url=None, openapi_url=None)
    door = Door(None if token is None else OneToken(token))
    answer_errors(app)
    _add_status(app, host)
    _add_questions(app, host)

    @app.websocket("/{path:path}")
    async def openpi(socket: WebSocket, path: str) -> None:  # noqa: ARG001  # pyright: ignore[reportUnusedFunction]
        await _Conversation(socket, host).run(door)

    return Gate(app, door=door, needs=_needs)


def _needs(_: str, path: str) -> Role | None:
    if path in _PUBLIC:
        return None
    return Role.ADMIN if path == "/swap" else Role.VIEW


def _add_status(app: FastAPI, host: Host) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response("OK\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse({"state": host.state}, 200 if host.state == "ready" else 503)

    @app.get("/health")
    async def health() -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        return health_of(host)

    @app.get("/metrics")
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        text = prometheus.generate_latest(host.metrics.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)


def health_of(host: Host) -> dict[str, object]:
    """Return what answers, what could not be had and why, and what is odd."""
    said: dict[str, object] = {
        "state": host.state,
        "refused": {one.name: one.why for one in host.refused},
    }
    if host.state == "ready":
        serving = host.serving
        said |= {
            "policy": serving.name,
            "warnings": list(serving.warnings),
            "accuracy": asdict(serving.accuracy) if serving.accuracy else None,
            "spec": asdict(serving.spec),
            "waiting": serving.scheduler.waiting,
            "arms": host.queues.figures(time.monotonic()),
        }
    return said


def _add_questions(app: FastAPI, host: Host) -> None:
    @app.post("/live")
    async def live(request: Request) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        body = await json_body(request, max_bytes=MAX_BYTES)
        message = _read(lambda: json_forms.live_message(body))
        asked, answer = await _ask_once(host, message)
        return json_forms.live_reply(host.serving.spec, asked, answer)

    @app.post("/act")
    async def act(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await json_body(request, max_bytes=MAX_BYTES)
        message = _read(lambda: json_forms.act_message(body, host.serving.spec))
        _, answer = await _ask_once(host, message)
        return Response(json_forms.act_reply(answer), media_type="application/json")

    @app.post("/swap")
    async def swap(request: Request) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        body = await json_body(request, max_bytes=4096)
        name = _read(lambda: json_forms.swap_name(body))
        try:
            await asyncio.to_thread(host.swap, name)
        except PolicyUnavailable as error:
            raise RefusedError(409, "unavailable", str(error)) from error
        except NotAnswered as error:
            raise _refused(error) from error
        return health_of(host)


def _read[T](read: Callable[[], T]) -> T:
    try:
        return read()
    except BadRequest as error:
        raise RefusedError(422, "invalid", str(error)) from error
    except NotAnswered as error:
        raise _refused(error) from error


async def _ask_once(host: Host, message: Mapping[str, object]) -> tuple[Question, Answer]:
    """Return the answer to a question that stands alone; raise `RefusedError`."""
    asked = _read(lambda: question(message, host.serving.spec, now=time.monotonic()))
    try:
        future = host.submit(uuid.uuid4().hex, asked.request, slack_s=asked.slack_s)
        return asked, await asyncio.wrap_future(future)
    except NotAnswered as error:
        raise _refused(error) from error


def _refused(error: NotAnswered) -> RefusedError:
    return RefusedError(_STATUS.get(error.code, 422), error.code, str(error))


class _Conversation:
    """One client on a WebSocket: its session, and the answers that are on their way."""

    def __init__(self, socket: WebSocket, host: Host) -> None:
        self._socket, self._host = socket, host
        self._session = uuid.uuid4().hex
        self._named: str | None = None
        self._last_seq = -1
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, door: Door) -> None:
        """Talk until the client hangs up; whoever may not, or comes too early, is told so."""
        try:
            _admit(self._socket, door)
            serving = self._host.serving
        except RefusedError as refused:
            await self._hang_up(POLICY_VIOLATION, refused.message)
            return
        except NotAnswered as error:
            await self._hang_up(TRY_AGAIN, str(error))
            return
        await self._socket.accept()
        self._host.metrics.sessions.inc()
        try:
            await self._socket.send_bytes(encode(metadata(serving.spec)))
            while await self._hear():
                pass
        except WebSocketDisconnect:
            pass
        finally:
            self._host.metrics.sessions.dec()
            serving.scheduler.forget(self._session)
            self._host.queues.forget(self._name)

    @property
    def _name(self) -> str:
        return self._named or self._session[:8]

    async def _hear(self) -> bool:
        """Take one message; return whether the conversation goes on."""
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            return False
        arrived = time.perf_counter()
        seq: int | None = None
        try:
            message = decode_map(event.get("bytes") or b"")
            seq = seq_of(message)
            if is_reset(message):
                self._host.serving.scheduler.forget(self._session)
                await self._send({"reset": True, RT: {"seq": seq, "reset": True}})
                return True
            asked = await self._question(message, has_jpeg=_JPEG in event["bytes"])
            self._check_order(asked)
            self._note_rows(asked)
            future = self._host.submit(self._session, asked.request, slack_s=asked.slack_s)
        except (WireError, BadRequest) as error:
            return await self._refuse("invalid", str(error), seq)
        except NotAnswered as error:
            return await self._refuse(error.code, str(error), seq)
        task = asyncio.create_task(self._answer(asked, asyncio.wrap_future(future), arrived))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _check_order(self, asked: Question) -> None:
        """Raise `NotAnswered` for another arm's question, and for one of an earlier moment."""
        self._named = self._named or asked.session
        if asked.session is not None and asked.session != self._named:
            raise NotAnswered("wrong_session", f"this connection is {self._named}'s")
        if asked.seq is not None:
            if asked.seq <= self._last_seq:
                last = f"seq {self._last_seq} was here already"
                raise NotAnswered("old_seq", f"seq {asked.seq} is old: {last}")
            self._last_seq = asked.seq

    def _note_rows(self, asked: Question) -> None:
        if asked.rows_left is not None:
            self._host.queues.note(
                self._name,
                rows_left=asked.rows_left,
                underflows=asked.underflows,
                now=time.monotonic(),
            )

    async def _question(self, message: Mapping[str, object], *, has_jpeg: bool) -> Question:
        spec, now = self._host.serving.spec, time.monotonic()
        if has_jpeg:
            return await asyncio.to_thread(question, message, spec, now=now)
        return question(message, spec, now=now)

    async def _answer(
        self, asked: Question, answer: asyncio.Future[Answer], arrived: float
    ) -> None:
        try:
            done = await answer
        except NotAnswered as error:
            await self._refuse(error.code, str(error), asked.seq)
            return
        except asyncio.CancelledError:
            return
        await self._send(reply(asked, done, total_s=time.perf_counter() - arrived))

    async def _refuse(self, code: str, text: str, seq: int | None) -> bool:
        """Say why there is no chunk; a client that counts nothing is hung up on, as by openpi."""
        log.info("refused", session=self._session[:8], code=code, why=text[:200])
        if seq is not None:
            await self._send(refusal(code, text, seq=seq))
            return True
        if self._socket.application_state is WebSocketState.CONNECTED:
            await self._hang_up(INTERNAL, said=f"{code}: {text}")
        return False

    async def _hang_up(self, code: int, reason: str = "", *, said: str | None = None) -> None:
        # The connection may have been closed already, by either end.
        with suppress(WebSocketDisconnect, RuntimeError):
            if said is not None:
                await self._socket.send_text(said)
            await self._socket.close(code, reason[:100])

    async def _send(self, message: Mapping[str, object]) -> None:
        try:
            await self._socket.send_bytes(encode(message))
        except (WebSocketDisconnect, RuntimeError):
            # It has hung up meanwhile.
            log.debug("nobody hears the answer", session=self._session[:8])


def _admit(socket: WebSocket, door: Door) -> None:
    """Let in who shows the token, as `Bearer` or as openpi's clients do; raise `RefusedError`."""
    asked = asked_of(socket.scope)
    scheme, _, token = asked.authorization.partition(" ")
    shown = token if scheme.lower() in {"bearer", "api-key"} else ""
    door.admit_token(shown, Role.VIEW, asked.peer)
