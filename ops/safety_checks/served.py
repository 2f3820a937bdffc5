"""An arm's process on servos that obey, and its server on a port of this machine."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

import numpy as np
import uvicorn
from starlette.types import ASGIApp

from ops.safety_checks.bench import GUARD, PARK, START
from robot.access import Door
from robot.arm import Joints, frozen
from robot.camera import encode_jpeg
from robot.clock import WallClock
from robot.http_server import BACKLOG, server_of
from robot.process.arm_process import ArmProcess, Mode, run_cycle
from robot.process.arm_server import create_app
from robot.process.camera_feed import Picture
from robot.process.servos import ServoHealth
from robot.tokens import Tokens

LOOPBACK = "127.0.0.1"
START_S, END_S, PRESS_S = 60.0, 10.0, 5.0
"""Within which a server starts, ends, and answers a press on stop."""
LOGS = ("uvicorn.error", "asyncio")
"""Where a server and its event loop cry out."""

type MakeApp = Callable[..., ASGIApp]


class Obedient:
    """Six servos that are at once where they are told to be."""

    def __init__(self) -> None:
        """Stand at the start pose, without torque."""
        self._pos, self._torque_on = START, False

    def joint_pos(self) -> Joints:
        """Return where they are."""
        return self._pos

    def command(self, joint_target: Joints) -> None:
        """Go there."""
        if self._torque_on:
            self._pos = frozen(joint_target)

    def health(self) -> ServoHealth | None:
        """Return nothing: they have no trouble."""
        return None

    def torque(self, *, on: bool) -> None:
        """Switch torque."""
        self._torque_on = on

    def close(self) -> None:
        """Do nothing."""


class OnePicture:
    """A camera that always shows the same."""

    def __init__(self) -> None:
        """Take the picture."""
        self._jpeg = encode_jpeg(np.full((48, 64, 3), 90, np.uint8))

    def newest(self) -> Mapping[str, Picture]:
        """Return the picture, as one of this moment."""
        return {"front": Picture(jpeg=self._jpeg, stamp=time.monotonic())}

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Return height and width."""
        return {"front": (48, 64)}


class Outcries(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, and what was raised."""
        error = record.exc_info[1] if record.exc_info else None
        self.said.append(" ".join(f"{record.getMessage()} {error or ''}".split())[:160])


@dataclass(frozen=True, slots=True)
class Served:
    """An arm's process that is served."""

    process: ArmProcess
    port: int
    server: uvicorn.Server
    threads: tuple[threading.Thread, ...]
    outcries: list[str]

    def press(self) -> float:
        """Press stop by HTTP on a new connection; return the seconds, infinite if unheard."""
        self.process.reset()
        began = time.monotonic()
        link = HTTPConnection(LOOPBACK, self.port, timeout=PRESS_S)
        try:
            link.request("POST", "/stop")
            heard = link.getresponse().status == 200
        except (OSError, HTTPException):
            heard = False
        finally:
            link.close()
        took = time.monotonic() - began
        return took if heard and self.process.mode is Mode.STOP else float("inf")

    def ailments(self) -> list[str]:
        """Return what is wrong with it after all that has been done to it."""
        wrong = [f"{thread.name} has died" for thread in self.threads if not thread.is_alive()]
        if self.press() == float("inf"):
            wrong.append("a stop is not heard any more")
        return wrong + [f"logged: {said}" for said in self.outcries]


@contextmanager
def served(
    make_app: MakeApp = create_app, *, tokens: Tokens | None = None, port: int = 0
) -> Generator[Served]:
    """Serve an arm that ticks at 50 Hz, on any port if 0; `make_app` may make a broken one."""
    process = ArmProcess(Obedient(), GUARD, WallClock(), park_pose=PARK)
    app = make_app(process, OnePicture(), arm_id="arm01", door=Door(tokens))
    stopping, server = threading.Event(), server_of(app)
    with socket.create_server((LOOPBACK, port), backlog=BACKLOG) as listening, _heard() as outcries:
        cycle = (process, WallClock(), stopping)
        threads = (
            threading.Thread(target=run_cycle, args=cycle, name="the cycle", daemon=True),
            threading.Thread(
                target=server.run, args=([listening],), name="the server", daemon=True
            ),
        )
        for thread in threads:
            thread.start()
        try:
            _wait_until_started(server)
            yield Served(process, listening.getsockname()[1], server, threads, outcries)
        finally:
            stopping.set()
            server.should_exit = True
            for thread in threads:
                thread.join(END_S)


@contextmanager
def _heard() -> Generator[list[str]]:
    """Yield what is logged as an error meanwhile; it is printed nowhere else."""
    outcries, logs = Outcries(), [logging.getLogger(name) for name in LOGS]
    spread = [log.propagate for log in logs]
    for log in logs:
        log.addHandler(outcries)
        log.propagate = False
    try:
        yield outcries.said
    finally:
        for log, propagate in zip(logs, spread, strict=True):
            log.removeHandler(outcries)
            log.propagate = propagate


def _wait_until_started(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + START_S
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server did not start within {START_S:g} s")
        time.sleep(0.005)
