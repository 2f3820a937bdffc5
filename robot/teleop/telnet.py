"""A line protocol on a loopback port for whoever stands at the bench: stop always, move never."""

import socket
import socketserver
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

import structlog

log = structlog.get_logger(__name__)

type Answer = Callable[[], str]
"""Does what a line asks for and returns the sentence that is sent back."""

MAX_LINE, MAX_PEERS = 64, 8
READ_S = 5.0
"""How long a line may take once it has begun."""


class TelnetServer:
    """Answers lines of one letter, each with one line."""

    def __init__(self, answers: Mapping[str, tuple[str, Answer]], *, port: int) -> None:
        """Listen on a loopback port, 0 for any; `answers` has a word and an action by letter.

        Raise OSError where the port is taken.
        """
        self._server = _Server(("127.0.0.1", port), _Peer)
        self._server.answers = dict(answers)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    answers: Mapping[str, tuple[str, Answer]]

    def __init__(self, address: tuple[str, int], peer: type["_Peer"]) -> None:
        super().__init__(address, peer)
        self._peers: deque[socket.socket] = deque()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Serve a peer; the oldest makes room, since a stop must never find the door shut."""
        with self._lock:
            self._peers.append(request)
            oldest = self._peers.popleft() if len(self._peers) > MAX_PEERS else None
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Serve a peer until it leaves."""
        try:
            super().finish_request(request, client_address)
        except OSError as error:
            log.debug("telnet peer left", reason=str(error))
        finally:
            with self._lock, suppress(ValueError):
                self._peers.remove(request)

    def answer(self, line: str) -> str:
        """Return what a line is answered with."""
        letter = line.strip()[:1].lower()
        if letter in self.answers:
            return self.answers[letter][1]()
        known = ", ".join(f"{key} {word}" for key, (word, _) in self.answers.items())
        return f"not understood; known: {known}"


class _Peer(socketserver.BaseRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle(self) -> None:
        """Answer every line until the peer leaves or sends what is none."""
        line = bytearray()
        while True:
            self.request.settimeout(READ_S if line else None)
            data: bytes = self.request.recv(MAX_LINE)
            if not data:
                return
            line += data
            while (end := line.find(b"\n")) >= 0:
                self._answer(bytes(line[:end]))
                del line[: end + 1]
            if len(line) > MAX_LINE:
                self.request.sendall(b"a line has one letter; good-bye\r\n")
                return

    def _answer(self, line: bytes) -> None:
        # Telnet's own negotiation and control characters say nothing here.
        text = "".join(chr(byte) for byte in line if 32 <= byte < 127)
        if text.strip():
            self.request.sendall(f"{self.server.answer(text)}\r\n".encode("ascii", "replace"))
