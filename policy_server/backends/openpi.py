"""Policies behind a real openpi server: JAX's π0-FAST, or anything that speaks its wire."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from policy_server.messages import BadRequest, rows_of
from policy_server.policy import ActionChunk, PolicyRequest, PolicySpec, no_chunk
from robot.arm import JOINTS
from robot.wire import MAX_BYTES, WireError, decode_map, encode

TIMEOUT_S = 30.0
"""π0-FAST in JAX takes 4 s on an L40S (openpi issue 499), and the first call longer."""
PATIENCE_S = 5.0


class OpenPiPolicy:
    """Asks an openpi server, one request after another: its wire has no batches.

    The server says neither shapes nor names: rows are taken for joint targets in the arm's units,
    and the pictures front and side go by openpi's names for a base and a wrist camera.
    """

    def __init__(self, url: str, *, hz: float = 20.0) -> None:
        """Connect to `ws://host:port` and learn the horizon; raise `OSError`, `ValueError`."""
        self._url = url
        self._connection: ClientConnection | None = None
        self.spec = self._spec(horizon=1, hz=hz)
        first = self._ask(_probe(self.spec))
        self.spec = self._spec(horizon=len(first), hz=hz)

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request; one that the server cannot answer has no rows."""
        return [self._chunk(request) for request in requests]

    def _chunk(self, request: PolicyRequest) -> ActionChunk:
        try:
            rows = self._ask(request)
        except (OSError, ValueError) as error:
            return no_chunk(request, self.spec, str(error))
        return ActionChunk(actions=rows, observed_at=request.observed_at)

    def _spec(self, *, horizon: int, hz: float) -> PolicySpec:
        return PolicySpec(
            action_space="joint_pos",
            action_dim=len(JOINTS),
            state={"joint_pos": len(JOINTS)},
            images=("front", "side"),
            blank_images=("side",),
            image_size=(224, 224),
            hz=hz,
            horizon=horizon,
            action_names=JOINTS,
        )

    def _ask(self, request: PolicyRequest) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Return the rows that answer a request; raise `OSError` or `ValueError`."""
        keys = {"front": "observation/image", "side": "observation/wrist_image"}
        message: dict[str, object] = {keys[name]: image for name, image in request.images.items()}
        message |= {"observation/state": request.state["joint_pos"], "prompt": request.goal}
        try:
            connection = self._connected()
            connection.send(encode(message))
            said = connection.recv(timeout=TIMEOUT_S)
        except (WebSocketException, OSError) as error:
            self._connection = None
            raise OSError(f"the openpi server at {self._url} is lost: {error}") from error
        if isinstance(said, str):
            self._connection = None
            raise _failed(said)
        try:
            return rows_of(decode_map(said), self.spec)
        except (WireError, BadRequest) as error:
            raise ValueError(f"the openpi server answered nonsense: {error}") from error

    def _connected(self) -> ClientConnection:
        if self._connection is None:
            deadline = time.monotonic() + PATIENCE_S
            opening = connect(
                self._url,
                open_timeout=PATIENCE_S,
                max_size=MAX_BYTES,
                compression=None,
                proxy=None,
            )
            connection = ExitStack().enter_context(opening)
            connection.recv(timeout=max(0.1, deadline - time.monotonic()))
            self._connection = connection
        return self._connection


def _failed(said: str) -> ValueError:
    """Return what openpi's traceback, which it sends as text, says in its last line."""
    return ValueError(f"the openpi server failed: {said.strip().splitlines()[-1][:200]}")


def _probe(spec: PolicySpec) -> PolicyRequest:
    picture = np.full((224, 224, 3), 128, np.uint8)
    return PolicyRequest(
        state={"joint_pos": np.zeros(len(JOINTS), np.float32)},
        images=dict.fromkeys(spec.images, picture),
        goal="Lift the red cube.",
        observed_at=0.0,
    )
