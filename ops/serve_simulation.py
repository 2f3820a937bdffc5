"""How many arms a policy server keeps in rows, and how many replicas a crowd takes.

`make serve-simulation arms=1,4,64 check=1`. Events on a heap, no waiting: arms take a row each tick
and ask by `RemotePolicy`'s rule; a replica gathers and serves as `policy_server/scheduler.py` does.
`check=1` runs the real server and as many real clients, and shows both.
`python -m ops.serve_simulation arms=1,2,4,8,64,1000 batch_ms=40 request_ms=6 json=docs/sim.json`.
"""

import heapq
import itertools
import json
import math
import multiprocessing
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from policy_server.action_queue import FIRST_GUESS, DelayEstimate, is_refill_due
from policy_server.host import Host
from policy_server.link import Arrived, Inquiry, PolicyLink
from policy_server.scheduler import GATHER_S, MAX_BATCH
from policy_server.self_test import probe
from policy_server.service import create_app
from robot.http_server import listen, server_of
from robot.revision import git_revision
from robot.wire import MAX_BYTES
from robot.words import UsageError, parse_words

KNOWN = {
    "arms": "1,2,4,8,64,1000",
    "hz": "20",
    "horizon": "32",
    "threshold": "0.5",
    "batch_ms": "40",
    "request_ms": "6",
    "service_ms": "",
    "max_batch": str(MAX_BATCH),
    "gather_ms": f"{1e3 * GATHER_S:g}",
    "network_ms": "5",
    "jitter_ms": "1",
    "replicas": "1",
    "route": "hash",
    "slack": "0",
    "episode_s": "8",
    "seconds": "20",
    "seed": "0",
    "check": "0",
    "json": "",
}
ROUTES = ("hash", "even", "least")
"""An arm's replica: by its name's hash, by turns, or the least loaded anew for each request."""
CROWDS = (4, 64, 1000)
STARVED_SHARE = 0.001
"""Of ticks without a row, below which a crowd is served well."""
MIXED_ROWS, MIXED_ARMS = (8, 32), (14, 18, 24)
"""Chunks of arms that are in a hurry and of others, and how many arms share a replica."""
WARM_UP_S = 5.0
CHECKED_ARMS, CHECK_S, CHECK_WARM_UP_S = (1, 2, 4, 8), 8.0, 2.0
FIRST_S = 10.0
READY_S, STOP_S = 60.0, 10.0
WIDTH = 110
"""Of a table, in characters, at the least."""

type Row = Mapping[str, object]


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
    """Whether arms say how long their rows last; `RemotePolicy` does not. None is refused."""
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


def replicas_needed(serving: Serving) -> Figures | None:
    """Return the figures of the fewest replicas, by doubling and halving, that serve it well.

    None where not even a replica for each arm does.
    """
    enough = serving.fewest_replicas
    too_few = enough - 1
    while not serves_well(found := simulate(replace(serving, replicas=enough))):
        if enough >= serving.arms:
            return None
        too_few, enough = enough, min(2 * enough, serving.arms)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        tried = simulate(replace(serving, replicas=middle))
        if serves_well(tried):
            enough, found = middle, tried
        else:
            too_few = middle
    return found


def by_order(serving: Serving) -> list[Row]:
    """Return how arms with short and long chunks share a replica, in order of arrival or slack."""
    rows: list[Row] = []
    for arms in MIXED_ARMS:
        for says_slack in (False, True):
            mixed = replace(
                serving, arms=arms, replicas=1, horizons=MIXED_ROWS, says_slack=says_slack
            )
            order = "slack" if says_slack else "arrival"
            rows.append({"order": order, **asdict(simulate(mixed))})
    return rows


def serves_well(figures: Figures) -> bool:
    """Return whether nearly all ticks had a row."""
    return figures.starved_share < STARVED_SHARE


@contextmanager
def null_server(takes: str) -> Generator[str]:
    """Serve `null:40+6` from a process of its own and yield its address."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(takes, there))
    server.start()
    try:
        if not here.poll(READY_S):
            raise SystemExit("the policy server did not come up")
        yield f"ws://127.0.0.1:{here.recv()}"
    finally:
        server.terminate()
        server.join(timeout=STOP_S)
        server.kill()


def _serve(takes: str, port: Connection) -> None:
    """Serve the null policy as `make serve-pi` does, on a free port."""
    host = Host([f"null:{takes}"])
    host.open()
    with listen("127.0.0.1", 0, guarded=True) as listening:
        port.send(listening.getsockname()[1])
        server_of(create_app(host), max_message=MAX_BYTES).run(sockets=[listening])


class Client:
    """One arm as `Arm` has it, at its pace, that asks a real server."""

    def __init__(self, link: PolicyLink, serving: Serving) -> None:
        """Ask over a link of its own."""
        self._link, self._serving, self._tally = link, serving, Tally()
        self._arm = Arm(link.spec.horizon, serving.threshold)
        # A server takes an answer of nothing but zeros for a fault.
        state = {name: np.ones(size, np.float32) for name, size in link.spec.state.items()}
        self._request = replace(probe(link.spec), state=state)

    def run(self, start: float, began: float) -> Tally:
        """Begin `start` after the moment `began` and return what was seen after the warm-up."""
        counts_from = began + self._serving.warm_up_s
        ends = counts_from + self._serving.seconds
        time.sleep(max(0.0, began + start - time.monotonic()))
        self._ask()
        self._take_in(wait_s=FIRST_S, counts=False)
        due = time.monotonic()
        while due < ends:
            time.sleep(max(0.0, due - time.monotonic()))
            counts = time.monotonic() >= counts_from
            self._take_in(counts=counts)
            if self._arm.is_due():
                self._ask()
            self._arm.take(self._tally if counts else None)
            due += 1.0 / self._serving.hz
        return self._tally

    def _ask(self) -> None:
        self._arm.ask()
        self._link.ask(Inquiry(request=self._request, episode=0, step=self._arm.step, cameras={}))

    def _take_in(self, *, wait_s: float = 0.0, counts: bool) -> None:
        arrived, lost = self._link.poll(wait_s=wait_s)
        if lost or any(one.rows is None for one in arrived):
            raise SystemExit(f"the policy server gave no rows: {lost or arrived[0].refusal}")
        for one in arrived:
            self._arm.answered()
            if counts:
                self._tally.latencies.append(_total_s(one))


def _total_s(one: Arrived) -> float:
    return one.timing["total"]


def measure(url: str, serving: Serving) -> Figures:
    """Return what becomes of real clients of a real server; its device is not looked into."""
    links = [PolicyLink(url) for _ in range(serving.arms)]
    began, tally = time.monotonic(), Tally()
    with ThreadPoolExecutor(serving.arms) as pool:
        seen = [
            pool.submit(Client(link, serving).run, start, began)
            for link, start in zip(links, serving.starts(), strict=True)
        ]
        for one in seen:
            tally.add(one.result())
    for link in links:
        link.close()
    return tally.figures(serving)


def check(words: Mapping[str, str]) -> list[Row]:
    """Return predicted and measured latency of the null policy on this machine, ms.

    The way is taken to cost nothing; nothing is fitted.
    """
    rows: list[Row] = []
    with null_server(f"{words['batch_ms']},{words['request_ms']}") as url:
        with closing(PolicyLink(url)) as link:
            horizon = link.spec.horizon
        for arms in CHECKED_ARMS:
            serving = replace(
                serving_of({**words, "service_ms": "", "max_batch": str(MAX_BATCH)}),
                arms=arms,
                replicas=1,
                horizons=(horizon,),
                network_s=0.0,
                jitter_s=0.0,
                gather_s=GATHER_S,
                says_slack=False,
                episode_s=math.inf,
                warm_up_s=CHECK_WARM_UP_S,
                seconds=CHECK_S,
            )
            rows.append(compared(simulate(serving), measure(url, serving)))
    return rows


def compared(predicted: Figures, measured: Figures) -> Row:
    """Return both, and by what share of the measured the prediction is off."""
    row: dict[str, object] = {"arms": measured.arms, "requests": measured.requests}
    for name in ("p50_ms", "p99_ms"):
        ours, theirs = getattr(predicted, name), getattr(measured, name)
        row |= {f"predicted_{name}": ours, f"measured_{name}": theirs}
        row[f"{name.removesuffix('_ms')}_error"] = round(ours / theirs - 1, 3)
    row["predicted_starved_share"] = predicted.starved_share
    row["measured_starved_share"] = measured.starved_share
    return row


def serving_of(words: Mapping[str, str]) -> Serving:
    """Return what the words ask for, for one arm; raise `ValueError`."""
    batch_ms, request_ms = float(words["batch_ms"]), float(words["request_ms"])
    sizes = range(1, int(words["max_batch"]) + 1)
    computed = [batch_ms + request_ms * size for size in sizes]
    given = [float(part) for part in words["service_ms"].split(",") if part]
    if int(words["replicas"]) < 1 or not (given or computed):
        raise ValueError("expected at least one replica that answers at least one request at once")
    if words["route"] not in ROUTES:
        raise ValueError(f"route={words['route']}; expected one of {', '.join(ROUTES)}")
    return Serving(
        arms=1,
        service_s=tuple(1e-3 * ms for ms in given or computed),
        replicas=int(words["replicas"]),
        route=words["route"],
        horizons=tuple(int(part) for part in words["horizon"].split(",")),
        hz=float(words["hz"]),
        threshold=float(words["threshold"]),
        network_s=1e-3 * float(words["network_ms"]),
        jitter_s=1e-3 * float(words["jitter_ms"]),
        gather_s=1e-3 * float(words["gather_ms"]),
        says_slack=words["slack"] == "1",
        episode_s=float(words["episode_s"]),
        seconds=float(words["seconds"]),
        seed=int(words["seed"]),
    )


def needs(serving: Serving, crowds: Sequence[int]) -> list[Row]:
    """Return for each crowd and route how many replicas keep it in rows."""
    return [
        {"route": route, **(asdict(found) if found else {"arms": arms, "replicas": None})}
        for arms in crowds
        for route in ROUTES
        for found in [replicas_needed(replace(serving, arms=arms, route=route))]
    ]


def table(title: str, rows: Sequence[Row]) -> Table:
    """Return the rows for a terminal."""
    shown = Table(title=title, title_justify="left", box=None)
    for name in max(rows, key=len):
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(*(str(value) for value in row.values()))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, check, print and write; return the exit code."""
    given = sys.argv[1:] if argv is None else argv
    try:
        words = parse_words(given, known=KNOWN)
        serving = serving_of(words)
        crowds = [int(part) for part in words["arms"].split(",")]
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    console = Console()
    console.width = max(console.width, WIDTH)
    rows = [asdict(simulate(replace(serving, arms=arms))) for arms in crowds]
    console.print(table(f"{serving.replicas} replica(s), {serving.route}", rows))
    needed = needs(serving, [arms for arms in CROWDS if arms <= max(crowds)])
    if needed:
        console.print(table(f"replicas for <{STARVED_SHARE:.1%} starved ticks", needed))
    ordered = by_order(serving)
    console.print(table("chunks of 8 and 32 rows: in order of arrival or slack", ordered))
    checked = check(words) if words["check"] == "1" else []
    if checked:
        console.print(table("predicted and measured on this machine", checked))
    if words["json"]:
        found = {"rows": rows, "needed": needed, "order": ordered, "check": checked}
        _write(Path(words["json"]), given, serving, found)
    return 0


def _write(
    path: Path, given: Sequence[str], serving: Serving, found: Mapping[str, Sequence[Row]]
) -> None:
    facts = {
        **found,
        "serving": asdict(serving),
        "seed": serving.seed,
        "revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "command": " ".join(["python", "-m", "ops.serve_simulation", *given]),
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
