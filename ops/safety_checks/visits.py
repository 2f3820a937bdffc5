"""What hostile visitors of an arm's server send: raw bytes, requests, WebSocket messages."""

import json
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ops.safety_checks.hostile import damaged, hostile, hostile_array
from robot.http_server import MAX_SOCKET_MESSAGE
from robot.process.arm_messages import VERSION
from robot.process.arm_server import MAX_CONTROL_BYTES
from robot.wire import WireError, encode

TOKEN = "t" * 64
"""Of every second arm that is visited; most visitors do not know it."""
MESSAGES = 30
"""Most messages of one conversation."""
ROUTES = (
    "GET /health", "GET /ready", "GET /state", "GET /metrics", "GET /frames/front.jpg",
    "POST /stop", "POST /reset", "POST /mode", "POST /mode", "POST /mode",
)  # fmt: skip
PATHS = (
    "/mode", "/stop", "/arm", "/state/", "/frames/..%2f..%2fetc%2fpasswd.jpg", "/frames/%00.jpg",
    "/%ff%fe", "//", "*", "http://127.0.0.1/state", "/state?a=%zz&a[]=1#x", "/frames/x.jpg?y=1",
    "/" + "a" * 4_000, "/docs", "/openapi.json", "/../../etc/passwd",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get",
           "G~T", "A" * 300)  # fmt: skip
HOSTS = ("[::1]", "127.0.0.1:[", "evil.example", "", "127.0.0.1:99999999", "a" * 900)
HEADERS = (
    "Origin: http://evil.example", "Origin: null", "Origin: \xff://\xfe", "Authorization: Bearer",
    "Authorization: Bearer \xe9\xff", "Authorization: Basic OjpbXQ==", "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-99", "Content-Length: -1", "Content-Length: 1e3",
    "Content-Length: 5, 5", "Content-Length: 99999999999999999999999", "Expect: 100-continue",
    "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked", "Upgrade: h2c",
    "Connection: Upgrade", "Connection: \xff", "X-Forwarded-For: \xff, 1.2.3.4:99999",
    "X-Forwarded-Proto: gopher", "Range: bytes=0-99999999999", "Cookie: a=\xff; b=\";",
    "Accept-Encoding: *;q=x", "If-None-Match: \xff", "X: " + "x" * 12_000, "X" * 3_000 + ": x",
    "Transfer-Encoding: identity", "Sec-WebSocket-Key: x", "Forwarded: for=\"[\"",
)  # fmt: skip
BODIES = (
    b"", b"{}", b'{"mode": "HOLD"}', b'{"mode": "PARK"}', b'{"mode": "RUN"}', b'{"mode": "STOP"}',
    b'{"mode": NaN}', b'{"mode": 1e999}', b'{"mode": "\\ud800"}', b'{"mode": {"mode": []}}',
    b'{"mode": "HOLD", "mode": 7}', b'{"\\u0000": 1}', b"[" * 60_000, b'{"a":' * 10_000,
    b"9" * 5_000, b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"\xff" * 400, b"null", b'"HOLD"',
    b"x" * (MAX_CONTROL_BYTES + 1), b'{"mode": "' + b"a" * 60_000 + b'"}',
)  # fmt: skip
NAMES = ("op", "version", "client", "token", "mode", "stamp", "joint_target", "frames", "reason",
         "human")  # fmt: skip
RIGHT: Mapping[str, Mapping[str, object]] = {
    "hello": {"version": VERSION, "client": "visitor", "token": TOKEN},
    "observe": {"frames": True},
    "command": {"joint_target": np.zeros(6), "stamp": 1.0},
    "mode": {"mode": "RUN"},
    **{operation: {} for operation in ("latch", "stop", "reset", "state", "beat", "fly")},
}
"""What belongs to each operation."""
MODES = ("IDLE", "HOLD", "RUN", "TAKEOVER", "PARK", "STOP", "run", "")
FIN, TEXT, BINARY = 0x80, 0x01, 0x02
OVER, HUNG_UP = b"'over'", b"\x88"
"""What is in the answer to the last message of a conversation, and what says that there is none."""
SHAKE = (
    "GET /arm HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket",
    "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Visit:
    """What is sent on one connection."""

    first: bytes
    then: bytes = b""
    """Sent once the first part is answered."""
    count: int = 1
    """Requests and messages in it."""
    until: bytes = b""
    """What the last answer contains; where it is empty the server hangs up."""


def visit(rng: random.Random) -> Visit:
    """Return a visit of some sort."""
    return rng.choice((_noise, _damaged, _requests, _requests, _conversation, _conversation))(rng)


def _noise(rng: random.Random) -> Visit:
    ending = rng.choice((b"", b"\r\n\r\n", b"\n\n"))
    return Visit(rng.randbytes(rng.randint(1, 300)) + ending)


def _damaged(rng: random.Random) -> Visit:
    return Visit(damaged(rng, _request(rng, last=True)))


def _requests(rng: random.Random) -> Visit:
    """Return requests one behind the other, without waiting for answers."""
    count = rng.randint(1, 4)
    return Visit(b"".join(_request(rng, last=n == count - 1) for n in range(count)), count=count)


def _request(rng: random.Random, *, last: bool) -> bytes:
    """Return a request whose frame is mostly right."""
    wild = f"{rng.choice(METHODS)} {rng.choice(PATHS)}"
    asked = rng.choice(ROUTES) if rng.random() < 0.7 else wild
    lines = [f"{asked} HTTP/1.{rng.choice('1110')}"]
    lines += [f"Host: {rng.choice(HOSTS) if rng.random() < 0.1 else '127.0.0.1'}"]
    lines += [f"Authorization: Bearer {TOKEN}"] * (rng.random() < 0.7)
    lines += ["Content-Type: application/json"] * (rng.random() < 0.8)
    lines += rng.sample(HEADERS, rng.choice((0, 0, 0, 1, 1, 3)))
    lines += ["Connection: close"] * last
    body = rng.choice(BODIES) if rng.random() < 0.6 else b""
    if rng.random() < 0.1:
        lines += ["Transfer-Encoding: chunked"]
        body = b"%x\r\n%s\r\n%s" % (len(body), body, rng.choice((b"0\r\n\r\n", b"zz\r\n", b"")))
    elif body:
        lines += [f"Content-Length: {len(body) + rng.choice((0, 0, 0, 0, 0, -1, 1))}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _conversation(rng: random.Random) -> Visit:
    """Return a handshake and what follows, with a hello or without."""
    lines: list[str] = list(SHAKE)
    if rng.random() < 0.2:
        lines.insert(rng.randint(1, len(lines)), rng.choice(HEADERS))
    if rng.random() < 0.1:
        del lines[rng.randint(1, len(lines) - 1)]
    shake = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if rng.random() < 0.2:
        return Visit(shake, _frame(rng, _message(rng)), count=2, until=HUNG_UP)
    hello = encode({"op": "hello", **RIGHT["hello"], "human": rng.random() < 0.5})
    if rng.random() < 0.2:
        # A frame that is none also ends what is sent with it.
        then = _masked(FIN | BINARY, hello) + _wrong_frame(rng)
        return Visit(shake, then, count=3, until=HUNG_UP)
    count = rng.randint(1, MESSAGES)
    then = b"".join(_frame(rng, _message(rng)) for _ in range(count))
    over = _masked(FIN | BINARY, encode({"op": "over"}))
    return Visit(shake, _masked(FIN | BINARY, hello) + then + over, count=3 + count, until=OVER)


def _message(rng: random.Random) -> bytes:
    """Return a message: a right one with wrong values, or a string that may be none."""
    if rng.random() < 0.3:
        return hostile(rng)[:MAX_SOCKET_MESSAGE]
    operation = rng.choice(list(RIGHT))
    message = {"op": operation, **RIGHT[operation]}
    message |= {name: _value(rng) for name in rng.sample(NAMES, rng.choice((0, 1, 1, 2)))}
    try:
        return encode(message)
    except WireError:
        return json.dumps({"op": "state"}).encode()


def _value(rng: random.Random) -> object:
    """Return what may or may not be right somewhere in a message."""
    kinds: list[object] = [
        rng.choice(MODES), rng.choice(list(RIGHT)), None, True, rng.getrandbits(64), -1, 0.0,
        float("nan"), float("inf"), "\x00\x1b[2J\u202e", "x" * rng.choice((1, 9, 9_000)),
        rng.randbytes(8), np.zeros(6), np.full(6, np.nan), np.linspace(-300, 300, 6),
        np.zeros((0, 6)), np.zeros((2, 3), np.float32), np.ones(6, bool), np.zeros(6, np.int64),
        np.zeros(700), [], [[[[[[]]]]]], {}, {"a": {"b": [1.0, None]}}, hostile_array(rng),
    ]  # fmt: skip
    return rng.choice(kinds)


def _frame(rng: random.Random, payload: bytes) -> bytes:
    """Return a message as one frame or two, now and then as text."""
    kind = TEXT if rng.random() < 0.05 else BINARY
    if rng.random() < 0.95:
        return _masked(FIN | kind, payload)
    half = len(payload) // 2
    return _masked(kind, payload[:half]) + _masked(FIN, payload[half:])


def _masked(head: int, payload: bytes) -> bytes:
    """Return a frame; a mask of zeros changes nothing."""
    size = len(payload)
    length = struct.pack(">BQ", 0xFF, size)
    if size < 2**16:
        length = struct.pack(">BH", 0xFE, size) if size > 125 else bytes([0x80 | size])
    return bytes([head]) + length + bytes(4) + payload


def _wrong_frame(rng: random.Random) -> bytes:
    """Return a frame that breaks the protocol, or claims more than it brings."""
    return rng.choice(
        (
            b"\x82\x01a",
            _masked(0x83, b"reserved"),
            _masked(0xF2, b"bits"),
            _masked(0x80, b"a rest of nothing"),
            _masked(0x89, b"p" * 126),
            _masked(0x09, b"a ping in parts"),
            _masked(0x8A, b"a pong for nothing"),
            _masked(0x89, b"ping"),
            _masked(0x81, b"\xff\xc0\x80"),
            _masked(0x88, b"\x00"),
            _masked(
                0x88, struct.pack(">H", rng.choice((0, 999, 1000, 1005, 4999, 65535))) + b"\xff"
            ),
            _masked(0x82, bytes(MAX_SOCKET_MESSAGE + 1)),
            b"\x82\xff" + b"\xff" * 8,
            b"\x82\xff" + struct.pack(">Q", 2**62) + bytes(4),
            rng.randbytes(rng.randint(1, 40)),
        )
    )
