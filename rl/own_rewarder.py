"""A reward service of a run's own, on a loopback port: started with the run, ended with it.

`python -m rl.own_rewarder WORD ...` is `python -m rewarder.server WORD ...` that ends when its
standard input does, which happens however the run ends.
"""

import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
RESTART_S = 1.0
ATTEMPTS = 3
"""A service that dies so often within `YOUNG_S` of its start is not going to work."""
YOUNG_S = 20.0
STOP_S = 5.0


class RewarderFailed(Exception):
    """The run's own reward service does not start, and the message says why."""


class OwnRewarder:
    """The service's process; one that dies is started again on the same port."""

    def __init__(self, model: str, log_file: Path) -> None:
        """Serve a model of `conf/reward/`; what the service says goes to `log_file`."""
        self._model, self._log_file = model, log_file
        self._port = _free_port()
        self._early_deaths = 0
        self._start()

    @property
    def url(self) -> str:
        """Return where the service listens, or will in a moment."""
        return f"http://{HOST}:{self._port}"

    @property
    def process(self) -> int:
        """Return the service's process."""
        return self._process.pid

    def check(self) -> str | None:
        """Start a service that has died again and say so; raise `RewarderFailed` in the end."""
        if self._process.poll() is None:
            return None
        age_s = time.monotonic() - self._started_at
        if age_s >= RESTART_S:
            self._early_deaths = self._early_deaths + 1 if age_s < YOUNG_S else 0
            log.warning("own rewarder died", code=self._process.returncode, age_s=age_s)
            if self._early_deaths >= ATTEMPTS:
                raise RewarderFailed(f"the rewarder does not start: {_last_line(self._log_file)}")
            self._close_input()
            self._start()
        return f"the rewarder has died and is started again; its log is {self._log_file}"

    def close(self) -> None:
        """End the service."""
        self._close_input()
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close_input(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()

    def _start(self) -> None:
        words = [
            f"reward={self._model}",
            f"host={HOST}",
            f"port={self._port}",
            "hydra/job_logging=none",
        ]
        environment = {**os.environ, "HYDRA_FULL_ERROR": "0", "OMP_NUM_THREADS": "1"}
        with self._log_file.open("ab") as output:
            # A session of its own: Ctrl-C is for the run, which ends the service itself.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "rl.own_rewarder", *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        self._started_at = time.monotonic()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1]} ({path})" if lines else f"see {path}"


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def main() -> None:
    """Serve until standard input ends."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    runpy.run_module("rewarder.server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
