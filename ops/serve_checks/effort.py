"""How much one run of the benchmark measures."""

from dataclasses import dataclass
from pathlib import Path

PEERS = Path("bench/peers")
"""Where peers get environments of their own; git does not look at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Counts and durations."""

    requests: int = 2000
    """Of one client, to each server."""
    crowd_s: float = 20.0
    """Seconds of four clients, with each server."""
    chunks: int = 10_000
    """To be looked at row by row."""
    restarts: int = 5
    """Of the server while they come."""
    kills: int = 20
    lan_s: float = 60.0
    """Seconds on the link that delays and loses packets."""
    seed: int = 0
    peers: Path | None = PEERS
    """Where peers are set up; None compares with stored figures."""
