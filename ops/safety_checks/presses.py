"""The ways in which a person stops an arm, with the programs behind them kept open."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from ops.safety_checks.rig import RigArm, RigError, end
from robot.arm_config import ROOT
from robot.teleop.takeover import KEYS_HELP

type Press = Callable[[], object]

NOT_PRESSED = "a gamepad's button and telnet's x"
"""Ways that nothing here presses."""


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
        }


@contextmanager
def _dashboard(arm: RigArm, folder: Path) -> Generator[str]:
    """Yield the address of a dashboard that shows an arm."""
    words = ["port=0", f"arms={arm.arm_id}", f"folder={folder}"]
    with _running("rl.live_dashboard", *words) as program:
        assert program.stdout is not None  # noqa: S101 - it is a pipe
        url = program.stdout.readline().decode().strip()
        if not url:
            raise RigError("the dashboard did not start")
        yield url


@contextmanager
def _terminal(arm: RigArm, folder: Path) -> Generator[int]:
    """Yield the keys' end of a terminal in which `make takeover` runs."""
    keys, terminal = pty.openpty()
    try:
        words = [f"arm_id={arm.arm_id}", f"folder={folder}"]
        with _running("robot.teleop.takeover", *words, stdin=terminal) as program:
            assert program.stdout is not None  # noqa: S101 - it is a pipe
            if KEYS_HELP.split("\n")[0] not in program.stdout.readline().decode():
                raise RigError("a terminal that takes the arm over did not start")
            yield keys
    finally:
        os.close(keys)
        os.close(terminal)


@contextmanager
def _running(
    module: str, *words: str, stdin: int = subprocess.DEVNULL
) -> Generator["subprocess.Popen[bytes]"]:
    program = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield program
    finally:
        end(program)
        assert program.stdout is not None  # noqa: S101 - it is a pipe
        program.stdout.close()
