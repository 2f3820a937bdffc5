"""S6 with real processes: a client that drives an emulated arm dies, or is not heard any more."""

import os
import random
import signal
import time
from collections.abc import Sequence
from functools import partial

from ops.safety_checks.driven import Tally, busy, driven, on_rig
from ops.safety_checks.effort import Effort
from ops.safety_checks.proxy import Mood, Proxy
from ops.safety_checks.rig import RigArm, until_mode
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from robot.process.arm_state import Mode

HOLD_S = 0.2
FAULTS = ("kill -9", "SIGSTOP", "half-open", "black hole")
PROMISE = "a client that dies leads to HOLD"


def dying_clients(effort: Effort) -> list[Row]:
    """S6: kill, stop, half-open and black-hole the client that drives."""
    check = partial(_all_faults, effort)
    return on_rig(effort, 1, check, promise=("S6", PROMISE), meanwhile="clients die")


def _all_faults(effort: Effort, arms: Sequence[RigArm]) -> list[Row]:
    rng = random.Random(effort.seed)  # noqa: S311 - moments, no secrets
    return [_one_fault(effort, arms[0], fault, rng) for fault in FAULTS]


def _one_fault(effort: Effort, arm: RigArm, fault: str, rng: random.Random) -> Row:
    count, tally = effort.count(quick=4, full=750), Tally()
    with busy(effort, os.cpu_count() or 1):
        for trial in effort.progress(range(count), f"S6 {fault}"):
            seconds, gap = _one_silence(arm, fault, rng)
            tally.times.append(seconds)
            tally.gaps.append(gap)
            if not seconds <= HOLD_S:
                tally.wrong.append(f"seed={effort.seed} {fault} {trial}: {seconds:.3f} s")
    return Row(
        id="S6",
        promise=f"{PROMISE}: {fault}",
        asked="p99.9 ≤200 ms, every core busy",
        measured=spread(tally.times),
        trials=count,
        full=750,
        broken=len(tally.wrong),
        how="A client in its own process drives the arm at 20 Hz; counted from the fault "
        "until its arm enters HOLD. 750 of each of four kinds make 3,000.",
        noise=f"looked every {spread(tally.gaps)}",
        examples=tuple(tally.wrong[:MOST_EXAMPLES]),
    )


def _one_silence(arm: RigArm, fault: str, rng: random.Random) -> tuple[float, float]:
    watcher = arm.watch()
    proxy = Proxy(arm.config.port_number)
    try:
        with driven(arm, proxy.url) as victim:
            time.sleep(rng.uniform(0.0, 0.1))
            began = time.monotonic()
            _hurt(fault, victim.pid or 0, proxy)
            return until_mode(watcher, [Mode.HOLD, Mode.PARK], since=began, limit_s=2.0)
    finally:
        proxy.close()


def _hurt(fault: str, pid: int, proxy: Proxy) -> None:
    match fault:
        case "kill -9":
            os.kill(pid, signal.SIGKILL)
        case "SIGSTOP":
            os.kill(pid, signal.SIGSTOP)
        case "half-open":
            proxy.half_open()
        case _:
            proxy.mood = Mood.BLACK_HOLE
