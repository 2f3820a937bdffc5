"""S7: a stop is heard while a thousand others hold connections and say nothing, or half a thing."""

import socket
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress

from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from ops.safety_checks.served import LOOPBACK, PRESS_S, MakeApp, Served, served
from robot.process.arm_server import create_app

CROWD = 1_000
PRESSES = 4
"""Presses before another crowd comes: within seconds the server hangs up on it."""
STOP_S = 0.05
SETTLE_S = 4.0
"""How long the rush of a crowd's coming may last: on a busy machine it is no crowd yet."""
HOST = b"Host: 127.0.0.1\r\n"
BEGINNINGS = {
    "idle": b"",
    "half a line": b"POST /sto",
    "half the headers": b"POST /stop HTTP/1.1\r\n" + HOST,
    "half a body": b"POST /mode HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    b"Content-Length: 99\r\n\r\n{",
    "a silent WebSocket": b"GET /arm HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
}


def crowded_stops(effort: Effort, make_app: MakeApp = create_app) -> list[Row]:
    """S7: press stop by HTTP while a crowd holds connections open."""
    count = effort.count(quick=20, full=1_000)
    times: list[float] = []
    rushed: list[float] = []
    others: list[int] = []
    with served(make_app) as arm:
        calm = [arm.press() for _ in range(5 * PRESSES)]
        for number in effort.progress(range(-(-count // PRESSES)), "S7 crowds"):
            beginning = list(BEGINNINGS.values())[number % len(BEGINNINGS)]
            with crowd(arm, beginning) as rush:
                rushed.append(rush)
                for _ in range(min(PRESSES, count - number * PRESSES)):
                    others.append(len(arm.server.server_state.connections))
                    times.append(arm.press())
    late = [f"press {n}: {1e3 * t:.0f} ms" for n, t in enumerate(times) if not t <= STOP_S]
    row = Row(
        id="S7",
        promise=f"a stop by HTTP is heard while {CROWD:,} other connections are open",
        asked=f"each ≤{1e3 * STOP_S:g} ms",
        measured=f"{spread(times)}; in the rush of their coming {spread(rushed)}",
        trials=count,
        full=1_000,
        broken=len(late),
        how=f"{CROWD:,} connections of one kind, {', '.join(BEGINNINGS)} in turn; then stop is "
        f"pressed {PRESSES} times on a new connection, to the answer. The server hangs up on who "
        f"waits: {min(others):,} to {max(others):,} were left at a press. Client, crowd and server "
        "are one process. A press in the rush is not judged; a p99.9 would take 2,995.",
        noise=f"without a crowd {spread(calm)}",
        examples=tuple(late[:MOST_EXAMPLES]),
    )
    return [row]


@contextmanager
def crowd(arm: Served, beginning: bytes) -> Generator[float]:
    """Hold a crowd of connections that all begin alike; yield what a press took as they came."""
    with ExitStack() as links:
        for _ in range(CROWD):
            # Who is not let in, or has been hung up on already, cannot say anything.
            with suppress(OSError):
                link = socket.create_connection((LOOPBACK, arm.port), timeout=PRESS_S)
                links.enter_context(link).sendall(beginning)
        rush = arm.press()
        settled = time.monotonic() + SETTLE_S
        while arm.press() > STOP_S and time.monotonic() < settled:
            time.sleep(STOP_S)
        yield rush
