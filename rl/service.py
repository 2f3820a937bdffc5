"""The learner over HTTP: sealed episodes come in, each counted once, and policies go out."""

import hmac
import queue
import socket
import threading
import time
from collections.abc import Mapping
from typing import Annotated

import structlog
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from rl.fleet import Finished, MakeWorker, Snapshot
from rl.run_folder import RunFolder
from rl.run_record import BadRun
from robot.journal import Journal, episode_from

log = structlog.get_logger(__name__)

MAX_BYTES = 8 * 2**20
"""Largest episode that is taken."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STOP_S = 5.0
SEEN_S = 60.0
"""An arm that has sent nothing for so long is shown as silent."""


class LearnerService:
    """Arms elsewhere, as a fleet: what they upload counts like the run's own episodes."""

    def __init__(self, folder: RunFolder, *, goal: str, token: str | None = None) -> None:
        """Take episodes of one goal into a run's folder, with a token only from who knows it."""
        self._folder, self._goal, self._token = folder, goal, token
        self._arrived: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._seen: dict[str, float] = {}
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.app = self._make_app()

    def serve(self, host: str, port: int) -> None:
        """Listen in a thread; raise `BadRun` if that is unsafe or the port is taken."""
        if host not in LOOPBACK and not self._token:
            raise BadRun(
                f"service.host={host} is open to others: set LEARNER_TOKEN, or use 127.0.0.1",
                code=2,
            )
        listening = _listen(host, port)
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, access_log=False))
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="service", daemon=True
        )
        self._thread.start()

    def start(self, workers: Mapping[str, MakeWorker]) -> None:
        """Need no workers: the arms run by themselves."""

    def poll(self, timeout_s: float) -> list[Finished]:
        """Return the episodes that were uploaded."""
        found: list[Finished] = []
        try:
            while True:
                found.append(self._arrived.get(timeout=0.0 if found else timeout_s))
        except queue.Empty:
            return found

    def publish(self, snapshot: Snapshot) -> None:
        """Offer a newer policy."""
        self._snapshot = snapshot

    def hold(self, *, held: bool) -> None:
        """Leave the arms alone: they keep their own pace."""

    def status(self) -> Mapping[str, str]:
        """Return when each arm was last heard of."""
        now = time.monotonic()
        return {
            arm: "uploads" if now - seen < SEEN_S else f"silent for {now - seen:.0f} s"
            for arm, seen in self._seen.items()
        }

    def close(self) -> None:
        """Stop listening."""
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join(timeout=STOP_S)

    def accept(self, arm: str, name: str, data: bytes) -> bool:
        """Seal an uploaded episode; return False if it was here before.

        Raise ValueError for one that is damaged, of another goal, or named like another one.
        """
        episode = episode_from(data)
        if episode.info.goal != self._goal:
            raise ValueError(
                f"this run practises {self._goal!r}, the episode {episode.info.goal!r}"
            )
        with self._lock:
            fresh = Journal(self._folder.journal(arm)).accept(name, data)
        self._seen[arm] = time.monotonic()
        if fresh:
            self._arrived.put(Finished(arm=arm, name=name, data=data, steps=episode.steps))
        return fresh

    def _check_token(self, authorization: Annotated[str, Header()] = "") -> None:
        given = authorization.removeprefix("Bearer ")
        if self._token and not hmac.compare_digest(given.encode(), self._token.encode()):
            raise HTTPException(401, "wrong or missing token: send `Authorization: Bearer TOKEN`")

    def _make_app(self) -> FastAPI:
        app = FastAPI(title="learner", openapi_url=None, dependencies=[Depends(self._check_token)])
        app.put("/episodes/{name}")(self._put_episode)
        app.get("/policy.json")(self._head)
        app.get("/policy.safetensors")(self._weights)
        app.get("/health")(self._health)
        return app

    async def _put_episode(
        self, name: str, request: Request, arm: Annotated[str, Query(max_length=64)]
    ) -> dict[str, bool]:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MAX_BYTES:
                raise HTTPException(413, f"an episode has at most {MAX_BYTES} bytes")
        try:
            return {"new": await run_in_threadpool(self.accept, arm, name, bytes(data))}
        except FileExistsError as error:
            raise HTTPException(409, str(error.strerror)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except OSError as error:
            log.warning("upload not sealed", arm=arm, reason=str(error))
            raise HTTPException(507, "the episode could not be sealed; send it again") from error

    async def _health(self) -> dict[str, object]:
        version = self._snapshot.version if self._snapshot else None
        return {"goal": self._goal, "policy_version": version}

    async def _head(self, request: Request) -> Response:
        return self._policy(request, "head")

    async def _weights(self, request: Request) -> Response:
        return self._policy(request, "weights")

    def _policy(self, request: Request, part: str) -> Response:
        snapshot = self._snapshot
        if snapshot is None:
            raise HTTPException(404, "there is no policy yet; act at random")
        tag = f'"{snapshot.version}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        data: bytes = snapshot.head if part == "head" else snapshot.weights
        return Response(data, media_type="application/octet-stream", headers={"etag": tag})


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise BadRun(
            f"cannot listen on {host}:{port}, {error.strerror}: the port is taken or not ours; "
            "choose another one: service.port=PORT"
        ) from error
