"""A reward service that says what it is told to, or nothing at all."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self, cast

import numpy as np

type Answer = tuple[int, bytes]
"""Status and body."""


class StubRewarder:
    """Answers every score request with what `answer` returns of the clip's length."""

    def __init__(self, answer: Callable[[int], Answer], *, port: int = 0) -> None:
        """Listen on loopback; port 0 is any that is free."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Small answers in two parts would wait 40 ms for each other.
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                asked = json.loads(self.rfile.read(length))
                status, body = answer(len(asked["stamps"]))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def good_answer(count: int, rng: np.random.Generator) -> dict[str, object]:
    """Return a sane answer about a clip of `count` observations."""
    progress = np.sort(rng.uniform(0.0, 1.0, count)).tolist()
    return {
        "success": [value > 0.9 for value in progress],
        "progress": progress,
        "valid": [True] * count,
        "model": "stub",
        "evidence": {"distance": 0.1},
        "latency_ms": 1.0,
        "request_id": "0",
    }


def garbage(count: int, rng: np.random.Generator) -> Answer:
    """Return an answer that is no score of a clip of `count` observations."""
    good = good_answer(count, rng)
    name = str(rng.choice(["success", "progress", "valid"]))
    row = list(cast("list[object]", good[name]))
    at = int(rng.integers(count))
    kinds: list[Callable[[], Answer]] = [
        lambda: (200, rng.bytes(int(rng.integers(0, 200)))),
        lambda: (200, _json(good)[: int(rng.integers(1, 60))]),
        lambda: (200, _json({**good, name: row[:-1]})),
        lambda: (200, _json({**good, name: [*row, row[-1]]})),
        lambda: (200, _json({**good, name: None})),
        lambda: (200, _json({**good, name: {"0": 1}})),
        lambda: (200, _json({k: v for k, v in good.items() if k != name})),
        lambda: (200, _json({**good, name: [*row[:at], _bad(rng), *row[at + 1 :]]})),
        lambda: (200, _json([good])),
        lambda: (200, b"null"),
        lambda: (200, b"[" * 5000),
        lambda: (200, b"<html>busy</html>"),
        lambda: (204, b""),
        lambda: (int(rng.choice([400, 401, 403, 404, 413, 429, 500, 503, 504])), _json(good)),
    ]
    return kinds[int(rng.integers(len(kinds)))]()


def _bad(rng: np.random.Generator) -> object:
    """Return what is neither a truth nor a number from 0 to 1."""
    bad: list[object] = [float("nan"), float("inf"), -0.1, 1.5, 1e300, "0.5", None, [0.5], {}]
    return bad[int(rng.integers(len(bad)))]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
