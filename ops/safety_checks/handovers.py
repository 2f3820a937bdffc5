"""S8 and S9 on a clock that is set by hand: the first commands after the driver or mode changes."""

from collections.abc import Callable, Mapping

import numpy as np

from ops.safety_checks.bench import (
    GOAL,
    ON_CLOCK,
    PERSON,
    POLICY,
    RULES,
    START,
    Bench,
    too_fast,
)
from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from robot.arm import Joints, frozen
from robot.process.arm_process import PERIOD_S, SAG_DEG, Mode


def takeovers(effort: Effort) -> list[Row]:
    """S8: a person wins within one cycle, and handing back blends."""
    count = effort.count(quick=60, full=3_000)
    rng = np.random.default_rng([effort.seed, 80])
    waits: list[float] = []
    wrong: list[str] = []
    for trial in effort.progress(range(count), "S8 take-overs"):
        bench = Bench().run()
        bench.tick(int(rng.integers(1, 40)), goal=frozen(START + rng.uniform(-15, 15, 6)))
        wait, ignored = _take_over(bench)
        waits.append(wait)
        persons = frozen(START + rng.uniform(-15, 15, 6))
        bench.tick(int(rng.integers(20, 120)), goal=persons, human=True)
        jumped, hurried = _hand_back(bench)
        if not ignored or jumped or hurried:
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


def _take_over(bench: Bench) -> tuple[float, bool]:
    """Return the seconds until the person has the arm, and whether the policy is ignored."""
    asked = bench.clock.time
    bench.ask(Mode.TAKEOVER, human=True)
    bench.tick(goal=GOAL)
    waited = bench.clock.time - asked
    return waited, bench.propose(GOAL).human and bench.mode is Mode.TAKEOVER


def _hand_back(bench: Bench) -> tuple[bool, bool]:
    """Return whether the policy's first command jumped, and whether later ones were too fast."""
    first = len(bench.servos.sent)
    # A cycle or a goal, whichever comes first, latches the pose that was read last.
    measured = bench.servos.pos.copy(), bench.process.state().joint_pos
    bench.process.request(Mode.RUN, client=PERSON, human=True)
    began = bench.clock.time + PERIOD_S
    bench.tick(100, goal=GOAL)
    sent = bench.servos.sent[first:]
    jumped = not any(np.allclose(sent[0][1], pose, atol=1e-9) for pose in measured)
    return jumped, bool(too_fast(sent, since=began))


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
    bench.outlast(Mode.RUN)
    bench.tick(int(rng.integers(1, 50)))
    bench.beating |= {POLICY, PERSON}


CHANGES: Mapping[str, Callable[[Bench, np.random.Generator], None]] = {
    "connecting": _connect,
    "a stop and a reset": _reset,
    "a hand that moved it": _hand_move,
    "silence": _silence,
}
