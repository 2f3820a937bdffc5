"""Arms, replicas and the way between them, as events on a heap: nobody waits.

Arms take a row each tick and ask by `RemotePolicy`'s rule; a replica gathers and serves as
`policy_server/scheduler.py` does.
"""

import heapq
import itertools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ops.serve_model.serving import Figures, Serving, Tally
from policy_server.action_queue import FIRST_GUESS, DelayEstimate, is_refill_due


class Arm:
    """The rows ahead of one arm, counted as `ActionQueue` keeps them; it asks as `RemotePolicy`."""

    def __init__(self, horizon: int, threshold: float) -> None:
        """Begin with no rows."""
        self._horizon, self._threshold = horizon, threshold
        self._delay, self._late = DelayEstimate(), FIRST_GUESS
        self._until = self.step = 0
        self._asked: int | None = None
        self._had_row = True

    def reset(self) -> None:
        """Begin another episode with no rows; how late chunks come is still known."""
        self._until = self.step = 0
        self._had_row = True

    @property
    def is_asking(self) -> bool:
        """Return whether a chunk is on its way."""
        return self._asked is not None

    @property
    def remaining(self) -> int:
        """Return for how many steps there are rows."""
        return max(0, self._until - self.step)

    def is_due(self) -> bool:
        """Return whether to ask: too few rows, and nothing on its way."""
        return not self.is_asking and is_refill_due(
            remaining=self.remaining,
            horizon=self._horizon,
            threshold=self._threshold,
            delay=self._late,
        )

    def ask(self) -> None:
        """Take note that a chunk for this step was asked for."""
        self._asked = self.step

    def answered(self) -> None:
        """Take over the chunk that was asked for, less the rows of steps that have passed."""
        asked = self.step if self._asked is None else self._asked
        if self.step:
            # The first chunk is waited for at rest: it says nothing about the delay.
            self._delay.add(self.step - asked)
            self._late = self._delay.steps
        self._until, self._asked = max(self._until, asked + self._horizon), None

    def take(self, tally: Tally | None) -> None:
        """Carry out the row of this step, or hold where there is none."""
        has_row = self._until > self.step
        if tally is not None:
            tally.ticks += 1
            tally.starved += not has_row
            tally.underflows += self._had_row and not has_row
        self._had_row = has_row
        self.step += 1


class Events:
    """What is to happen, earliest first."""

    def __init__(self) -> None:
        """Begin at time 0."""
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have something happen at a time; of the same time, what was said first goes first."""
        heapq.heappush(self._heap, (when, next(self._order), action))

    def run(self, until: float) -> None:
        """Let everything happen up to a time."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            action()


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """A question on its way."""

    arm: int
    sent: float
    slack_s: float
    arrived: float = 0.0


@dataclass(slots=True)
class _Habit:
    """When an arm was answered last, and how soon after an answer it asks again."""

    answered: float = -math.inf
    thinks_s: float = math.inf


class Replica:
    """One device and its scheduler, as `Scheduler` gathers and orders."""

    def __init__(
        self,
        events: Events,
        serving: Serving,
        *,
        send: Callable[[Request], None],
        served: Callable[[int, float, float], None],
    ) -> None:
        """Hand answers to `send`; tell `served` the size, start and end of each batch."""
        self._events, self._send, self._served = events, send, served
        self._service_s, self._gather_s = serving.service_s, serving.gather_s
        self._waiting: dict[int, Request] = {}
        self._batch: list[Request] = []
        self._habits: dict[int, _Habit] = {}
        self._gathers_until: float | None = None

    @property
    def load(self) -> int:
        """Return how many requests wait or are being answered."""
        return len(self._waiting) + len(self._batch)

    def submit(self, request: Request) -> None:
        """Take a request in."""
        request.arrived = self._events.now
        habit = self._habits.setdefault(request.arm, _Habit())
        habit.thinks_s = self._events.now - habit.answered
        self._waiting[request.arm] = request
        self._consider()

    def _consider(self) -> None:
        """Begin a batch, unless there is one or another arm is about to ask."""
        if self._batch or not self._waiting:
            return
        if self._gathers_until is None:
            self._gathers_until = self._events.now + self._gather_s
        has_room = len(self._waiting) < len(self._service_s)
        if has_room and self._events.now < self._gathers_until and self._is_another_due():
            self._events.at(self._gathers_until, self._consider)
        else:
            self._serve()

    def _is_another_due(self) -> bool:
        now, gather_s, waiting = self._events.now, self._gather_s, self._waiting
        return any(
            abs(habit.answered + habit.thinks_s - now) <= gather_s
            for arm, habit in self._habits.items()
            if arm not in waiting
        )

    def _serve(self) -> None:
        self._gathers_until = None
        urgent = sorted(self._waiting.values(), key=lambda one: one.arrived + one.slack_s)
        self._batch = urgent[: len(self._service_s)]
        for request in self._batch:
            del self._waiting[request.arm]
        began = self._events.now
        ends = began + self._service_s[len(self._batch) - 1]
        self._served(len(self._batch), began, ends)
        self._events.at(ends, self._finish)

    def _finish(self) -> None:
        done, self._batch = self._batch, []
        for request in done:
            self._habits[request.arm].answered = self._events.now
            self._send(request)
        self._consider()


class Simulation:
    """Arms, replicas and the way between them."""

    def __init__(self, serving: Serving) -> None:
        """Prepare everyone to begin at `serving.starts()`."""
        self._serving, self._events, self._tally = serving, Events(), Tally()
        self._rng = np.random.default_rng([serving.seed, 1])
        horizons = itertools.cycle(serving.horizons)
        self._arms = [Arm(next(horizons), serving.threshold) for _ in range(serving.arms)]
        self._replicas = [
            Replica(self._events, serving, send=self._send, served=self._served)
            for _ in range(serving.replicas)
        ]
        self._last_steps = [math.inf] * serving.arms
        for arm, start in enumerate(serving.starts()):
            self._events.at(start, partial(self._begin, arm))

    def run(self) -> Figures:
        """Return what became of it."""
        self._events.run(self._serving.warm_up_s + self._serving.seconds)
        return self._tally.figures(self._serving)

    @property
    def _counts(self) -> bool:
        return self._events.now >= self._serving.warm_up_s

    def _begin(self, arm: int) -> None:
        """Begin an episode at rest, with a question."""
        lasts_s = self._serving.episode_s * self._rng.uniform(0.5, 1.5)
        self._last_steps[arm] = lasts_s * self._serving.hz
        self._arms[arm].reset()
        self._ask(arm)

    def _tick(self, arm: int) -> None:
        one, tick_s = self._arms[arm], 1.0 / self._serving.hz
        if one.step >= self._last_steps[arm] and not one.is_asking:
            when = self._events.now + self._rng.uniform(0.0, tick_s)
            self._events.at(when, partial(self._begin, arm))
            return
        if one.is_due():
            self._ask(arm)
        one.take(self._tally if self._counts else None)
        self._events.at(self._events.now + tick_s, partial(self._tick, arm))

    def _ask(self, arm: int) -> None:
        now, rows_s = self._events.now, self._arms[arm].remaining / self._serving.hz
        slack_s = rows_s if self._serving.says_slack else math.inf
        self._arms[arm].ask()
        request = Request(arm=arm, sent=now, slack_s=slack_s)
        self._events.at(now + self._way_s(), lambda: self._replica_of(arm).submit(request))

    def _replica_of(self, arm: int) -> Replica:
        match self._serving.route:
            case "hash":
                return self._replicas[zlib.crc32(f"arm{arm:04d}".encode()) % len(self._replicas)]
            case "even":
                return self._replicas[arm % len(self._replicas)]
            case _:
                return min(self._replicas, key=lambda replica: replica.load)

    def _send(self, request: Request) -> None:
        self._events.at(self._events.now + self._way_s(), partial(self._answered, request))

    def _answered(self, request: Request) -> None:
        if self._counts:
            self._tally.latencies.append(self._events.now - request.sent)
        arm = self._arms[request.arm]
        is_first = not arm.step
        arm.answered()
        if is_first:
            self._tick(request.arm)

    def _served(self, size: int, began: float, ends: float) -> None:
        first, last = self._serving.warm_up_s, self._serving.warm_up_s + self._serving.seconds
        if began >= first:
            self._tally.batches.append(size)
        self._tally.busy_s += max(0.0, min(ends, last) - max(began, first))

    def _way_s(self) -> float:
        jitter_s = self._serving.jitter_s
        return self._serving.network_s + (self._rng.exponential(jitter_s) if jitter_s else 0.0)


def simulate(serving: Serving) -> Figures:
    """Return what becomes of arms that are served so."""
    return Simulation(serving).run()
