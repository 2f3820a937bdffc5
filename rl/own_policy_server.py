"""A policy server of a run's own, on a loopback port."""

import time
from pathlib import Path

import httpx

from rl.own_process import OwnProcess, OwnProcessFailed, free_port

HOST = "127.0.0.1"
START_S = 120.0
ASK_S = 1.0
POLL_S = 0.1


class OwnPolicyServer:
    """The server's process; one that dies is started again on the same port."""

    def __init__(self, policy: str, log_file: Path) -> None:
        """Serve a policy of `policy_server.load`; what the server says goes to `log_file`."""
        self._port, self._log_file = free_port(HOST), log_file
        self.url = f"ws://{HOST}:{self._port}"
        """Where the server listens, or will in a moment."""
        words = [f"policy={policy}", f"host={HOST}", f"port={self._port}"]
        self._process = OwnProcess("the base policy", "policy_server.server", words, log_file)

    def wait(self, *, limit_s: float = START_S) -> None:
        """Return when the policy answers; raise `OwnProcessFailed` where it never does."""
        end = time.monotonic() + limit_s
        while not self._is_ready():
            self._process.check()
            if time.monotonic() > end:
                raise OwnProcessFailed(f"the base policy takes too long; see {self._log_file}")
            time.sleep(POLL_S)

    def check(self) -> str | None:
        """Start a server that has died again and say so; in the end raise `OwnProcessFailed`."""
        return self._process.check()

    def close(self) -> None:
        """End the server."""
        self._process.close()

    def _is_ready(self) -> bool:
        try:
            url = f"http://{HOST}:{self._port}/readyz"
            return httpx.get(url, timeout=ASK_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False
