"""A reward service of a run's own, on a loopback port."""

from pathlib import Path

from rl.own_process import OwnProcess, free_port

HOST = "127.0.0.1"


class OwnRewarder:
    """The service's process; one that dies is started again on the same port."""

    def __init__(self, model: str, log_file: Path) -> None:
        """Serve a model of `conf/reward/`; what the service says goes to `log_file`."""
        port = free_port(HOST)
        self.url = f"http://{HOST}:{port}"
        """Where the service listens, or will in a moment."""
        words = [f"reward={model}", f"host={HOST}", f"port={port}", "hydra/job_logging=none"]
        # The run keeps its episodes and their labels itself.
        words.append("log=null")
        self._process = OwnProcess("the rewarder", "rewarder.server", words, log_file)

    @property
    def process(self) -> int:
        """Return the service's process."""
        return self._process.pid

    def check(self) -> str | None:
        """Start a service that has died again and say so; in the end raise `OwnProcessFailed`."""
        return self._process.check()

    def close(self) -> None:
        """End the service."""
        self._process.close()
