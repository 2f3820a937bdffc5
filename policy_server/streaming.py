"""What became of the chunks that an arm was sent: counted while it acts, kept with its episode."""

import statistics
from dataclasses import dataclass, field


@dataclass(slots=True)
class Streaming:
    """What became of an episode's chunks; kept with the episode."""

    steps: int = 0
    chunks: int = 0
    stale: int = 0
    """Rows that came after their step."""
    starved: int = 0
    """Steps without a row: the arm held."""
    underflows: int = 0
    """Times that the rows ran out."""
    refused: int = 0
    lost: int = 0
    delays: list[int] = field(default_factory=list[int])
    jumps: list[float] = field(default_factory=list[float])
    naive_jumps: list[float] = field(default_factory=list[float])
    queue: list[int] = field(default_factory=list[int])
    """Rows ahead of the arm at each step; 0 where it held."""

    @property
    def heard(self) -> int:
        """Return how often the server was heard of: a chunk, a refusal, or that it is gone."""
        return self.chunks + self.refused + self.lost

    def figures(self) -> dict[str, object]:
        """Return them in short."""
        return {
            "steps": self.steps,
            "chunks": self.chunks,
            "stale_rows": self.stale,
            "starved_steps": self.starved,
            "underflows": self.underflows,
            "refused": self.refused,
            "lost": self.lost,
            "delay_steps_max": max(self.delays, default=0),
            "seam_jump_mean": round(statistics.fmean(self.jumps or [0.0]), 4),
            "naive_jump_mean": round(statistics.fmean(self.naive_jumps or [0.0]), 4),
            "queue": self.queue,
        }
