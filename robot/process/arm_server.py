"""An arm's process on a port: a WebSocket for whoever drives it, HTTP for whoever watches.

`/stop` never asks for a token, in either way.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import prometheus_client as prometheus
import structlog
import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from robot.access import Door, RefusedError
from robot.http_server import (
    READ_TIMEOUT_S,
    Gate,
    answer,
    answer_errors,
    asked_of,
    json_body,
    server_of,
)
from robot.process.arm_messages import MessageError, mapping, mode_of, plain, state_message
from robot.process.arm_process import ArmProcess, ModeRefused
from robot.process.arm_session import Desk, Pictures, Session, stop_reason
from robot.process.arm_state import Mode
from robot.tokens import Role

log = structlog.get_logger(__name__)

MAX_CONTROL_BYTES = 64 * 1024
START_S, STOP_S = 60.0, 10.0
_OPEN = {("GET", "/health"), ("POST", "/stop")}
_QUANTILES = (0.5, 0.99)


def needs(method: str, path: str) -> Role | None:
    """Return what a request needs; None for nothing at all."""
    if (method, path) in _OPEN:
        return None
    return Role.VIEW if method == "GET" else Role.OPERATE


def create_app(
    process: ArmProcess,
    pictures: Pictures,
    *,
    arm_id: str,
    door: Door,
    clock: Callable[[], float] = time.monotonic,
) -> ASGIApp:
    """Return the service around an arm's process and its cameras."""
    app = FastAPI(title="arm", docs_url=None, redoc_url=None, openapi_url=None)
    desk = Desk(arm_id=arm_id, process=process, pictures=pictures, door=door, clock=clock)
    answer_errors(app)

    @app.exception_handler(ModeRefused)
    async def mode_refused(request: Request, error: ModeRefused) -> Response:  # pyright: ignore[reportUnusedFunction]
        return answer(RefusedError(409, "mode_refused", str(error)), request.state.request_id)

    _add_views(app, desk)
    _add_controls(app, process)

    @app.websocket("/arm")
    async def arm(websocket: WebSocket) -> None:  # pyright: ignore[reportUnusedFunction]
        await _converse(websocket, Session(desk, asked_of(websocket.scope)))

    return Gate(app, door=door, needs=needs)


class ArmServer:
    """The service in a thread of its own."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        """Start to answer on a listening socket."""
        self._server: uvicorn.Server = server_of(app)
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="arm-server", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started and self._thread.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server did not start within {START_S:g} s")
            time.sleep(0.005)

    def close(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        self._thread.join(timeout=STOP_S)


async def _converse(websocket: WebSocket, session: Session) -> None:
    """Answer messages, one after the other, until the client goes; a hello is due at once."""
    # At any await the other end may turn out to be gone, or hung up on.
    with suppress(WebSocketDisconnect, RuntimeError):
        await websocket.accept()
        try:
            while True:
                async with asyncio.timeout(None if session.known else READ_TIMEOUT_S):
                    data = await _message(websocket)
                reply = session.answer(data)
                if reply is not None:
                    await websocket.send_bytes(reply)
                if not session.known:
                    break
        except TimeoutError:
            pass
        finally:
            session.close()
        await websocket.close(1008)


async def _message(websocket: WebSocket) -> bytes:
    event = await websocket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code", 1006))
    return event.get("bytes") or (event.get("text") or "").encode()


def _add_views(app: FastAPI, desk: Desk) -> None:
    """Answer those who only look."""
    process, pictures = desk.process, desk.pictures
    metrics = _Metrics(desk)

    @app.get("/health")
    async def health() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok", "arm_id": desk.arm_id}

    @app.get("/ready")
    async def ready() -> Response:  # pyright: ignore[reportUnusedFunction]
        state = process.state()
        is_ready = state.mode is not Mode.STOP
        content = {"ready": is_ready, "mode": state.mode.value, "reason": state.reason}
        return JSONResponse(content, 200 if is_ready else 503)

    @app.get("/state")
    async def state() -> Response:  # pyright: ignore[reportUnusedFunction]
        now, message = desk.clock(), state_message(process.state())
        ages = {name: round(now - p.stamp, 3) for name, p in pictures.newest().items()}
        cameras = {name: ages.get(name) for name in pictures.sizes()}
        content = plain({**message, "arm_id": desk.arm_id, "cameras": cameras})
        return Response(json.dumps(content), media_type="application/json")

    @app.get("/frames/{name}.jpg")
    async def frame(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        picture = pictures.newest().get(name)
        if picture is None:
            known = ", ".join(pictures.sizes()) or "none"
            raise RefusedError(404, "no_picture", f"no recent picture; cameras: {known}")
        headers = {"Cache-Control": "no-store", "X-Stamp": f"{picture.stamp:.6f}"}
        return Response(picture.jpeg, media_type="image/jpeg", headers=headers)

    @app.get("/metrics")
    async def get_metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(metrics.text(), media_type=prometheus.CONTENT_TYPE_LATEST)


def _add_controls(app: FastAPI, process: ArmProcess) -> None:
    """Answer those who stop the arm, and those who change what it does."""

    @app.post("/stop")
    async def stop(request: Request) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        # Whatever comes with it, the arm stops first.
        peer = asked_of(request.scope).peer
        process.stop(stop_reason(peer, "by HTTP"))
        log.warning("stop", peer=peer)
        return {"mode": process.mode.value}

    @app.post("/reset")
    async def reset() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        process.reset()
        return {"mode": process.mode.value}

    @app.post("/mode")
    async def mode(request: Request) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        content = await json_body(request, max_bytes=MAX_CONTROL_BYTES)
        try:
            wanted = mode_of(mapping(json.loads(content), "the body").get("mode"))
        except (ValueError, RecursionError) as error:
            message = str(error) if isinstance(error, MessageError) else "the body is no JSON"
            raise RefusedError(422, "invalid", message) from error
        if wanted in {Mode.RUN, Mode.TAKEOVER}:
            sentence = "who drives must be heard of 20 times a second: ask by the WebSocket"
            raise RefusedError(409, "mode_refused", sentence)
        return {"mode": process.request(wanted, client="http").value}


class _Metrics:
    """What Prometheus asks of an arm."""

    def __init__(self, desk: Desk) -> None:
        """Measure one arm."""
        self._desk = desk
        self._registry = registry = prometheus.CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"arm_{name}", text, labels, registry=registry)

        self._mode = gauge("mode", "1 for the mode that the arm is in", "mode")
        self._cycle = gauge("cycle_seconds", "How long the last cycle took")
        self._late = gauge("late_seconds", "The greatest lateness of a cycle within 10 s")
        self._late_quantile = gauge(
            "late_quantile_seconds", "Lateness within which this share began in 10 s", "quantile"
        )
        self._events = gauge("guard_events", "How often a rule changed a command", "rule")
        self._faults = gauge("faults", "Faults that are remembered")
        self._clients = gauge("clients", "Clients that live")
        self._age = gauge("camera_age_seconds", "Age of the newest picture", "camera")

    def text(self) -> bytes:
        """Return the figures of this moment."""
        state, now = self._desk.process.state(), self._desk.clock()
        for mode in Mode:
            self._mode.labels(mode.value).set(mode is state.mode)
        self._cycle.set(state.cycle_s)
        self._late.set(state.late_s)
        lateness = self._desk.process.lateness() or [0.0]
        for quantile in _QUANTILES:
            self._late_quantile.labels(quantile).set(float(np.quantile(lateness, quantile)))
        self._faults.set(len(state.faults))
        self._clients.set(len(state.clients))
        for rule, count in state.events.items():
            self._events.labels(rule).set(count)
        newest = self._desk.pictures.newest()
        for name in self._desk.pictures.sizes():
            age = now - newest[name].stamp if name in newest else float("inf")
            self._age.labels(name).set(age)
        return prometheus.generate_latest(self._registry)
