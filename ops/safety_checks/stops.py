"""S7, S10 and S11 on a clock that is set by hand: what stops an arm, and that it stays so."""

import numpy as np

from ops.safety_checks.bench import GOAL, ON_CLOCK, START, Bench
from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from robot.arm import frozen
from robot.process.arm_process import PERIOD_S, Mode
from robot.process.servos import ServoHealth


def stops(effort: Effort) -> list[Row]:
    """S7: a stop stays, whatever is asked; a reset is separate and starts nothing."""
    count = effort.count(quick=60, full=1_000)
    rng = np.random.default_rng([effort.seed, 70])
    wrong: list[str] = []
    for trial in effort.progress(range(count), "S7 stops"):
        stop_file = effort.folder / "stop"
        bench = Bench(stop_file=stop_file)
        _wander(bench, rng, 20)
        _stop(bench, rng)
        bench.tick()
        stopped_at, sent = bench.mode, len(bench.servos.sent)
        _wander(bench, rng, 40)
        poses = [pose for _, pose in bench.servos.sent[sent:]]
        moved = any(not np.array_equal(pose, poses[0]) for pose in poses)
        left = bench.mode is not Mode.STOP or stopped_at is not Mode.STOP
        stop_file.unlink(missing_ok=True)
        if left or moved or _reset_starts_something(bench):
            wrong.append(f"seed={effort.seed} trial {trial}: mode {bench.mode}, moved {moved}")
    row = Row(
        id="S7",
        promise="a stop is latched; a reset is separate and starts nothing",
        asked="100 %",
        measured=f"{count - len(wrong)} of {count} stops stayed",
        trials=count,
        full=1_000,
        broken=len(wrong),
        how="Random requests of two clients before and after a stop by call, by mode or by file; "
        "then a reset, and two seconds in which nothing may move.",
        noise=ON_CLOCK,
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


def _wander(bench: Bench, rng: np.random.Generator, steps: int) -> None:
    """Ask for all sorts of things."""
    for _ in range(steps):
        human = bool(rng.random() < 0.5)
        if rng.random() < 0.3:
            mode = list(Mode)[int(rng.integers(len(Mode)))]
            if mode is not Mode.STOP:
                bench.ask(mode, human=human)
        elif rng.random() < 0.1:
            bench.process.latch(human=human)
        else:
            bench.propose(frozen(START + rng.uniform(-30, 30, 6)), human=human)
        bench.tick(int(rng.integers(1, 6)))


def _stop(bench: Bench, rng: np.random.Generator) -> None:
    match int(rng.integers(3)):
        case 0:
            bench.process.stop("a key was pressed")
        case 1:
            bench.process.request(Mode.STOP, client="dashboard")
        case _:
            assert bench.stop_file is not None  # noqa: S101 - `stops` has set it
            bench.stop_file.touch()


def _reset_starts_something(bench: Bench) -> bool:
    bench.process.reset()
    bench.tick()
    here = bench.servos.sent[-1][1]
    bench.tick(100, goal=GOAL)
    still = np.array_equal(bench.servos.sent[-1][1], here)
    return not (still and bench.mode in {Mode.HOLD, Mode.IDLE})


def troubles(effort: Effort) -> list[Row]:
    """S10: stall, overload and heat that last stop the arm where it is."""
    count = effort.count(quick=60, full=1_000)
    rng = np.random.default_rng([effort.seed, 100])
    times: list[float] = []
    wrong: list[str] = []
    for trial in effort.progress(range(count), "S10 troubles"):
        kind = TROUBLES[trial % len(TROUBLES)]
        took, kept = _trouble(kind, rng)
        times.append(took)
        if not (took <= 0.8 and kept):
            wrong.append(f"seed={effort.seed} trial {trial}: {kind}, {took:.2f} s, kept {kept}")
    row = Row(
        id="S10",
        promise="stall, overload, heat, over-current, low supply: goal := present, protective stop",
        asked="≤300 ms after it has lasted 0.5 s",
        measured=f"after onset {spread(times)}",
        trials=count,
        full=1_000,
        broken=len(wrong),
        how=f"Servo readings at 5 Hz that show one of: {', '.join(TROUBLES)}; counted from the "
        "first bad reading to STOP; the goal must be the measured pose, once and for good.",
        noise=ON_CLOCK,
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


TROUBLES = ("stall", "overload", "heat", "current", "supply", "error bit")
READING_CYCLES = 10
"""Health is read at least at 5 Hz."""


def _trouble(kind: str, rng: np.random.Generator) -> tuple[float, bool]:
    """Return the seconds from the first bad reading to STOP, and whether the pose was kept."""
    bench, joint = Bench().run(), int(rng.integers(1, 5))
    away = START.copy()
    away[joint] += rng.choice([-10.0, 10.0])
    for _ in range(4):
        bench.servos.reading = reading()
        bench.tick(READING_CYCLES)
    bench.servos.stuck[joint] = kind == "stall"
    goal = frozen(away)
    bench.tick(10, goal=goal)
    bench.tick(int(rng.integers(0, READING_CYCLES)), goal=goal)
    began = bench.clock.time
    while bench.mode is Mode.RUN and bench.clock.time - began < 3.0:
        bench.servos.reading = reading(kind, joint)
        for _ in range(READING_CYCLES):
            bench.tick(goal=goal)
            if bench.mode is not Mode.RUN:
                break
    took = bench.clock.time - began - PERIOD_S
    here, first = bench.servos.pos.copy(), len(bench.servos.sent)
    bench.tick(20, goal=goal)
    sent = [pose for _, pose in bench.servos.sent[first - 1 :]]
    kept = bench.mode is Mode.STOP and all(np.allclose(pose, here) for pose in sent[1:])
    return took, kept


def reading(kind: str = "", joint: int = 0) -> ServoHealth:
    """Return what servos say that are well but for one trouble of one joint."""
    load, current, volts, heat = np.full(6, 0.1), np.full(6, 0.2), np.full(6, 7.4), np.full(6, 35.0)
    errors = [0] * 6
    match kind:
        case "stall":
            load[joint] = 0.8
        case "overload":
            load[joint] = 1.0
        case "heat":
            heat[joint] = 72.0
        case "current":
            current[joint] = 2.6
        case "supply":
            volts[:] = 4.0
        case "error bit":
            errors[joint] = 32
        case _:
            pass
    return ServoHealth(
        load=load, current_a=current, voltage_v=volts, temperature_c=heat, errors=tuple(errors)
    )


def losses(effort: Effort) -> list[Row]:
    """S11: one lost reply is tolerated, three in a row stop."""
    count = effort.count(quick=200, full=10_000)
    rng = np.random.default_rng([effort.seed, 110])
    wrong: list[str] = []
    for trial in effort.progress(range(count), "S11 losses"):
        bench = Bench().run(warm=False)
        for _ in range(6):
            bench.tick(int(rng.integers(1, 5)), goal=GOAL)
            lost = int(rng.integers(1, 6))
            bench.servos.lost = lost
            sent = len(bench.servos.sent)
            bench.tick(lost, goal=GOAL)
            silent = len(bench.servos.sent) == sent
            if not silent or (bench.mode is Mode.STOP) is not (lost >= 3):
                wrong.append(f"seed={effort.seed} trial {trial}: {lost} lost, {bench.mode}")
            if bench.mode is Mode.STOP:
                break
    row = Row(
        id="S11",
        promise="one lost reply is tolerated and holds a cycle, three in a row stop",
        asked="100 %",
        measured=f"{count - len(wrong):,} of {count:,}",
        trials=count,
        full=10_000,
        broken=len(wrong),
        how="Up to six bursts of one to five lost replies while a policy drives; nothing may be "
        "sent in a cycle without a reply.",
        noise=ON_CLOCK,
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]
