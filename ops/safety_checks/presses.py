"""S7 with real processes: the ways in which a person stops an arm, pressed one after the other."""

import os
import pty
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import httpx

from ops.safety_checks.driven import Tally, busy, driven, on_rig
from ops.safety_checks.effort import Effort
from ops.safety_checks.rig import RigArm, RigError, end, until_mode
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from robot.arm_config import ROOT
from robot.client import open_arm
from robot.process.arm_state import Mode
from robot.teleop.gamepad import STOP, Gamepad
from robot.teleop.takeover import KEYS_HELP, PERIOD_S, Takeover
from robot.teleop.telnet import TelnetServer

type Press = Callable[[], object]

STOP_S = 0.05
PROMISE = "a press on stop reaches the arm with every core busy"


def pressed_stops(effort: Effort) -> list[Row]:
    """S7: press stop in several ways while a client drives and every core is busy."""
    check = partial(_pressed, effort)
    return on_rig(effort, 1, check, promise=("S7", PROMISE), meanwhile="stop is pressed")


def _pressed(effort: Effort, arms: Sequence[RigArm]) -> list[Row]:
    count = effort.count(quick=15, full=3_000)
    arm, tally = arms[0], Tally()
    with presses(arm, effort.folder / "rig") as ways, busy(effort, os.cpu_count() or 1):
        names = list(ways)
        for trial in effort.progress(range(count), "S7 presses"):
            way = names[trial % len(names)]
            with driven(arm):
                began = time.monotonic()
                ways[way]()
                seconds, gap = until_mode(arm.watch(), [Mode.STOP], since=began, limit_s=2.0)
            arm.config.runtime("stop").unlink(missing_ok=True)
            tally.times.append(seconds)
            tally.gaps.append(gap)
            if not seconds <= STOP_S:
                tally.wrong.append(f"seed={effort.seed} {way} {trial}: {1e3 * seconds:.0f} ms")
    row = Row(
        id="S7",
        promise=PROMISE,
        asked="≤50 ms p99.9 on one machine",
        measured=spread(tally.times),
        trials=count,
        full=2_995,
        broken=len(tally.wrong),
        how=f"{', '.join(names)} in turn while a client drives, one busy loop a core; from before "
        "the press until the arm enters STOP. The gamepad is a stand-in for pygame's.",
        noise=f"looked every {spread(tally.gaps)}",
        examples=tuple(tally.wrong[:MOST_EXAMPLES]),
    )
    return [row]


@contextmanager
def presses(arm: RigArm, folder: Path) -> Generator[Mapping[str, Press]]:
    """Yield what presses stop on an arm, by way; raise `RigError` where a program does not run."""
    with ExitStack() as stack:
        dashboard = stack.enter_context(_dashboard(arm, folder))
        terminal = stack.enter_context(_terminal(arm, folder))
        # A client's making takes as long as a press may.
        client = stack.enter_context(httpx.Client(timeout=5.0, trust_env=False))
        yield {
            "HTTP": lambda: client.post(f"{arm.config.url}/stop"),
            "WebSocket": lambda: arm.watch().stop("pressed"),
            "file": arm.config.runtime("stop").touch,
            "dashboard": lambda: client.post(f"{dashboard}/stop", json={"arm": arm.arm_id}),
            "key": lambda: os.write(terminal, b" "),
            "gamepad": stack.enter_context(_gamepad(arm)),
            "telnet": stack.enter_context(_telnet(arm)),
        }


@contextmanager
def _dashboard(arm: RigArm, folder: Path) -> Generator[str]:
    """Yield the address of a dashboard that shows an arm."""
    words = ["port=0", f"arms={arm.arm_id}", f"folder={folder}"]
    with _running("rl.live_dashboard", *words) as url:
        if not url:
            raise RigError("the dashboard did not start")
        yield url


@contextmanager
def _terminal(arm: RigArm, folder: Path) -> Generator[int]:
    """Yield the keys' end of a terminal in which `make takeover` runs."""
    keys, terminal = pty.openpty()
    try:
        words = [f"arm_id={arm.arm_id}", f"folder={folder}"]
        with _running("robot.teleop.takeover", *words, stdin=terminal) as line:
            if KEYS_HELP.split("\n")[0] not in line:
                raise RigError("a terminal that takes the arm over did not start")
            yield keys
    finally:
        os.close(keys)
        os.close(terminal)


class _Pad:
    """A gamepad whose one button is pressed by a call, and is up again once it was looked at."""

    def __init__(self) -> None:
        self._pressed = threading.Event()

    def press(self) -> None:
        self._pressed.set()

    def get_axis(self, axis: int) -> float:  # noqa: ARG002
        return 0.0

    def get_button(self, button: int) -> bool:
        if button != STOP or not self._pressed.is_set():
            return False
        self._pressed.clear()
        return True


@contextmanager
def _gamepad(arm: RigArm) -> Generator[Press]:
    """Yield what presses a gamepad's stop, which a person's loop looks at as `make takeover`'s."""
    pad, ended = _Pad(), threading.Event()
    with closing(open_arm(arm.config, client="gamepad", human=True)) as person:
        loop = Takeover(person, Gamepad(pad, person.limits), say=lambda _: None)

        def watch() -> None:
            while not ended.wait(PERIOD_S):
                loop.tick()

        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(watch)
            try:
                yield pad.press
            finally:
                ended.set()
            watching.result()


@contextmanager
def _telnet(arm: RigArm) -> Generator[Press]:
    """Yield what types an x and enter on a recorder's port."""
    with ExitStack() as stack:
        person = stack.enter_context(closing(open_arm(arm.config, client="telnet", human=True)))

        def stop() -> str:
            person.stop("telnet")
            return "stopped"

        server = stack.enter_context(TelnetServer({"x": ("stop", stop)}, port=0))
        line = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        yield lambda: line.sendall(b"x\n")


@contextmanager
def _running(module: str, *words: str, stdin: int = subprocess.DEVNULL) -> Generator[str]:
    """Yield the first line that a program says."""
    program = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert program.stdout is not None  # noqa: S101 - it is a pipe
    with program.stdout as said, ThreadPoolExecutor(1) as pool:
        try:
            line = said.readline().decode().strip()
            # A pipe that nobody reads fills, and the program would stop at it.
            pool.submit(said.read)
            yield line
        finally:
            end(program)
