"""N1: an arm's server answers whatever comes by HTTP or WebSocket, and still hears a stop."""

import asyncio
import random
import re
from contextlib import suppress
from typing import NamedTuple

from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row
from ops.safety_checks.served import LOOPBACK, MakeApp, served
from ops.safety_checks.visits import TOKEN, Visit, visit
from robot.process.arm_server import create_app
from robot.tokens import OneToken

PART = 2_000
"""Requests and messages after which another arm is visited, with a token and without in turn."""
AT_ONCE = 32
PATIENCE_S, WEBSOCKET_PATIENCE_S = 0.5, 2.0
"""How long a visitor waits for the next part of an answer."""
ASKED = "0 of 1 M answers 5xx, tracebacks, crashes"
_FAILED = re.compile(rb"HTTP/1\.[01] (5\d\d)[^\r\n]*")
_NOT_READY = b'"ready":false'


class Part(NamedTuple):
    """What one process is told to do."""

    seed: int
    number: int
    messages: int
    make_app: MakeApp


class Visited(NamedTuple):
    """What became of an arm that was visited."""

    messages: int
    connections: int
    answered: int
    wrong: list[str]


def hostile_visitors(effort: Effort, make_app: MakeApp = create_app) -> list[Row]:
    """N1: visit arms with nonsense of all sorts; look for 5xx, tracebacks and deaf arms."""
    count = effort.count(quick=2_000, full=1_000_000)
    parts = [
        Part(effort.seed, number, min(PART, count - number * PART), make_app)
        for number in range(-(-count // PART))
    ]
    found = list(effort.spread(visited, parts, f"N1 arms, {PART:,} requests and messages each"))
    wrong = [one for part in found for one in part.wrong]
    done, answered = sum(part.messages for part in found), sum(part.answered for part in found)
    connections = sum(part.connections for part in found)
    row = Row(
        id="N1",
        promise="no request or message makes an arm's server answer 5xx, log a traceback or die",
        asked=ASKED,
        measured=f"{len(wrong)} of {done:,}; {answered:,} of {connections:,} connections answered",
        trials=done,
        full=1_000_000,
        broken=len(wrong),
        how="Random bytes, damaged requests, requests with hostile methods, paths, headers and "
        "bodies one behind the other, WebSocket messages and frames of all sorts before and after "
        f"a hello, {AT_ONCE} visitors at once, to a served `ArmProcess`, every second one with a "
        "token; then a stop must be heard. 503 of /ready is right while stopped. Counted are "
        "requests and messages.",
        noise=f"a visitor leaves after {1e3 * PATIENCE_S:g} ms without an answer",
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


def visited(part: Part) -> Visited:
    """Visit one arm as often as a part says."""
    rng = random.Random(f"{part.seed} {part.number}")  # noqa: S311 - visits, no secrets
    visits: list[Visit] = []
    messages = 0
    while messages < part.messages:
        visits.append(visit(rng))
        messages += visits[-1].count
    with served(part.make_app, tokens=OneToken(TOKEN) if part.number % 2 else None) as arm:
        answers = asyncio.run(_all(arm.port, visits))
        pairs = zip(visits, answers, strict=True)
        wrong = [fault for one, said in pairs if (fault := _fault(one, said))] + arm.ailments()
    where = f"seed={part.seed} part {part.number}"
    said = [f"{where}: {one}"[:300] for one in wrong]
    return Visited(messages, len(visits), sum(map(bool, answers)), said)


def _fault(one: Visit, said: bytes) -> str:
    """Return what is wrong with the answers to a visit."""
    failed = [status for status in _FAILED.findall(said) if status != b"503"]
    unready = len(_FAILED.findall(said)) - len(failed)
    if not failed and unready <= said.count(_NOT_READY):
        return ""
    return f"{said[:40]!r} to {one.first[:80]!r} {one.then[:40]!r}"


async def _all(port: int, visits: list[Visit]) -> list[bytes]:
    """Return the answers to all visits, some of which are made at once."""
    free = asyncio.Semaphore(AT_ONCE)

    async def make(one: Visit) -> bytes:
        async with free:
            return await _answers(port, one)

    return await asyncio.gather(*map(make, visits))


async def _answers(port: int, one: Visit) -> bytes:
    """Send what a visit says, and return all that comes back."""
    said, patience = b"", WEBSOCKET_PATIENCE_S if one.until else PATIENCE_S
    try:
        opening = asyncio.open_connection(LOOPBACK, port)
        reader, writer = await asyncio.wait_for(opening, PATIENCE_S)
    except (OSError, TimeoutError):
        return said
    # Hanging up is a way to answer, and so is silence until the visitor leaves.
    with suppress(OSError, TimeoutError):
        writer.write(one.first)
        due = one.then
        while part := await asyncio.wait_for(reader.read(65536), patience):
            said += part
            writer.write(due)
            due = b""
            if one.until and one.until in said:
                break
    writer.close()
    return said
