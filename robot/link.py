"""A connection to an arm's process: questions with a deadline, and a sign of life of its own."""

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack

import structlog
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from robot.process.arm_messages import BEAT_PERIOD_S
from robot.wire import MAX_BYTES, WireError, decode_map, encode

log = structlog.get_logger(__name__)

BACK_OFF_S = (0.5, 30.0)
CONNECT_S = 2.0


class ArmUnavailable(Exception):
    """An arm that cannot be used at the moment: the episode ends here."""


class LinkLost(ArmUnavailable):
    """The arm's process does not answer in time, or not at all."""


class ArmRefused(ArmUnavailable):
    """The arm's process answers, and says no."""

    def __init__(self, code: str, message: str) -> None:
        """Say why."""
        super().__init__(message)
        self.code = code


class Link:
    """Asks one arm's process; once lost, it stays lost until `open` is called."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Prepare to ask the process at `url`, and to wait `timeout_s` for each answer."""
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._connection: ClientConnection | None = None
        self._asking = threading.Lock()
        self._closing = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="beat", daemon=True)

    @property
    def is_open(self) -> bool:
        """Return whether the process answered when it was last asked."""
        return self._connection is not None

    def open(self, hello: Mapping[str, object]) -> dict[str, object]:
        """Connect, say hello, and return the answer; raise `ArmUnavailable`."""
        try:
            # Proxies of the environment are for the internet, not for an arm on this network.
            opening = connect(
                f"ws{self.url.removeprefix('http')}/arm",
                open_timeout=CONNECT_S,
                close_timeout=0.2,
                max_size=MAX_BYTES,
                compression=None,
                proxy=None,
            )
            # It stays open beyond any block: `close` hangs up.
            self._connection = ExitStack().enter_context(opening)
        except (OSError, WebSocketException, ValueError) as error:
            raise LinkLost(
                f"no arm's process at {self.url} ({error}): start it with make arm"
            ) from error
        try:
            reply = self.ask(hello)
        except ArmRefused:
            self._drop()
            raise
        if not self._beats.is_alive():
            self._beats.start()
        return reply

    def reopen(self, hello: Mapping[str, object], *, patience_s: float) -> dict[str, object]:
        """Connect again, waiting longer after each vain attempt; raise `ArmUnavailable`."""
        deadline, pause = time.monotonic() + patience_s, BACK_OFF_S[0]
        while True:
            try:
                return self.open(hello)
            except LinkLost as error:
                if time.monotonic() + pause > deadline or self._closing.wait(pause):
                    raise
                log.info("arm is out of reach", url=self.url, reason=str(error))
            pause = min(2 * pause, BACK_OFF_S[1])

    def ask(self, message: Mapping[str, object]) -> dict[str, object]:
        """Return the answer to a message, in time; raise `LinkLost`, `ArmRefused`, `WireError`."""
        data = encode(message)
        with self._asking:
            reply = self._exchange(data)
        if "error" in reply:
            raise ArmRefused(str(reply["error"]), str(reply.get("message")))
        return reply

    def lost(self, what: str) -> LinkLost:
        """Hang up, because question and answer would no longer belong together."""
        self._drop()
        log.warning("link lost", url=self.url, what=what)
        return LinkLost(f"the arm's process at {self.url} {what}")

    def close(self) -> None:
        """Hang up for good."""
        self._closing.set()
        self._drop()
        if self._beats.is_alive():
            self._beats.join(timeout=1.0)

    def _exchange(self, data: bytes) -> dict[str, object]:
        connection = self._connection
        if connection is None:
            raise LinkLost(f"the link to {self.url} is lost")
        try:
            connection.send(data)
            answer = connection.recv(timeout=self._timeout_s)
            return decode_map(answer if isinstance(answer, bytes) else b"")
        except TimeoutError as error:
            raise self.lost(f"gave no answer within {self._timeout_s:g} s") from error
        except (OSError, WebSocketException) as error:
            raise self.lost(f"hung up ({error})") from error
        except WireError as error:
            raise self.lost(f"answered nonsense: {error}") from error

    def _beat(self) -> None:
        """Say that this client lives, whatever else it does."""
        beat = encode({"op": "beat"})
        while not self._closing.wait(BEAT_PERIOD_S):
            connection = self._connection
            if connection is None:
                continue
            try:
                connection.send(beat)
            except (OSError, WebSocketException):
                log.debug("no beat was sent", url=self.url)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
