"""A process of a run's own: started with the run, ended with it, started again when it dies.

`python -m rl.own_process MODULE WORD ...` is `python -m MODULE WORD ...` that ends when its
standard input does, which happens however the run ends.
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

ROOT = Path(__file__).resolve().parent.parent
RESTART_S = 1.0
ATTEMPTS = 3
"""A process that dies so often within `YOUNG_S` of its start is not going to work."""
YOUNG_S = 20.0
STOP_S = 5.0


class OwnProcessFailed(Exception):
    """A process of the run's own does not start, and the message says why."""


class OwnProcess:
    """One module of ours in a process of its own."""

    def __init__(self, name: str, module: str, words: Sequence[str], log_file: Path) -> None:
        """Start it; `name` is what it is called in sentences, its output goes to `log_file`."""
        self._name, self._words, self._log_file = name, (module, *words), log_file
        self._early_deaths = 0
        self._start()

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    def check(self) -> str | None:
        """Start a process that has died again and say so; in the end raise `OwnProcessFailed`."""
        if self._process.poll() is None:
            return None
        age_s = time.monotonic() - self._started_at
        if age_s >= RESTART_S:
            self._early_deaths = self._early_deaths + 1 if age_s < YOUNG_S else 0
            log.warning("own process died", what=self._name, code=self._process.returncode)
            if self._early_deaths >= ATTEMPTS:
                raise OwnProcessFailed(f"{self._name} does not start: {_last_line(self._log_file)}")
            self._close_input()
            self._start()
        return f"{self._name} has died and is started again; its log is {self._log_file}"

    def terminate(self) -> None:
        """Ask the process to end, without waiting for it."""
        self._process.terminate()

    def close(self, *, patience_s: float = STOP_S) -> None:
        """End the process, by force if it takes longer than `patience_s`."""
        self._process.terminate()
        try:
            self._process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_input()

    def _close_input(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()

    def _start(self) -> None:
        environment = {**os.environ, "HYDRA_FULL_ERROR": "0", "OMP_NUM_THREADS": "1"}
        with self._log_file.open("ab") as output:
            # A session of its own: Ctrl-C is for the run, which ends the process itself.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "rl.own_process", *self._words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        self._started_at = time.monotonic()


def free_port(host: str) -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1]} ({path})" if lines else f"see {path}"


def _end_with_input() -> None:
    """End this process when its input does.

    It only waits, and holds no lock: what the module forks meanwhile takes no harm.
    """
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os._exit(1)


def main() -> None:
    """Run a module until it ends or standard input does."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
