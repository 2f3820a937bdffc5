"""S5 to S11 of an arm's process on a clock that is set by hand: what follows by logic alone."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from ops.safety_checks.bench import PARK, PERSON, POLICY, RULES, START, Bench, too_fast
from ops.safety_checks.effort import Effort
from ops.safety_checks.judge import Floats
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from robot.arm import Joints, frozen
from robot.process.arm_process import PERIOD_S, SAG_DEG, Mode
from robot.process.servos import ServoHealth

HOLD_S, PARK_AFTER_S, PARK_SPEED = 0.2, 3.0, 15.0
"""What is promised of silence: hold within, park after, and how fast, degrees a second."""
BEAT_S = 0.05
ON_CLOCK = "on a clock set by hand, so exact: what a real process adds is in the rows below"
GOAL = frozen([20.0, -55.0, 45.0, 70.0, 90.0, 60.0])
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
        held = _while(bench, Mode.RUN) + _while(bench, Mode.HOLD)
        began = bench.clock.time
        _while(bench, Mode.PARK, limit_s=60.0)
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


def _while(bench: Bench, mode: Mode, *, limit_s: float = 10.0) -> float:
    """Let cycles run as long as a mode lasts; return its seconds."""
    began = bench.clock.time
    while bench.mode is mode and bench.clock.time - began < limit_s:
        bench.tick()
    return bench.clock.time - began


def _fastest(sent: list[tuple[float, Floats]]) -> float:
    speeds = [
        float(np.abs(there - here)[:5].max()) / (then - before)
        for (before, here), (then, there) in pairwise(sent)
    ]
    return max(speeds, default=0.0)


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


def takeovers(effort: Effort) -> list[Row]:
    """S8: a person wins within one cycle, and handing back blends."""
    count = effort.count(quick=60, full=3_000)
    rng = np.random.default_rng([effort.seed, 80])
    waits: list[float] = []
    wrong: list[str] = []
    for trial in effort.progress(range(count), "S8 take-overs"):
        bench = Bench().run()
        bench.tick(int(rng.integers(1, 40)), goal=frozen(START + rng.uniform(-15, 15, 6)))
        asked = bench.clock.time
        bench.ask(Mode.TAKEOVER, human=True)
        bench.tick(goal=GOAL)
        waits.append(bench.clock.time - asked)
        ignored = bench.propose(GOAL).human and bench.mode is Mode.TAKEOVER
        persons = frozen(START + rng.uniform(-15, 15, 6))
        bench.tick(int(rng.integers(20, 120)), goal=persons, human=True)
        first = len(bench.servos.sent)
        # A cycle or a goal, whichever comes first, latches the pose that was read last.
        measured = bench.servos.pos.copy(), bench.process.state().joint_pos
        bench.process.request(Mode.RUN, client=PERSON, human=True)
        began = bench.clock.time + PERIOD_S
        bench.tick(100, goal=GOAL)
        sent = bench.servos.sent[first:]
        jumped = not any(np.allclose(sent[0][1], pose, atol=1e-9) for pose in measured)
        if not ignored or jumped or too_fast(sent, since=began):
            wrong.append(f"seed={effort.seed} trial {trial}: ignored {ignored}, jump {jumped}")
    late = sum(wait > PERIOD_S + 1e-9 for wait in waits)
    row = Row(
        id="S8",
        promise="a person's take-over wins within one cycle; handing back blends",
        asked="≤20 ms p99.9; every step within the rising limit",
        measured=f"{spread(waits)}; {len(wrong)} hand-backs jumped",
        trials=count,
        full=2_995,
        broken=len(wrong) + late,
        how="A person takes over a policy in motion; the policy's goals must be ignored, the first "
        "command of both changes is the measured pose, steps stay below a limit that rises in "
        "1.5 s.",
        noise=ON_CLOCK,
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


def first_commands(effort: Effort) -> list[Row]:
    """S9: the first command after any change is the measured pose, and speed rises from nothing."""
    count = effort.count(quick=25, full=750)
    rng = np.random.default_rng([effort.seed, 90])
    wrong: list[str] = []
    for trial in effort.progress(range(count), "S9 starts"):
        for name, change in CHANGES.items():
            bench = Bench(pose=frozen(rng.uniform(RULES.lower + 1.0, RULES.upper - 1.0)))
            if not np.allclose(bench.servos.sent[0][1], bench.pose):
                wrong.append(f"seed={effort.seed} trial {trial}: the start jumped")
            change(bench, rng)
            first, measured = len(bench.servos.sent), bench.servos.pos.copy()
            bench.ask(Mode.RUN)
            began = bench.clock.time + PERIOD_S
            bench.tick(90, goal=frozen(rng.uniform(RULES.lower, RULES.upper)))
            before, sent = bench.servos.sent[first - 1][1], bench.servos.sent[first:]
            jumped = not sent or not _starts_at(sent[0][1], measured, before)
            if jumped or too_fast(sent, since=began):
                wrong.append(f"seed={effort.seed} trial {trial}: {name}, jump {jumped}")
    trials = count * len(CHANGES)
    row = Row(
        id="S9",
        promise="the first command after start, reset, hand-move and change of mode is the "
        "measured pose; speed rises in 1.5 s",
        asked="0 steps beyond the limit",
        measured=f"{len(wrong)} of {trials:,} starts had one",
        trials=trials,
        full=3_000,
        broken=len(wrong),
        how=f"Random start poses; then RUN after: {', '.join(CHANGES)}. A goal that was taken "
        f"within half a second stays while the arm is within {SAG_DEG:g} degrees of it.",
        noise=ON_CLOCK,
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


def _starts_at(first: Joints, measured: Joints, before: Joints) -> bool:
    """Return whether a mode's first command is the measured pose, or what is held already."""
    held = np.allclose(first, before, atol=1e-9)
    return np.allclose(first, measured, atol=1e-9) or (
        held and float(np.abs(first - measured).max()) <= SAG_DEG
    )


def _connect(bench: Bench, rng: np.random.Generator) -> None:
    bench.tick(int(rng.integers(1, 10)))


def _reset(bench: Bench, rng: np.random.Generator) -> None:
    bench.run().tick(int(rng.integers(1, 40)), goal=GOAL)
    bench.process.stop("a key was pressed")
    bench.tick(5)
    bench.process.reset()
    bench.tick(2)


def _hand_move(bench: Bench, rng: np.random.Generator) -> None:
    """Push the arm while it holds: compliant servos end up elsewhere."""
    bench.tick(3)
    bench.servos.stuck[:] = True
    bench.servos.pos = np.clip(
        bench.servos.pos + rng.uniform(-8, 8, 6), RULES.lower + 0.5, RULES.upper - 0.5
    )
    bench.tick(3)
    bench.servos.stuck[:] = False


def _silence(bench: Bench, rng: np.random.Generator) -> None:
    bench.run().tick(int(rng.integers(1, 40)), goal=GOAL)
    bench.beating.clear()
    _while(bench, Mode.RUN)
    bench.tick(int(rng.integers(1, 50)))
    bench.beating |= {POLICY, PERSON}


CHANGES: Mapping[str, Callable[[Bench, np.random.Generator], None]] = {
    "connecting": _connect,
    "a stop and a reset": _reset,
    "a hand that moved it": _hand_move,
    "silence": _silence,
}


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
