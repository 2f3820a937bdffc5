"""What one reward service counts."""

import prometheus_client as prometheus

QUICK_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        """Count from zero."""
        self.registry = registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "rewarder_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.clips = prometheus.Counter(
            "rewarder_clips", "Clips by what became of them", ["outcome"], registry=registry
        )
        self.refused = prometheus.Counter(
            "rewarder_refused", "Clips that no model was asked about", ["why"], registry=registry
        )
        self.cache = prometheus.Counter(
            "rewarder_cache", "Clips by whether they had been scored before", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.seconds = prometheus.Histogram(
            "rewarder_score_seconds", "Time to score a clip", registry=registry, buckets=QUICK_S
        )
        self.waited = prometheus.Histogram(
            "rewarder_wait_seconds", "Time from a request to its turn", registry=registry,
            buckets=QUICK_S,
        )  # fmt: skip
        self.pending = prometheus.Gauge(
            "rewarder_pending", "Clips that wait or are being scored", registry=registry
        )
