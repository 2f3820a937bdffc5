"""The admin socket of an emulator: requests and replies, one JSON object a line."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import structlog

from robot.emulator.ops import Reply

log = structlog.get_logger(__name__)

_LINE: Final = 65536


class EmulatorError(Exception):
    """The emulator cannot start: the message says why."""


class Desk:
    """Requests that come by the admin socket, one JSON object a line."""

    def __init__(
        self, listening: socket.socket, answer: Callable[[dict[str, object]], Reply | None]
    ) -> None:
        """Serve a listening socket; `answer` may return None and the reply go to `reply` later."""
        self.listening = listening
        self._answer = answer
        self.asking: socket.socket | None = None
        """Whose request is being answered."""
        self._buffers: dict[socket.socket, bytes] = {}

    def accept(self) -> socket.socket:
        """Return a client that has come."""
        client, _ = self.listening.accept()
        client.setblocking(False)
        self._buffers[client] = b""
        return client

    def serve(self, client: socket.socket) -> bool:
        """Answer what a client has sent; return whether it is still there."""
        try:
            data = client.recv(_LINE)
        except OSError:
            data = b""
        lines = (self._buffers[client] + data).split(b"\n")
        self._buffers[client] = lines.pop()
        if not data or len(self._buffers[client]) > _LINE:
            del self._buffers[client]
            client.close()
            return False
        for line in lines:
            self._one(client, line)
        return True

    def _one(self, client: socket.socket, line: bytes) -> None:
        self.asking = client
        reply: Reply | None
        try:
            reply = self._answer(_parse_request(line))
        except ValueError as error:
            reply = {"error": str(error)}
        if reply is not None:
            self.reply(client, reply)

    def reply(self, client: socket.socket, reply: Reply) -> None:
        """Send a reply to a client that may have gone."""
        if client in self._buffers:
            try:
                client.sendall(json.dumps(reply).encode() + b"\n")
            except OSError:
                log.warning("admin_reply_lost")

    def close(self) -> None:
        """Hang up and remove the socket."""
        for client in self._buffers:
            client.close()
        Path(self.listening.getsockname()).unlink(missing_ok=True)
        self.listening.close()


def _parse_request(line: bytes) -> dict[str, object]:
    request: object = json.loads(line)
    if not isinstance(request, dict):
        raise ValueError(f"{request!r} is no request: expected a JSON object")  # noqa: TRY004
    return cast("dict[str, object]", request)


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at `path`; raise `EmulatorError` where somebody else does."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise EmulatorError(f"{path} answers: this arm is emulated already; stop that one first")
    finally:
        probe.close()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    listening.listen()
    listening.setblocking(False)
    return listening
