"""Whose rows arrive, and what an arm does when its server is killed."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ops.serve_checks.effort import Effort
from ops.serve_checks.policies import Stamped
from ops.serve_checks.row import Row
from ops.serve_checks.server import Served
from policy_server.client import RemotePolicy
from policy_server.policy import PolicyAway, PolicyRequest

ARMS = 8
QUICK_TICK_S, TICK_S = 0.01, 0.05
"""Of arms whose rows are counted, faster than any arm, and of one at 20 Hz."""
EPISODE_STEPS = 200
TOLERANCE = 1e-3
"""Of a row that is blended from two that say the same."""
PATIENCE_S = 300.0
BACK_S = 15.0


@dataclass(slots=True)
class Tally:
    """What became of the steps of some arms."""

    rows: int = 0
    wrong_arm: int = 0
    wrong_episode: int = 0
    wrong_step: int = 0
    chunks: int = 0
    held: int = 0
    """Steps without a row."""
    given_up: int = 0
    """Episodes that ended because no rows came for too long."""
    stale: int = 0
    """Rows that came after their step, and were dropped."""

    def add(self, row: Sequence[float], wanted: Sequence[float]) -> None:
        """Count a row; both are arm, episode and step."""
        arm, episode, step = np.abs(np.subtract(row, wanted)) > TOLERANCE
        self.rows += 1
        self.wrong_arm += bool(arm)
        self.wrong_episode += bool(episode)
        self.wrong_step += bool(step)

    @property
    def wrong(self) -> int:
        """Return how many times a row was not what it should have been."""
        return self.wrong_arm + self.wrong_episode + self.wrong_step


class Driver:
    """An arm that takes a row each tick and looks whose it is."""

    def __init__(self, address: str, arm: int, tally: Tally, *, threshold: float = 1.0) -> None:
        """Connect; a `threshold` of 1 asks again as soon as there is an answer."""
        self._policy = RemotePolicy(
            f"ws://{address}", Stamped.spec, threshold=threshold, timeout_s=5.0
        )
        self._arm, self._tally = arm, tally
        self._episode = self._step = 0

    def tick(self) -> bool:
        """Take one step; return whether there was a row."""
        if self._step >= EPISODE_STEPS:
            self._begin()
        wanted = (self._arm, self._episode, self._step)
        self._step += 1
        request = PolicyRequest(
            state={"stamp": np.array(wanted, np.float32)}, goal="", observed_at=time.monotonic()
        )
        before = self._policy.streaming.chunks
        try:
            rows = self._policy.infer_batch([request])[0].actions
        except PolicyAway:
            self._tally.given_up += 1
            self._begin()
            return False
        self._tally.chunks += self._policy.streaming.chunks - before
        if not len(rows):
            self._tally.held += 1
            return False
        self._tally.add(rows[0].tolist(), wanted)
        return True

    def _begin(self) -> None:
        self._tally.stale += self._policy.streaming.stale
        self._policy.reset()
        self._episode, self._step = self._episode + 1, 0

    def close(self) -> None:
        """Hang up."""
        self._policy.close()


def drive(address: str, arm: int, tally: Tally, stopping: threading.Event) -> None:
    """Tick until told to stop."""
    driver = Driver(address, arm, tally)
    try:
        while not stopping.wait(QUICK_TICK_S):
            driver.tick()
    finally:
        driver.close()


def whose_rows(effort: Effort) -> list[Row]:
    """Look at every row of eight arms while their server is killed and started again."""
    rng = random.Random(effort.seed)  # noqa: S311 - moments, no secrets
    with Served.ours("stamped") as server:

        def restart() -> None:
            server.kill()
            time.sleep(rng.uniform(0.0, 1.0))
            server.start()
            server.wait()

        tally = count_rows(server.address, effort.chunks, effort.restarts, restart)
    return [whose_row(tally, effort)]


def count_rows(
    address: str, chunks: int, restarts: int, restart: Callable[[], None], arms: int = ARMS
) -> Tally:
    """Have arms take so many chunks, with restarts spread evenly; return what they saw."""
    tallies, stopping = [Tally() for _ in range(arms)], threading.Event()
    with ThreadPoolExecutor(arms) as pool:
        driving = [
            pool.submit(drive, address, arm, tally, stopping)
            for arm, tally in enumerate(tallies, start=1)
        ]
        try:
            for number in range(1, restarts + 1):
                _await_chunks(tallies, number * chunks // (restarts + 1))
                restart()
            _await_chunks(tallies, chunks)
        finally:
            stopping.set()
        for one in driving:
            one.result()
    return together(tallies)


def _await_chunks(tallies: Sequence[Tally], count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while sum(tally.chunks for tally in tallies) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} chunks did not come within {PATIENCE_S:g} s")
        time.sleep(0.02)


def together(tallies: Sequence[Tally]) -> Tally:
    """Return the sums."""
    total = Tally()
    for name in Tally.__slots__:
        setattr(total, name, sum(getattr(tally, name) for tally in tallies))
    return total


def whose_row(tally: Tally, effort: Effort) -> Row:
    """Return the line of what was counted."""
    seen = {name: getattr(tally, name) for name in Tally.__slots__}
    return Row(
        what=f"wrong-arm or stale-step actions in {tally.chunks:,} chunks, {ARMS} arms, "
        f"{effort.restarts} restarts",
        ours=tally.wrong,
        asked="0",
        holds=tally.wrong == 0 and tally.chunks >= effort.chunks,
        more=seen,
    )


@dataclass(slots=True)
class Kill:
    """Seconds of one killing: since the signal, or since the server was there again."""

    gone_s: float
    """Until the process was no more: on a machine with much to do that takes its time."""
    last_row_s: float
    """Until the last row that was carried out all the same; 0 where there was none."""
    hold_s: float
    """Until the first step without a row."""
    back_s: float
    """From the moment that the server listens again to the next row."""


@dataclass(slots=True)
class Ticks:
    """When a step was taken, `time.monotonic()`, and whether it had a row."""

    stamps: list[float] = field(default_factory=list[float])
    rows: list[bool] = field(default_factory=list[bool])

    def first(self, *, row: bool, after: float) -> float | None:
        """Return the first moment after another that a step had a row, or had none."""
        pairs = list(zip(self.stamps, self.rows, strict=False))
        return next((stamp for stamp, had in pairs if stamp > after and had is row), None)

    def last_row(self, *, after: float, before: float) -> float | None:
        """Return the last moment between two others that a step had a row."""
        pairs = list(zip(self.stamps, self.rows, strict=False))
        return max((stamp for stamp, had in pairs if after < stamp < before and had), default=None)


@contextmanager
def ticking(address: str):  # noqa: ANN201 - pyright tells
    """Drive one arm at 20 Hz in a thread of its own and yield its `Ticks`."""
    ticks, stopping = Ticks(), threading.Event()

    def run() -> None:
        driver, due = Driver(address, 1, Tally(), threshold=0.5), time.monotonic()
        while not stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + TICK_S, time.monotonic())
            had = driver.tick()
            ticks.rows.append(had)
            ticks.stamps.append(time.monotonic())
        driver.close()

    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run)
        try:
            yield ticks
        finally:
            stopping.set()
        driving.result()


def killed(effort: Effort) -> list[Row]:
    """Kill the server in the middle of chunks and start it again."""
    rng = random.Random(effort.seed)  # noqa: S311 - moments, no secrets
    with Served.ours("stamped:10") as server, ticking(server.address) as ticks:
        kills = [one_kill(server, ticks, rng) for _ in range(effort.kills)]
    return kill_rows(kills)


def one_kill(server: Served, ticks: Ticks, rng: random.Random) -> Kill:
    """Kill a server while rows flow, start it again, and wait for the next row."""
    _await(lambda: ticks.first(row=True, after=time.monotonic() - TICK_S))
    time.sleep(0.5 + rng.uniform(0.0, 0.5))
    died = time.monotonic()
    server.kill()
    gone = time.monotonic()
    time.sleep(rng.uniform(0.2, 1.0))
    server.start()
    ready = server.wait()
    hold = _await(lambda: ticks.first(row=False, after=died))
    back = _await(lambda: ticks.first(row=True, after=max(hold, ready)))
    last = ticks.last_row(after=died, before=hold)
    return Kill(
        gone_s=gone - died,
        last_row_s=last - died if last else 0.0,
        hold_s=hold - died,
        back_s=back - ready,
    )


def _await(seen: Callable[[], float | None]) -> float:
    """Return what is looked for; infinity where it does not come."""
    deadline = time.monotonic() + BACK_S
    while time.monotonic() < deadline:
        found = seen()
        if found is not None:
            return found
        time.sleep(0.005)
    return float("inf")


def kill_rows(kills: Sequence[Kill]) -> list[Row]:
    """Return how soon an arm held, and how soon it went on."""
    last = max(kill.last_row_s for kill in kills)
    back = max(kill.back_s for kill in kills)
    more = {
        "kills": len(kills),
        "gone_ms_max": round(1e3 * max(kill.gone_s for kill in kills), 1),
        "hold_ms_max": round(1e3 * max(kill.hold_s for kill in kills), 1),
        "back_s_median": round(float(np.median([kill.back_s for kill in kills])), 3),
    }
    return [
        Row(
            what=f"server killed mid-chunk: last row sent after it, ms, most of {len(kills)}",
            ours=round(1e3 * last, 1),
            asked="<= 50 ms: one tick",
            holds=last <= TICK_S,
            more=more,
        ),
        Row(
            what=f"server there again: next row, s, most of {len(kills)}",
            ours=round(back, 2),
            asked="<= 2 s",
            holds=back <= 2.0,
            more=more,
        ),
    ]
