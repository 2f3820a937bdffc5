"""S1 to S5 of one guard: wild proposals, illegal starts, nonsense and stale answers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ops.safety_checks.clock import SetClock
from ops.safety_checks.effort import Effort
from ops.safety_checks.judge import Floats, Judge, Rules
from ops.safety_checks.row import MOST_EXAMPLES, Row
from robot.arm import frozen
from robot.arm_config import ROOT
from robot.camera import Frame
from robot.guard import Guard, GuardedArm
from robot.kinematics import inverse, tool_position
from robot.limits import SafetyLimits

SAFETY = ROOT / "conf" / "safety" / "default.yaml"
START = frozen([0, -40, 30, 85, 90, 20])
PART, WALK = 2000, 250
"""Commands that one process judges at a time, and those after which an arm starts afresh."""
ROUNDING = 1e-6  # metres
MARGIN = 1e-3
"""What the guard's few points of a link may be off the link, metres: it errs to the safe side."""
FK_EVERY, BOW_EVERY = 100, 20
PATH = 8
"""Equal parts of the way between two commands at whose ends poses are judged."""

type MakeGuard = Callable[[SafetyLimits], Guard]


class Part(NamedTuple):
    """A share of the commands, with a seed of its own."""

    seed: int
    number: int
    commands: int
    make: MakeGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the judge says of one part."""

    commands: int
    illegal: Sequence[str]
    """Commands beyond joint range or step."""
    outside: Sequence[str]
    """Commands on whose way something leaves its volume."""
    worst: float
    bow: float
    """The most by which something is outside between two judged points, metres."""
    apart: float
    """Our tool centre points against MuJoCo's own kinematics, metres."""
    guard_apart: float
    """The guard's tool centre points against the judge's, metres."""
    rules: Mapping[str, int]
    """How often the guard had to act."""


def limits_and_volumes(effort: Effort, make: MakeGuard = Guard) -> list[Row]:
    """S1 and S2: drive a guarded arm with all sorts of proposals and judge what comes out."""
    count = effort.count(quick=20_000, full=1_000_000)
    sizes = [PART] * (count // PART) + ([count % PART] if count % PART else [])
    parts = [Part(effort.seed, number, size, make) for number, size in enumerate(sizes)]
    found = list(effort.spread(judged_walk, parts, "S1 S2 commands"))
    trials = sum(part.commands for part in found)
    rules = sum((Counter(part.rules) for part in found), Counter[str]())
    acted = ", ".join(f"{rule} {times:,}" for rule, times in rules.most_common())
    illegal = [example for part in found for example in part.illegal]
    outside = [example for part in found for example in part.outside]
    worst, bow = max(part.worst for part in found), max(part.bow for part in found)
    apart = max(part.apart for part in found)
    guard_apart = max(part.guard_apart for part in found)
    disagrees = guard_apart > ROUNDING
    commands = Row(
        id="S1",
        promise="no command beyond joint range, step or speed",
        asked="0 of 1,000,000",
        measured=f"{len(illegal):,} (the guard acted: {acted})",
        trials=trials,
        full=1_000_000,
        broken=len(illegal),
        how="Random walks (wild, huge, pushing one way, into the table, small; intervals 0, 20, "
        "50 ms; an arm that lags) through `Guard.check`; every command is compared with the limits "
        "as a second reader reads them.",
        examples=tuple(illegal[:MOST_EXAMPLES]),
    )
    volumes = Row(
        id="S2",
        promise="no path point with the tool outside its box, a link outside the arm's box or too "
        "near the table",
        asked="0 of 1,000,000; kinematics agree to 1e-6 m",
        measured=f"{len(outside):,}; worst {1e3 * worst:.4f} mm; kinematics agree to "
        f"{guard_apart:.0e} m",
        trials=trials,
        full=1_000_000,
        broken=len(outside) + disagrees,
        how=f"The same commands; {PATH} poses of each way are judged with the hulls of MuJoCo's "
        f"model; every {FK_EVERY}th tool point is computed by MuJoCo itself as well.",
        noise=f"judge against MuJoCo {apart:.0e} m; between judged poses {1e3 * bow:.3f} mm",
        examples=tuple(outside[:MOST_EXAMPLES]),
    )
    return [commands, volumes]


def judged_walk(part: Part) -> Found:
    """Drive one share of the commands and judge it."""
    guard = part.make(SafetyLimits.load(SAFETY))
    judge = Judge(Rules.load(SAFETY))
    rng = np.random.default_rng([part.seed, part.number])
    lasts, commands, dts, rules = _walk(guard, rng, part.commands)

    def named(rows: NDArray[np.bool_]) -> list[str]:
        where = f"seed={part.seed} part {part.number}"
        return [f"{where} command {row}" for row in np.flatnonzero(rows)]

    moved = (commands != lasts).any(1) & np.isfinite(commands).all(1)
    worst = np.full(len(commands), -np.inf)
    if moved.any():
        worst[moved] = _along(judge, lasts[moved], commands[moved], np.arange(1, PATH + 1) / PATH)
    some, few = commands[moved][::FK_EVERY], moved.nonzero()[0][::BOW_EVERY]
    tools = judge.tools(some)
    between = (2 * np.arange(PATH) + 1) / (2 * PATH)
    bow = _along(judge, lasts[few], commands[few], between).max(initial=0.0)
    ours = np.array([tool_position(pose) for pose in some]).reshape(-1, 3)
    return Found(
        commands=len(commands),
        illegal=named(judge.limits_broken(commands, lasts, dts)),
        outside=named(worst > ROUNDING),
        worst=float(worst.max(initial=0.0)),
        bow=float(bow),
        apart=judge.disagreement(some, tools),
        guard_apart=float(np.abs(ours - tools).max(initial=0.0)),
        rules=rules,
    )


def _along(judge: Judge, start: Floats, end: Floats, shares: Floats) -> Floats:
    """Return the largest violation at shares of straight ways, shape (n,)."""
    ways = start[:, None] + shares[:, None] * (end - start)[:, None]
    return judge.worst(ways.reshape(-1, 6)).reshape(len(start), -1).max(1, initial=-np.inf)


def _walk(
    guard: Guard, rng: np.random.Generator, count: int
) -> tuple[Floats, Floats, Floats, Mapping[str, int]]:
    """Return last commands and commands, shape (n, 6), intervals (n,), and what the guard did."""
    lasts, commands = np.empty((count, 6)), np.empty((count, 6))
    dts = rng.choice([0.0, 0.02, 0.05], count, p=[0.02, 0.49, 0.49])
    lags = rng.choice([0.0, 0.3, 1.0], count)
    rules: Counter[str] = Counter()
    proposals = _Proposals(guard.limits, rng)
    last = measured = START
    for row in range(count):
        if row % WALK == 0:
            last = measured = START
        command = guard.check(
            proposals.draw(last), last=last, measured=measured, dt=float(dts[row])
        )
        lasts[row], commands[row] = last, command.joint_target
        rules.update(event.rule for event in command.events)
        last = command.joint_target
        measured = measured + (1.0 - lags[row]) * (last - measured)
    return lasts, commands, dts, rules


class _Proposals:
    """All sorts of goals: each kind for a while, so that an arm gets somewhere."""

    def __init__(self, limits: SafetyLimits, rng: np.random.Generator) -> None:
        self._rng, self._limits = rng, limits
        self._middle = (limits.joint_upper + limits.joint_lower) / 2
        self._half = (limits.joint_upper - limits.joint_lower) / 2
        self._low = [self._low_pose() for _ in range(20)]
        self._left, self._kind, self._goal = 0, 0, START

    def draw(self, last: Floats) -> NDArray[np.floating[Any]]:
        """Return the next proposal of an arm whose last command is `last`."""
        rng = self._rng
        # A guard that lets everything pass has been anywhere.
        last = np.clip(last, -1e9, 1e9)
        if self._left == 0:
            self._left, self._kind = int(rng.integers(5, 40)), int(rng.integers(5))
            self._goal = self._low[int(rng.integers(len(self._low)))]
            self._way = 6.0 * rng.choice([-1.0, 0.0, 1.0], 6)
        self._left -= 1
        match self._kind:
            case 0:
                return self._middle + 3.0 * self._half * rng.uniform(-1, 1, 6)
            case 1:
                return rng.choice([-1e300, -1e6, 0.0, 1e6, 1e300], 6)
            case 2:
                return last + self._way
            case 3:
                return self._goal + rng.normal(0.0, 1.0, 6)
            case _:
                return (last + rng.normal(0.0, 3.0, 6)).astype(np.float32)

    def _low_pose(self) -> Floats:
        """Return a pose with the tool at or under the table."""
        goal = self._rng.uniform([0.08, -0.24, -0.05], [0.36, 0.24, 0.02])
        limits = self._limits
        return inverse(
            goal, start=START, lower=limits.joint_lower, upper=limits.joint_upper, roll=90.0
        )


def illegal_starts(effort: Effort, make: MakeGuard = Guard) -> list[Row]:
    """S3: from anywhere, only motion that makes no violation worse."""
    count, steps = effort.count(quick=400, full=10_000), 8
    guard, judge = make(SafetyLimits.load(SAFETY)), Judge(Rules.load(SAFETY))
    rng = np.random.default_rng([effort.seed, 3])
    low, high = guard.limits.joint_lower, guard.limits.joint_upper
    worse: list[str] = []
    held = illegal = 0
    most = 0.0
    for trial in effort.progress(range(count), "S3 starts"):
        start = last = frozen(rng.uniform(low - 5.0, high + 5.0))
        bounds = np.maximum(judge.violations(start[None])[0], 0.0)
        illegal += bool(bounds.max() > 0.0)
        for _ in range(steps):
            goal = START if rng.random() < 0.5 else rng.uniform(low, high)
            command = guard.check(goal, last=last, measured=last, dt=0.05).joint_target
            way = last + np.linspace(0.125, 1.0, 8)[:, None] * (command - last)
            growth, allowed = _growth(guard, judge, last=last, way=way)
            most = max(most, allowed)
            if growth > ROUNDING:
                worse.append(f"seed={effort.seed} start {trial}: {1e3 * growth:.2f} mm worse")
                break
            last = command
        held += bool((last == start).all())
    row = Row(
        id="S3",
        promise="from an illegal start only motion that makes nothing worse: it returns or holds",
        asked="100 % of 10,000",
        measured=f"{count - len(worse):,} of {count:,} ({illegal:,} starts illegal, {held:,} held)",
        trials=count,
        full=10_000,
        broken=len(worse),
        how=f"Random starts, each with {steps} goals, homewards or anywhere; tool box and table by "
        "MuJoCo's hulls, the arm's box by the boxes around the links, which is what is promised.",
        noise=f"the guard's points err by {1e3 * MARGIN:.0f} mm to the safe side, "
        f"{1e3 * most:.3f} mm of which a motion used",
        examples=tuple(worse[:MOST_EXAMPLES]),
    )
    return [row]


def _growth(guard: Guard, judge: Judge, *, last: Floats, way: Floats) -> tuple[float, float]:
    """Return by how much a way makes a bound worse, and how much of the margin it used."""
    poses = np.concatenate([last[None], way])
    exact = judge.violations(poses)
    grown = exact[1:] - np.maximum(exact[0], 0.0)
    tool, table = float(grown[:, :6].max()), float(grown[:, [8, 12, 13]].max())
    boxes = guard.volumes.violations(poses)
    link = float((boxes - np.maximum(boxes[:, :1], 0.0)).max())
    return max(tool, table - MARGIN, link), max(0.0, table)


class _StillArm:
    """An arm that stands still and remembers what it was sent."""

    def __init__(self) -> None:
        self.pose, self.sent = START, START

    def joint_pos(self) -> Floats:
        return self.pose

    def frames(self) -> Mapping[str, Frame]:
        return {}

    def command(self, joint_target: Floats) -> None:
        self.sent = joint_target

    def close(self) -> None:
        pass


def nonsense(effort: Effort, make: MakeGuard = Guard) -> list[Row]:
    """S4: what is not six finite numbers is refused whole, held and counted."""
    count = effort.count(quick=5_000, full=100_000)
    rng = np.random.default_rng([effort.seed, 4])
    raw, clock = _StillArm(), SetClock()
    arm = GuardedArm(raw, make(SafetyLimits.load(SAFETY)), clock)
    arm.observe(frames=False)
    taken: list[str] = []
    for trial in effort.progress(range(count), "S4 proposals"):
        clock.time += 0.05
        before, counted = raw.sent, arm.events["refused"]
        proposal = _nonsense(rng)
        command = arm.command(proposal, stamp=clock.time)
        refused = [str(event) for event in command.events if event.rule == "refused"]
        held = np.array_equal(raw.sent, before) and np.array_equal(command.joint_target, before)
        if not (refused and held and arm.events["refused"] == counted + 1):
            taken.append(f"seed={effort.seed} trial {trial}: {proposal!r}"[:120])
    row = Row(
        id="S4",
        promise="NaN, inf, wrong shape, dtype, order, bool or string: the whole action is refused, "
        "held and counted",
        asked="100 %",
        measured=f"{count - len(taken):,} of {count:,}",
        trials=count,
        full=100_000,
        broken=len(taken),
        how="Random objects that are not six finite real numbers, to a `GuardedArm`. A named order "
        "cannot be wrong on this path: a command is six numbers in the one order of `JOINTS`.",
        examples=tuple(taken[:MOST_EXAMPLES]),
    )
    return [row]


def _nonsense(rng: np.random.Generator) -> object:
    """Return something that is not six finite numbers."""
    values = rng.uniform(-90, 90, 6)
    broken = values.copy()
    broken[rng.integers(6)] = rng.choice([np.nan, np.inf, -np.inf])
    shape = [(0,), (5,), (7,), (1, 6), (6, 1), (), (2, 3), (60,)][rng.integers(8)]
    kinds: Sequence[Callable[[], object]] = (
        lambda: broken,
        lambda: broken.astype(np.float32),
        lambda: np.full(6, np.nan),
        lambda: rng.uniform(-90, 90, shape),
        lambda: values > 0,
        lambda: values.astype(str),
        lambda: values.astype(bytes),
        lambda: values.astype(object),
        lambda: values.astype(complex),
        lambda: values.astype(np.longdouble),
        lambda: values.astype("datetime64[s]"),
        lambda: cast("object", np.ma.masked_array(values, mask=values > 0)),
        values.tolist,
        lambda: dict(zip("abcdef", values.tolist(), strict=True)),
        lambda: str(values.tolist()),
        values.tobytes,
        lambda: None,
        lambda: float(values[0]),
        lambda: [values],
    )
    return kinds[int(rng.integers(len(kinds)))]()


def stale(effort: Effort, make: MakeGuard = Guard) -> list[Row]:
    """S5: answers to old or future observations are discarded, fresh ones are not."""
    count = effort.count(quick=5_000, full=20_000)
    rng = np.random.default_rng([effort.seed, 5])
    raw, clock, limits = _StillArm(), SetClock(), SafetyLimits.load(SAFETY)
    arm = GuardedArm(raw, make(limits), clock)
    arm.observe(frames=False)
    wrong: list[str] = []
    for trial in effort.progress(range(count), "S5 ages"):
        clock.time += 0.05
        age = _age(rng, limits.max_age_s)
        events = arm.command(START + 1.0, stamp=clock.time - age).events
        is_stale = "refused:stale" in {str(event) for event in events}
        if is_stale is (0.0 <= clock.time - (clock.time - age) <= limits.max_age_s):
            wrong.append(f"seed={effort.seed} trial {trial}: an age of {age:.4f} s")
    row = Row(
        id="S5",
        promise="an answer to an observation that is too old, or from the future, is discarded",
        asked=f"100 % beyond {limits.max_age_s:g} s, none before",
        measured=f"{count - len(wrong):,} of {count:,} ages decided rightly",
        trials=count,
        full=20_000,
        broken=len(wrong),
        how="Ages from 0 to 5 s, the edge, and stamps of a clock that is wrong by up to an hour, "
        "to a `GuardedArm` with a clock set by hand.",
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


def _age(rng: np.random.Generator, edge: float) -> float:
    kinds: Iterable[float] = (
        rng.uniform(0.0, 5.0),
        edge + rng.uniform(-2e-3, 2e-3),
        rng.uniform(-3600.0, 3600.0),
        rng.uniform(0.0, edge),
    )
    return float(rng.choice(list(kinds)))
