"""A policy at work: loaded, warmed up, tried, and answering; and how that stands."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import prometheus_client as prometheus
import structlog

from policy_server.accuracy import Accuracy, compare, plain_answers
from policy_server.live_queues import LiveQueues
from policy_server.load import Refused, load_policy
from policy_server.policy import Policy, PolicyRequest, PolicySpec, PolicyUnavailable
from policy_server.scheduler import GATHER_S, MAX_BATCH, Answer, NotAnswered, Scheduler
from policy_server.self_test import try_out

log = structlog.get_logger(__name__)

type Load = Callable[[str], Policy]
type Plain = Callable[[str], Policy | None]


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        """Count from zero."""
        self.registry = registry = prometheus.CollectorRegistry()
        self.chunks = prometheus.Counter(
            "policy_chunks", "Requests by what became of them", ["outcome"], registry=registry
        )
        self.infer = prometheus.Histogram(
            "policy_infer_seconds", "Time of the policy for a batch", registry=registry
        )
        self.wait = prometheus.Histogram(
            "policy_wait_seconds", "Time from a request to its batch", registry=registry
        )
        self.batch = prometheus.Histogram(
            "policy_batch_size", "Requests in a batch", registry=registry, buckets=(1, 2, 4, 8)
        )
        self.sessions = prometheus.Gauge(
            "policy_sessions", "Connections that are open", registry=registry
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The policy that answers."""

    name: str
    spec: PolicySpec
    scheduler: Scheduler
    warnings: tuple[str, ...]
    accuracy: Accuracy | None = None
    """Compared with float32; None where it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A policy that is fit to answer."""

    policy: Policy
    warnings: tuple[str, ...]
    accuracy: Accuracy | None


class Host:
    """Loads the first policy of a list that can be had, and answers with it."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        load: Load = load_policy,
        plain: Plain = lambda _: None,
        max_batch: int = MAX_BATCH,
        gather_s: float = GATHER_S,
    ) -> None:
        """Prepare to load one of `names`, the ones that are preferred first.

        `plain` gives the same policy in float32 to compare with, None where that is needless.
        """
        self._names, self._load, self._plain = tuple(names), load, plain
        self._max_batch, self._gather_s = max_batch, gather_s
        self._serving: Serving | None = None
        self._asked = threading.Lock()
        self._draining = False
        self.refused: list[Refused] = []
        """The policies of the list that could not be had, and why."""
        self.metrics = Metrics()
        self.queues = LiveQueues()

    @property
    def state(self) -> str:
        """Return loading, ready or draining."""
        if self._draining:
            return "draining"
        return "ready" if self._serving else "loading"

    @property
    def serving(self) -> Serving:
        """Return what answers; raise `NotAnswered` until it does."""
        if self._serving is None or self._draining:
            raise NotAnswered(self.state, f"the server is {self.state}; try again later")
        return self._serving

    def open(self) -> None:
        """Load, warm up and try a policy; raise `PolicyUnavailable` where none can be had."""
        for name in self._names:
            log.info("loading", policy=name)
            try:
                tried = self._tried(name)
            except PolicyUnavailable as error:
                self.refused.append(Refused(name=name, why=str(error)))
                log.warning("policy cannot be had", policy=name, why=str(error))
            else:
                self._serving = Serving(
                    name=name,
                    spec=tried.policy.spec,
                    scheduler=Scheduler(
                        tried.policy, max_batch=self._max_batch, gather_s=self._gather_s
                    ),
                    warnings=tried.warnings,
                    accuracy=tried.accuracy,
                )
                log.info("serving", policy=name, warnings=tried.warnings)
                return
        raise PolicyUnavailable("; ".join(f"{r.name}: {r.why}" for r in self.refused))

    def _tried(self, name: str) -> _Tried:
        """Load a policy, compare it with float32, warm it up; raise `PolicyUnavailable`."""
        warnings, accuracy, wanted = (), None, None
        try:
            wanted = plain_answers(lambda: self._plain(name))
        except PolicyUnavailable as error:
            warnings = (f"it was not compared with float32: {error}",)
        policy = self._load(name)
        warnings += try_out(policy)
        if wanted is not None:
            accuracy = compare(policy, wanted)
            warnings += accuracy.warnings
        return _Tried(policy=policy, warnings=warnings, accuracy=accuracy)

    def submit(self, session: str, request: PolicyRequest, *, slack_s: float) -> Future[Answer]:
        """Return the answer to come; raise `NotAnswered`."""
        answer = self.serving.scheduler.submit(session, request, slack_s=slack_s)
        answer.add_done_callback(self._count)
        return answer

    def swap(self, name: str) -> None:
        """Answer with other weights of the same kind; raise `PolicyUnavailable`.

        They are loaded and tried beside the old ones. Whoever is connected was told what rows
        mean: a policy with another spec is refused.
        """
        with self._asked:
            serving, tried = self.serving, self._tried(name)
            if not same_contract(tried.policy.spec, serving.spec):
                raise PolicyUnavailable(f"{name} reads or writes something else than the one here")
            serving.scheduler.swap(tried.policy)
            self._serving = replace(
                serving,
                name=name,
                spec=tried.policy.spec,
                warnings=tried.warnings,
                accuracy=tried.accuracy,
            )
        log.info("policy swapped", policy=name, warnings=tried.warnings)

    def close(self) -> None:
        """Take no more requests and answer those that wait."""
        self._draining = True
        if self._serving:
            self._serving.scheduler.close()

    def _count(self, done: Future[Answer]) -> None:
        if done.cancelled():
            self.metrics.chunks.labels("cancelled").inc()
            return
        error = done.exception()
        outcome = error.code if isinstance(error, NotAnswered) else "answered"
        self.metrics.chunks.labels(outcome).inc()
        if error is None:
            answer = done.result()
            self.metrics.infer.observe(answer.infer_s)
            self.metrics.wait.observe(answer.waited_s)
            self.metrics.batch.observe(answer.batch)


def same_contract(a: PolicySpec, b: PolicySpec) -> bool:
    """Return whether a client of one policy can talk to the other."""
    names = ("action_space", "action_dim", "state", "images", "hz", "horizon", "rtc")
    return all(getattr(a, name) == getattr(b, name) for name in names) and math.isfinite(a.hz)
