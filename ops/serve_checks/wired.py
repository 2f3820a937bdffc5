"""Hostile frames over a real socket, while a friend's questions are to be answered."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ops.serve_checks.hostile_frames import observation
from policy_server.messages import RT
from robot.wire import decode_map, encode

ANSWER_S = 10.0
FRIEND_EVERY_S = 0.02


@dataclass(slots=True)
class Wired:
    """What a server made of frames, and what a friend saw meanwhile."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    findings: list[str] = field(default_factory=list[str])
    answered: int = 0
    """Questions of the friend."""
    slowest_s: float = 0.0


def over_socket(address: str, frames: Iterable[tuple[int, bytes]]) -> Wired:
    """Send frames, with their numbers, to `host:port`; each is answered, or hung up on."""
    seen, stopping = Wired(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        friend = pool.submit(_befriend, address, seen, stopping)
        try:
            _send_all(address, frames, seen)
        finally:
            stopping.set()
        try:
            friend.result()
        except (OSError, ConnectionClosed, ValueError, KeyError) as error:
            seen.findings.append(f"a friend was not answered: {type(error).__name__}: {error}")
    return seen


def _send_all(address: str, frames: Iterable[tuple[int, bytes]], seen: Wired) -> None:
    connection: ClientConnection | None = None
    with ExitStack() as stack:
        for number, data in frames:
            try:
                if connection is None:
                    connection = _opened(stack, address)
                connection.send(data)
                said = connection.recv(timeout=ANSWER_S)
                seen.outcomes["refused" if isinstance(said, str) else "answered"] += 1
                if isinstance(said, str):
                    # A client that numbers nothing is hung up on after such a text.
                    connection = None
            except ConnectionClosed:
                seen.outcomes["hung up"] += 1
                connection = None
            except OSError as error:
                seen.findings.append(f"frame={number}: {type(error).__name__} {error}, on a socket")
                connection = None
            if connection is None:
                stack.pop_all().close()


def _opened(stack: ExitStack, address: str) -> ClientConnection:
    """Return a connection on which the server has said what it is."""
    opening = connect(f"ws://{address}", compression=None, proxy=None, close_timeout=1.0)
    connection = stack.enter_context(opening)
    connection.recv(timeout=ANSWER_S)
    return connection


def _befriend(address: str, seen: Wired, stopping: threading.Event) -> None:
    """Ask again and again, and look at each answer."""
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        connection = _opened(stack, address)
        while not stopping.wait(FRIEND_EVERY_S):
            pose, began = rng.uniform(-90, 90, 6).astype(np.float32), time.monotonic()
            own = {"seq": seen.answered}
            connection.send(encode({**observation(), "joint_pos": pose, RT: own}))
            said = connection.recv(timeout=ANSWER_S)
            reply = decode_map(said if isinstance(said, bytes) else b"")
            rows = np.asarray(reply["actions"])
            if reply[RT]["seq"] != seen.answered or np.abs(rows - pose).max() > 0.3:  # pyright: ignore
                raise ValueError("another question's answer")
            seen.answered += 1
            seen.slowest_s = max(seen.slowest_s, time.monotonic() - began)
