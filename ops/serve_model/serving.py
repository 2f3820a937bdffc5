"""Who asks a policy server, what answers, and what becomes of the requests."""

import math
from dataclasses import dataclass, field

import numpy as np

from policy_server.scheduler import GATHER_S

WARM_UP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Who asks, what answers, and what lies between; seconds."""

    arms: int
    service_s: tuple[float, ...]
    """Time of a batch of one, two, …: as many as may be answered together."""
    replicas: int = 1
    route: str = "hash"
    horizons: tuple[int, ...] = (32,)
    """Rows of a chunk; the arms take turns."""
    hz: float = 20.0
    threshold: float = 0.5
    network_s: float = 0.005
    """Each way, at the least."""
    jitter_s: float = 0.0
    """Mean of what comes on top of that, exponentially distributed."""
    gather_s: float = GATHER_S
    says_slack: bool = False
    """Whether arms say how long their rows last, as `RemotePolicy` does. None is refused."""
    episode_s: float = math.inf
    """Mean length of an episode, from half to one and a half of it; the next begins at once."""
    warm_up_s: float = WARM_UP_S
    """Not counted."""
    seconds: float = 20.0
    seed: int = 0

    def starts(self) -> list[float]:
        """Return when each arm begins: spread over the time that a chunk lasts."""
        rng = np.random.default_rng(self.seed)
        return rng.uniform(0.0, max(self.horizons) / self.hz, self.arms).tolist()

    @property
    def fewest_replicas(self) -> int:
        """Return below how many replicas rows are used up faster than they can be made."""
        each_s = min(took / size for size, took in enumerate(self.service_s, start=1))
        rows_per_s = float(np.mean(self.horizons)) / each_s
        return max(1, math.floor(self.arms * self.hz / rows_per_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What became of the requests and ticks after the warm-up."""

    arms: int
    replicas: int
    requests: int
    p50_ms: float
    p99_ms: float
    starved_share: float
    underflows_per_minute: float
    """Of each arm."""
    utilisation: float
    batch_mean: float


@dataclass(slots=True)
class Tally:
    """Counts of what came after the warm-up."""

    latencies: list[float] = field(default_factory=list[float])
    ticks: int = 0
    starved: int = 0
    underflows: int = 0
    busy_s: float = 0.0
    batches: list[int] = field(default_factory=list[int])

    def add(self, other: "Tally") -> None:
        """Count what another arm saw."""
        self.latencies += other.latencies
        self.ticks += other.ticks
        self.starved += other.starved
        self.underflows += other.underflows

    def figures(self, serving: Serving) -> Figures:
        """Return them by request, tick and minute."""
        p50, p99 = np.percentile(self.latencies or [math.nan], (50, 99))
        minutes = self.ticks / serving.hz / 60
        return Figures(
            arms=serving.arms,
            replicas=serving.replicas,
            requests=len(self.latencies),
            p50_ms=round(1e3 * float(p50), 2),
            p99_ms=round(1e3 * float(p99), 2),
            starved_share=round(self.starved / max(1, self.ticks), 5),
            underflows_per_minute=round(self.underflows / minutes, 2) if minutes else 0.0,
            utilisation=round(self.busy_s / serving.seconds / serving.replicas, 4),
            batch_mean=round(float(np.mean(self.batches)), 2) if self.batches else 0.0,
        )
