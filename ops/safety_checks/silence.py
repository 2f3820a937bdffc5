"""S5 and S6 on a clock that is set by hand: what is late, and what follows from silence."""

from itertools import pairwise

import numpy as np

from ops.safety_checks.bench import GOAL, ON_CLOCK, PARK, POLICY, RULES, START, Bench
from ops.safety_checks.effort import Effort
from ops.safety_checks.judge import Floats
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from robot.arm import frozen
from robot.process.arm_process import PERIOD_S, Mode

HOLD_S, PARK_AFTER_S, PARK_SPEED = 0.2, 3.0, 15.0
"""What is promised of silence: hold within, park after, and how fast, degrees a second."""
AT_REST_DEG = 10.0


def silence(effort: Effort) -> list[Row]:
    """S5 and S6: stale answers are discarded; a silent client leads to HOLD, PARK, torque off."""
    return [_stale(effort), _hold(effort), _park(effort)]


def _stale(effort: Effort) -> Row:
    count = effort.count(quick=2_000, full=20_000)
    rng = np.random.default_rng([effort.seed, 50])
    bench = Bench().run()
    wrong: list[str] = []
    for trial in range(count):
        bench.tick()
        age = float(rng.choice([rng.uniform(0, 5), rng.uniform(-3600, 3600), rng.uniform(0, 0.5)]))
        events = bench.propose(bench.process.observation().joint_target, age_s=age).events
        stamp = bench.clock.time - age
        fresh = 0.0 <= bench.clock.time - stamp <= RULES.max_age_s
        if fresh is ("refused:stale" in {str(event) for event in events}):
            wrong.append(f"seed={effort.seed} trial {trial}: an age of {age:.3f} s")
    return Row(
        id="S5",
        promise="the arm's process discards answers to observations that are too old",
        asked=f"100 % beyond {RULES.max_age_s:g} s",
        measured=f"{count - len(wrong):,} of {count:,} ages decided rightly",
        trials=count,
        full=20_000,
        broken=len(wrong),
        how="Ages of 0 to 5 s and clocks wrong by up to an hour, to a running `ArmProcess`. That "
        "an action itself is late does not apply: it carries the stamp of its observation, no own.",
        noise=ON_CLOCK,
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )


def _hold(effort: Effort) -> Row:
    count = effort.count(quick=300, full=3_000)
    rng = np.random.default_rng([effort.seed, 60])
    times = [_until_hold(rng) for _ in effort.progress(range(count), "S6 silences")]
    late = [time for time in times if not time <= HOLD_S]
    return Row(
        id="S6",
        promise="silence of whoever drives leads to HOLD",
        asked="p99.9 ≤200 ms",
        measured=spread(times),
        trials=count,
        full=2_995,
        broken=len(late),
        how="A client that beats at 20 Hz falls silent at a random moment of the cycle; counted is "
        "from its last beat to the first cycle in HOLD.",
        noise=ON_CLOCK,
        examples=tuple(f"seed={effort.seed}: {1e3 * time:.0f} ms" for time in late),
    )


def _until_hold(rng: np.random.Generator) -> float:
    """Return the seconds from a client's last beat to HOLD."""
    bench = Bench(beating={POLICY}).run(warm=False)
    bench.tick(int(rng.integers(1, 20)), goal=GOAL)
    bench.beating.clear()
    last = bench.clock.time + float(rng.uniform(0.0, PERIOD_S))
    bench.clock.time = last
    bench.process.beat(POLICY)
    bench.clock.time = last - float(rng.uniform(0.0, PERIOD_S))
    while bench.mode is Mode.RUN:
        bench.tick(goal=GOAL)
        if bench.clock.time - last > 2.0:
            return float("inf")
    return bench.clock.time - last


def _park(effort: Effort) -> Row:
    count = effort.count(quick=15, full=500)
    rng = np.random.default_rng([effort.seed, 61])
    wrong: list[str] = []
    waits: list[float] = []
    fastest = 0.0
    for trial in effort.progress(range(count), "S6 parkings"):
        bench = Bench(beating={POLICY}).run(warm=False)
        bench.tick(int(rng.integers(1, 60)), goal=frozen(START + rng.uniform(-20, 20, 6)))
        bench.beating.clear()
        held = bench.outlast(Mode.RUN) + bench.outlast(Mode.HOLD)
        began = bench.clock.time
        bench.outlast(Mode.PARK, limit_s=60.0)
        waits.append(held)
        fastest = max(fastest, _fastest([s for s in bench.servos.sent if s[0] >= began]))
        if _parked_wrongly(bench, held):
            wrong.append(f"seed={effort.seed} trial {trial}: {bench.process.state().reason}")
    if fastest > PARK_SPEED + 0.1:
        wrong.append(f"seed={effort.seed}: a joint parked at {fastest:.1f} deg/s")
    return Row(
        id="S6",
        promise="silence that lasts leads to PARK, slowly, and torque goes off only at rest",
        asked=f"PARK after {PARK_AFTER_S:g} s in HOLD; ≤{PARK_SPEED:g} deg/s; 0 falls",
        measured=f"PARK after {spread(waits, scale=1, unit='s')}; at most {fastest:.1f} deg/s; "
        f"{len(wrong)} falls",
        trials=count,
        full=500,
        broken=len(wrong),
        how="The same, further: from random poses and motions; sent commands are timed, and where "
        "torque went off is compared with the park pose.",
        noise=ON_CLOCK,
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )


def _parked_wrongly(bench: Bench, held: float) -> bool:
    waited = PARK_AFTER_S <= held <= PARK_AFTER_S + 2 * HOLD_S
    let_go = bench.servos.let_go
    at_rest = bool(let_go) and bool(np.abs(let_go[0][1] - PARK)[:5].max() <= AT_REST_DEG)
    return not (waited and at_rest and bench.mode is Mode.IDLE)


def _fastest(sent: list[tuple[float, Floats]]) -> float:
    speeds = [
        float(np.abs(there - here)[:5].max()) / (then - before)
        for (before, here), (then, there) in pairwise(sent)
    ]
    return max(speeds, default=0.0)
