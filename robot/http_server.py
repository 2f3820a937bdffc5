"""What the HTTP services of this project share: where they listen, whom they answer, how long."""

import asyncio
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from robot.access import Asked, Door, RefusedError, is_loopback, problem
from robot.tokens import Role

log = structlog.get_logger(__name__)

READ_TIMEOUT_S = 5.0
"""How long a request may take to arrive."""
MAX_HEADER_BYTES = 16 * 1024
MAX_CONNECTIONS, MOST_CONNECTIONS = 64, 256
"""From the first number on who waits gives way to who comes; beyond the second nobody is let in."""
BACKLOG = 1024
MAX_PER_PEER = 8
MAX_SOCKET_MESSAGE = 64 * 1024
REQUEST_ID = "X-Request-Id"
RETRY_AFTER_S = 1
_CODES = {404: "not_found", 405: "method_not_allowed"}

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

type Needs = Callable[[str, str], Role | None]
"""What a method and a path need; None for nothing at all."""


class ServiceError(Exception):
    """A service cannot start: the message says why and what to do."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        """Say what is wrong; `code` is the exit status."""
        super().__init__(message)
        self.code = code


def listen(host: str, port: int, *, guarded: bool, remedy: str = "") -> socket.socket:
    """Return a listening socket; raise `ServiceError` where none may or can be had.

    `guarded` says that a token is asked for and that others are meant to come; `remedy` is what
    to do where the port is taken.
    """
    if not is_loopback(host) and not guarded:
        raise ServiceError(
            f"{host} can be reached from other machines: set a token and allow_remote=true, "
            "or listen on 127.0.0.1",
            code=2,
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServiceError(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what uses the port{remedy}"
        ) from error


def server_of(app: ASGIApp, *, max_message: int = MAX_SOCKET_MESSAGE) -> uvicorn.Server:
    """Return a server with limits on connections, headers and time; `run(sockets=…)` starts it.

    `max_message` is the size of a WebSocket's messages, bytes.
    """
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws=LimitedSocket,
        ws_max_size=max_message,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=1,
        server_header=False,
        # Nobody may name another peer than they are.
        proxy_headers=False,
        lifespan="off",
        access_log=False,
        log_level="error",
    )
    return uvicorn.Server(config)


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 that waits a limited time for a request, and for a limited number per peer.

    However many connections there are, a new one is heard: it may be the one that says stop.
    """

    opened = 0.0
    _deadline: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Return whether no whole request is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete or cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin to wait for a request, unless the peer has enough connections."""
        super().connection_made(transport)
        self.opened = self.loop.time()
        peer = self.client[0] if self.client else ""
        same = sum(_peer_of(other) == peer for other in self.connections)
        # On this machine all programs have the same address.
        if (same > MAX_PER_PEER and not is_loopback(peer)) or not self._find_room():
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; what is whole is waited for no longer."""
        if self._deadline is None:
            self._wait()
        super().data_received(data)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        upgraded = self.transport.get_protocol() is not self
        if upgraded or (cycle is not None and not cycle.more_body):
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; a request that turns out to be none gets no answer besides."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and cycle.more_body:
            cycle.disconnected = True
            # An answer cannot begin twice, and to HEAD it has no body that could say why.
            if cycle.response_started or self.scope["method"] == "HEAD":
                self.transport.close()
                return
        super().send_400_response(msg)

    def _find_room(self) -> bool:
        """Close the oldest idle connection if there are many; return whether there is room."""
        if len(self.connections) <= MAX_CONNECTIONS:
            return True
        kinds = (LimitedProtocol, LimitedSocket)
        others = (one for one in self.connections if isinstance(one, kinds))
        idle = [one for one in others if one is not self and one.is_idle]
        if idle:
            min(idle, key=lambda one: one.opened).transport.abort()
        return bool(idle) or len(self.connections) <= MOST_CONNECTIONS

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(READ_TIMEOUT_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class LimitedSocket(WebSocketsSansIOProtocol):
    """A WebSocket that gives way to who comes until its first message, and once it is hung up."""

    opened = 0.0
    _heard = False

    @property
    def is_idle(self) -> bool:
        """Return whether nobody would miss it."""
        return not self._heard or self.close_sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a message."""
        super().connection_made(transport)
        self.opened = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Take a part of a message; hang up on whoever sent no handshake."""
        super().data_received(data)
        if self.conn.handshake_exc is not None:
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """Hand a message over; bytes that are no text are told apart by whoever reads it."""
        self._heard = True
        if self.curr_msg_data_type == "text":
            self.frames = [b"".join(self.frames).decode(errors="replace").encode()]
        super().send_receive_event_to_app()


class Gate:
    """Lets in only who may ask; names every request, and says why one was refused."""

    def __init__(self, app: ASGIApp, *, door: Door, needs: Needs) -> None:
        """Stand before `app`; a WebSocket's messages ask the door themselves."""
        self._app, self._door, self._needs = app, door, needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        name = uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = name
        asked = asked_of(scope)
        try:
            if scope["type"] == "websocket":
                self._door.check_site(asked)
            else:
                needed = self._needs(scope["method"], scope["path"])
                state["caller"] = caller = self._door.admit(asked, needed)
                if needed is not None and needed > Role.VIEW:
                    self._door.check_pace(asked)
                    log.info("control", peer=asked.peer, path=scope["path"], token=caller.token)
        except RefusedError as refused:
            log.info("refused", peer=asked.peer, path=str(scope["path"])[:80], code=refused.code)
            await _refuse(scope, receive, send, refused)
            return
        await self._app(scope, receive, _naming(send, name))


def asked_of(scope: Scope) -> Asked:
    """Return what a request says of its sender."""
    client = scope.get("client")
    return Asked.of(Headers(scope=scope), client[0] if client else "")


def answer(refused: RefusedError, request_id: str) -> Response:
    """Return a refusal as an answer."""
    headers = {REQUEST_ID: request_id}
    headers |= {"Retry-After": str(RETRY_AFTER_S)} if refused.status in {429, 503} else {}
    headers |= {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    return JSONResponse(problem(refused, request_id), refused.status, headers=headers)


def answer_errors(app: FastAPI, *, failed: Callable[[str], None] = lambda _: None) -> None:
    """Make an app answer every error with code, sentence and request id.

    `failed` is told the path of a request that the app itself could not serve.
    """

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return answer(error, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        code = _CODES.get(error.status_code, "bad_request")
        return await refused(request, RefusedError(error.status_code, code, str(error.detail)))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:  # pyright: ignore[reportUnusedFunction]
        name, path = request.state.request_id, request.url.path
        failed(path)
        log.error("request failed", request_id=name, path=path, error=repr(error))
        failure = RefusedError(500, "internal", "the service failed; see its log")
        return await refused(request, failure)


async def json_body(request: Request, *, max_bytes: int) -> bytes:
    """Return a whole JSON body; raise `RefusedError` if it is none, too long or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "not_json", "send application/json")
    content, length = bytearray(), 0
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            # What is too long is read as well, unkept: who is still sending hears no answer.
            async for part in request.stream():
                length += len(part)
                if length <= max_bytes:
                    content += part
    except TimeoutError as error:
        raise RefusedError(
            408, "too_slow", f"the request took over {READ_TIMEOUT_S:g} s"
        ) from error
    except ClientDisconnect as error:
        raise RefusedError(400, "cut_off", "the request ended too early") from error
    if length > max_bytes:
        raise RefusedError(413, "too_large", f"a request may have {max_bytes} bytes")
    return bytes(content)


async def _refuse(scope: Scope, receive: Receive, send: Send, refused: RefusedError) -> None:
    name = scope["state"]["request_id"]
    if scope["type"] == "websocket":
        await receive()
        # Whoever has gone by now raises one or the other.
        with suppress(OSError, RuntimeError):
            await send({"type": "websocket.close", "code": 1008, "reason": refused.message})
    else:
        await answer(refused, name)(scope, receive, send)


def _naming(send: Send, name: str) -> Send:
    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[REQUEST_ID] = name
        await send(message)

    return named


def _peer_of(protocol: object) -> str:
    client = cast("tuple[str, int] | None", getattr(protocol, "client", None))
    return client[0] if client else ""


class Careful:
    """Tells browsers to take nothing of this page from elsewhere, and to give it to nobody."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer, with these headers."""

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_PAGE_HEADERS)
            await send(message)

        await self._app(scope, receive, careful)
