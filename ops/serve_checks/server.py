"""Our server with a policy of the benchmark, in this process or in one of its own.

`python -m ops.serve_checks.server seeing:40+6 127.0.0.1 8080`; with `BENCH_TOKEN` in the
environment it asks for that.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ops.serve_checks.policies import bench_policy
from policy_server.host import Host
from policy_server.policy import Policy
from policy_server.service import create_app
from rl.own_process import free_port
from robot.http_server import listen, server_of
from robot.wire import MAX_BYTES

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
TOKEN_VARIABLE = "BENCH_TOKEN"  # noqa: S105 - its name
START_S = 60.0
_LOOK_S = 0.01


class ServerFailed(Exception):
    """A server that does not start; the message says what it said."""


@contextmanager
def serving(
    policy: Policy, *, host: str = LOOPBACK, port: int = 0, token: str | None = None
) -> Generator[str]:
    """Serve a policy in this process and yield its address, `127.0.0.1:port`."""
    answering = Host(["bench"], load=lambda _: policy)
    answering.open()
    with listen(host, port, guarded=token is not None) as listening:
        server = server_of(create_app(answering, token=token), max_message=MAX_BYTES)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"{host}:{listening.getsockname()[1]}"
        finally:
            answering.close()
            server.should_exit = server.force_exit = True
            thread.join(timeout=10.0)


class Served:
    """A server's process, ours or a peer's; it can be killed and started again on its port."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        cwd: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`, which is to listen on `port`; raise `ServerFailed` if it does not."""
        self.address, self._port = f"{LOOPBACK}:{port}", port
        self._command, self._cwd = list(command), cwd
        self._environment = {**os.environ, **(environment or {})}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        self._process = self._popen()
        self.wait()

    @classmethod
    def ours(cls, policy: str) -> Self:
        """Start our server with a policy of the benchmark."""
        port = free_port(LOOPBACK)
        module = "ops.serve_checks.server"
        return cls([sys.executable, "-m", module, policy, LOOPBACK, str(port)], port)

    def _popen(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )

    def start(self) -> None:
        """Start it again; `wait` says when it listens."""
        self._process = self._popen()

    def wait(self) -> float:
        """Return the moment, `time.monotonic()`, from which on it listens."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as knock:
                if knock.connect_ex((LOOPBACK, self._port)) == 0:
                    return time.monotonic()
            time.sleep(_LOOK_S)
        self.kill()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()
        raise ServerFailed(f"{' '.join(self._command[:4])}: {said[-300:] or 'says nothing'}")

    def kill(self) -> None:
        """End the process at once, as a power failure would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.kill()
        self._said.close()


def main(argv: Sequence[str]) -> int:
    """Serve until killed."""
    name, host, port = argv
    token = os.environ.get(TOKEN_VARIABLE) or None
    with serving(bench_policy(name), host=host, port=int(port), token=token):
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
