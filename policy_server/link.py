"""The way to a policy server: a thread that asks, waits, and connects again."""

import random
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import structlog
from numpy.typing import NDArray
from websockets.exceptions import WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from policy_server.messages import JPEG, RT, BadRequest, rows_of, seq_of
from policy_server.policy import PolicyRequest, PolicySpec, PolicyUnavailable, spec_of
from robot.access import is_loopback
from robot.camera import encode_jpeg
from robot.wire import MAX_BYTES, WireError, decode_map, encode

log = structlog.get_logger(__name__)

CONNECT_S = 2.0
BACK_OFF_S = (0.1, 1.0)
"""Pauses between vain attempts: the server is to be back on an arm within two seconds."""
NOTICE_S = 0.02
"""A server that hangs up between two questions is noticed this soon: within a tick."""
QUALITIES = (90, 80, 70, 55, 40)
"""Of JPEG, the best first."""
SLOW_S, QUICK_S = 0.060, 0.020
"""Time on the network above which pictures are made smaller, and below which better again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inquiry:
    """What to ask, and of which step."""

    request: PolicyRequest
    episode: int
    step: int
    cameras: Mapping[str, str]
    """The arm's camera for each of the policy's."""
    slack_s: float | None = None
    """Within which an answer is of use; None for no hurry."""
    rows_left: int = 0
    """Rows that the arm has yet."""
    underflows: int = 0
    """Times that the rows have run out in this episode."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrived:
    """A chunk that has come, or why there is none."""

    inquiry: Inquiry
    rows: NDArray[np.float32] | None
    refusal: str
    timing: Mapping[str, float]
    """Seconds: encode, network, wait, infer, total; and bytes sent."""


class Quality:
    """How good pictures may be for the time that they take on the way."""

    def __init__(self) -> None:
        """Begin with the best."""
        self._index, self._way_s = 0, 0.0

    @property
    def jpeg(self) -> int:
        """Return the quality of the next picture."""
        return QUALITIES[self._index]

    def took(self, way_s: float) -> None:
        """Take note of how long question and answer were on the way."""
        self._way_s += 0.3 * (way_s - self._way_s)
        if self._way_s > SLOW_S and self._index < len(QUALITIES) - 1:
            self._index, self._way_s = self._index + 1, SLOW_S / 2
        elif self._way_s < QUICK_S and self._index > 0:
            self._index, self._way_s = self._index - 1, SLOW_S / 2


class PolicyLink:
    """Asks one server, one question at a time; a newer question replaces one that still waits."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "",
        token: str | None = None,
        timeout_s: float = 2.0,
        jpeg: bool | None = None,
        delay_s: float = 0.0,
    ) -> None:
        """Connect to `ws://host:port`; raise `PolicyUnavailable` where no policy answers there.

        An answer is waited for `timeout_s`, and kept back for `delay_s` as on a longer way. `jpeg`
        None: pictures are compressed for other machines only. `name` is what the server calls us.
        """
        self.url = f"ws{url.removeprefix('ws').removeprefix('http')}".rstrip("/")
        self._name = name
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout_s, self._delay_s = timeout_s, delay_s
        host = self.url.partition("://")[2].rpartition(":")[0]
        self._jpeg = not is_loopback(host.strip("[]")) if jpeg is None else jpeg
        self.quality = Quality()
        self._seq = 0
        self._changed = threading.Condition()
        self._next: Inquiry | None = None
        self._busy = False
        self._arrived: list[Arrived] = []
        self._lost = ""
        self._closing = threading.Event()
        self._connection: ClientConnection | None = None
        self.spec = self._open()
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Return whether a question is on its way."""
        return self._busy

    @property
    def is_open(self) -> bool:
        """Return whether the server is there, as far as is known."""
        return self._connection is not None and self._connection.state is State.OPEN

    def _require_open(self) -> None:
        if not self.is_open and not self._closing.is_set():
            raise OSError("the server hung up")

    def ask(self, inquiry: Inquiry) -> None:
        """Ask as soon as may be."""
        with self._changed:
            self._next, self._busy = inquiry, True
            self._changed.notify_all()

    def poll(self, *, wait_s: float = 0.0) -> tuple[list[Arrived], str]:
        """Return what has come, and why the connection was lost meanwhile, if it was."""
        with self._changed:
            if wait_s:
                self._changed.wait_for(lambda: self._arrived or self._lost, timeout=wait_s)
            arrived, self._arrived = self._arrived, []
            lost, self._lost = self._lost, ""
        return arrived, lost

    def drop(self) -> None:
        """Forget what was asked: its answer is of no use to anybody."""
        with self._changed:
            self._next, self._arrived = None, []

    def close(self) -> None:
        """Hang up."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._hang_up()
        self._thread.join(timeout=self._timeout_s + CONNECT_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._next or self._closing.is_set(), timeout=NOTICE_S
                )
                inquiry, self._next = self._next, None
            try:
                self._require_open()
                if inquiry:
                    arrived = self._exchange(inquiry)
                    self._closing.wait(self._delay_s)
                    self._deliver(arrived)
            except (OSError, WebSocketException, WireError, BadRequest) as error:
                self._hang_up()
                self._say_lost(str(error) or type(error).__name__)
                self._reopen()

    def _deliver(self, arrived: Arrived) -> None:
        with self._changed:
            self._arrived.append(arrived)
            self._busy = self._next is not None
            self._changed.notify_all()

    def _say_lost(self, why: str) -> None:
        log.warning("policy lost", url=self.url, why=why)
        with self._changed:
            self._lost = why
            self._arrived = []
            self._changed.notify_all()

    def _reopen(self) -> None:
        """Connect again, pausing longer after each vain attempt."""
        pause = BACK_OFF_S[0]
        while not self._closing.is_set():
            try:
                spec = self._open()
            except PolicyUnavailable as error:
                log.debug("policy is still away", why=str(error))
            else:
                if spec != self.spec:
                    self._say_lost("another policy answers there: start again")
                    self._hang_up()
                else:
                    log.info("policy is back", url=self.url)
                    with self._changed:
                        # What was asked meanwhile was asked of a moment that has passed, but an
                        # arm that rests waits for its first rows.
                        if self._next is not None and self._next.step:
                            self._next = None
                        self._busy = self._next is not None
                    return
            # Four arms that lost the same server do not knock all at once.
            self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, BACK_OFF_S[1])

    def _open(self) -> PolicySpec:
        try:
            opening = connect(
                self.url,
                additional_headers=self._headers,
                open_timeout=CONNECT_S,
                close_timeout=0.2,
                max_size=MAX_BYTES,
                compression=None,
                # Proxies of the environment are for the internet, not for this network.
                proxy=None,
            )
            self._connection = ExitStack().enter_context(opening)
            said = self._connection.recv(timeout=CONNECT_S)
            facts = decode_map(said if isinstance(said, bytes) else b"").get("spec")
            if not isinstance(facts, dict):
                raise PolicyUnavailable(f"{self.url} speaks openpi, but says no spec of ours")
            return spec_of(cast("dict[str, Any]", facts))
        except (OSError, WebSocketException, WireError, TypeError, ValueError) as error:
            self._hang_up()
            raise PolicyUnavailable(
                f"no policy at {self.url} ({error}): start it with make serve-pi"
            ) from error

    def _exchange(self, inquiry: Inquiry) -> Arrived:
        connection = self._connection
        if connection is None:
            raise OSError("not connected")
        began = time.perf_counter()
        self._seq += 1
        data = encode(self._message(inquiry))
        sent = time.perf_counter()
        connection.send(data)
        reply = self._answer(connection, deadline=time.monotonic() + self._timeout_s)
        total_s = time.perf_counter() - began
        if "error" in reply:
            why = f"{reply['error']}: {reply.get('message')}"
            return Arrived(inquiry=inquiry, rows=None, refusal=why, timing={})
        timing = _timing(reply, encode_s=sent - began, total_s=total_s)
        self.quality.took(timing["network"])
        timing["bytes"] = float(len(data))
        rows = rows_of(reply, self.spec)
        return Arrived(inquiry=inquiry, rows=rows, refusal="", timing=timing)

    def _answer(self, connection: ClientConnection, *, deadline: float) -> dict[str, object]:
        """Return the answer to the question that was asked last; older ones pass by."""
        while True:
            data = connection.recv(timeout=max(0.0, deadline - time.monotonic()))
            reply = decode_map(data if isinstance(data, bytes) else b"")
            if seq_of(reply) == self._seq or reply.get("seq") == self._seq:
                return reply

    def _message(self, inquiry: Inquiry) -> dict[str, object]:
        request = inquiry.request
        own: dict[str, object] = {
            "seq": self._seq,
            "step0": inquiry.step,
            "observed_at": request.observed_at,
            "rows_left": inquiry.rows_left,
            "underflows": inquiry.underflows,
        }
        if self._name:
            own["session"] = self._name
        if inquiry.slack_s is not None:
            own["slack_ms"] = 1e3 * inquiry.slack_s
        if request.committed:
            own |= {"prefix": request.committed.rows, "inference_delay": request.committed.delay}
        images = {
            name: self._picture(request.images[key])
            for name, key in inquiry.cameras.items()
            if key in request.images
        }
        return {"images": images, **request.state, "prompt": request.goal, RT: own}

    def _picture(self, image: NDArray[np.uint8]) -> object:
        size = self.spec.image_size
        if size and image.shape[:2] != size and self._jpeg:
            image = np.asarray(
                cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8
            )
        return {JPEG: encode_jpeg(image, quality=self.quality.jpeg)} if self._jpeg else image

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, WebSocketException):
                connection.close()


def _timing(reply: Mapping[str, object], *, encode_s: float, total_s: float) -> dict[str, float]:
    """Return where the time went, as far as the server says."""
    said = reply.get("server_timing")
    server = cast("dict[str, object]", said if isinstance(said, dict) else {})
    ms = {name: value for name, value in server.items() if isinstance(value, int | float)}
    inside = float(ms.get("total_ms", 0.0)) / 1e3
    return {
        "encode": encode_s,
        "network": max(0.0, total_s - encode_s - inside),
        "wait": float(ms.get("wait_ms", 0.0)) / 1e3,
        "infer": float(ms.get("infer_ms", 0.0)) / 1e3,
        "total": total_s,
    }
