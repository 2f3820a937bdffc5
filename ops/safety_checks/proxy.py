"""A TCP relay on loopback that misbehaves on demand: cut, half-open, black hole, corrupt, slow."""

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum

_PART = 65536
_LOOK_S = 0.02


class Mood(StrEnum):
    """How a relay treats what passes."""

    FINE = "fine"
    BLACK_HOLE = "black hole"
    """Nothing passes, nobody is told."""
    CORRUPT = "corrupt byte"
    """One bit of one of the next parts is flipped, then all is fine."""
    SLOW = "1 B/s"


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    dead: set[socket.socket] = field(default_factory=set[socket.socket])

    def other(self, one: socket.socket) -> socket.socket:
        return self.server if one is self.client else self.client


class Proxy:
    """Relays connections to one port, in a thread of its own."""

    def __init__(self, port: int, *, seed: int = 0) -> None:
        """Relay to `port` of this machine."""
        self._target, self._rng = port, random.Random(seed)  # noqa: S311 - faults, no secrets
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.mood = Mood.FINE
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._relay, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Return the address to use instead of the arm's own."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        with self._lock:
            for pair in self._pairs:
                for end in (pair.client, pair.server):
                    _reset(end)
                    self._forget(end)
            self._pairs.clear()

    def half_open(self) -> None:
        """Take the client away; the server is never told."""
        with self._lock:
            for pair in self._pairs:
                self._forget(pair.server)
                self._forget(pair.client)
                _reset(pair.client)
                pair.dead |= {pair.client, pair.server}

    def close(self) -> None:
        """End the relay and all connections."""
        self._stopping.set()
        self._thread.join(timeout=5.0)
        self.cut()
        self._listening.close()
        self._selector.close()

    def _relay(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(_LOOK_S):
                if key.fileobj is self._listening:
                    self._accept()
                elif isinstance(key.data, _Pair) and isinstance(key.fileobj, socket.socket):
                    self._pass(key.data, key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=1.0)
        except OSError:
            client.close()
            return
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.append(pair)
            for end in (client, server):
                end.settimeout(1.0)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(end, selectors.EVENT_READ, pair)

    def _pass(self, pair: _Pair, source: socket.socket) -> None:
        if self.mood is Mood.BLACK_HOLE:
            time.sleep(_LOOK_S)
            return
        with self._lock:
            if source in pair.dead or source.fileno() < 0:
                return
            try:
                data = source.recv(1 if self.mood is Mood.SLOW else _PART)
            except OSError:
                data = b""
            if not data:
                self._end(pair)
                return
            if self.mood is Mood.CORRUPT:
                data, self.mood = self._flipped(data), Mood.FINE
            with contextlib.suppress(OSError):
                pair.other(source).sendall(data)
        if self.mood is Mood.SLOW:
            time.sleep(1.0)

    def _flipped(self, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    def _end(self, pair: _Pair) -> None:
        for end in (pair.client, pair.server):
            self._forget(end)
            end.close()
        if pair in self._pairs:
            self._pairs.remove(pair)

    def _forget(self, end: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(end)


def _reset(end: socket.socket) -> None:
    """Close a connection as one that has broken: with a reset where that can be said."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
