"""Peers in environments of their own, set up from PyPI when they are first needed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ops.serve_checks.server import LOOPBACK, Served
from rl.own_process import free_port

SCRIPTS = Path(__file__).resolve().parents[1] / "peers"
OPENPI, LEROBOT = "openpi", "LeRobot async"
REQUIREMENTS = (
    "openpi-client==0.1.2",
    "openpi-server==0.1.0",
    # openpi-client imports it without saying so.
    "typing-extensions>=4",
    "requests>=2.32,<3",
    "json-numpy==2.1.1",
)
"""What openpi's and OpenVLA's own clients need; they pin numpy below 2."""
SET_UP_S = 300.0
START_S = 180.0
"""LeRobot's imports alone take 20 s of CPU."""
_READY = "ready"


class PeerMissing(Exception):
    """A peer that cannot be had here; the message says why."""


def environment(folder: Path | None) -> Path:
    """Return the Python of an environment with openpi's client and server; make it at first."""
    if folder is None:
        raise PeerMissing("no peers asked for")
    own, ready = folder.resolve() / OPENPI, folder.resolve() / OPENPI / _READY
    python = own / "bin" / "python"
    if ready.is_file() and ready.read_text(encoding="utf-8") == repr(REQUIREMENTS):
        return python
    own.mkdir(parents=True, exist_ok=True)
    output([sys.executable, "-m", "venv", "--clear", str(own)], timeout_s=SET_UP_S)
    output([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS], timeout_s=SET_UP_S)
    ready.write_text(repr(REQUIREMENTS), encoding="utf-8")
    return python


def output(command: Sequence[str], *, timeout_s: float, cwd: Path | None = None) -> str:
    """Return what a program prints; raise `PeerMissing` if it fails or takes too long."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=cwd,
            env=alone,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerMissing(f"it took over {timeout_s:g} s") from error
    except OSError as error:
        raise PeerMissing(str(error)) from error
    if done.returncode:
        lines = [*done.stdout.strip().splitlines(), *done.stderr.strip().splitlines()]
        raise PeerMissing((lines or [f"exit code {done.returncode}"])[-1][:200])
    return done.stdout


def openpi_server(folder: Path | None, takes: str) -> Served:
    """Start openpi's own server with a policy that takes `40+6`; raise `PeerMissing`."""
    python, port = environment(folder), free_port(LOOPBACK)
    output([str(python), str(SCRIPTS / "serve_openpi.py"), "check"], timeout_s=60.0)
    return Served([str(python), str(SCRIPTS / "serve_openpi.py"), str(port), takes], port)


def lerobot_figures(
    folder: Path | None, clients: int, takes_ms: float, seconds: float
) -> Mapping[str, float]:
    """Return p50 and p99 in ms, answers a second, and the share of them that were another arm's.

    Raise `PeerMissing` where LeRobot's server cannot be had.
    """
    if folder is None:
        raise PeerMissing("no peers asked for")
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(clients), str(takes_ms), str(seconds)]
    # It writes a folder `logs` where it runs.
    script = str(SCRIPTS / "lerobot_async.py")
    said = output([sys.executable, script, *words], timeout_s=START_S + 3 * seconds, cwd=folder)
    return json.loads(said.strip().splitlines()[-1])
