"""What each gate asks for, and what the results on file say of it in one world."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from rl.evidence import SAFETY, WORLD_OF, Evidence, Record
from rl.statistics import wilson

PASS, FAIL, NOT_MEASURED = "pass", "FAIL", "not measured"
LOOP_HZ, UNDERFLOWS = 15.0, 1.0
FIRST_TASK, EACH_TASK, TASKS_ASKED, AGREEMENT = 0.70, 0.80, 3, 0.90
LATENCY_MS = 120.0
ARM_OF = {"emulated": "emulated", "bench": "real"}
OF_THE_GUARD = frozenset({"S1", "S2", "S3", "S4", "S5"})
HOW_TO_STREAM = (
    "python -m ops.bench_rtc arm=emulated steps=9000 delays=0 rtc=1 json=docs/rtc.json measures it"
)
OF_A_PROCESS = ("the servos", "the arm's process")
"""What a twin does not have; a promise that names one is not asked of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One figure that a gate asks for."""

    asked: str
    measured: str = "-"
    n: int = 0
    """Trials, ticks or clips."""
    interval: tuple[float, float] | None = None
    """95 %; of a share by Wilson."""
    unit: str = ""
    """Of the interval; none of a share."""
    verdict: str = NOT_MEASURED
    sources: Sequence[Record] = ()
    notes: Sequence[str] = ()
    """Stand-ins, and what one should know besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What has to be shown before a step further is taken."""

    name: str
    title: str
    parts: Sequence[Part] = field(default_factory=tuple[Part])

    @property
    def verdict(self) -> str:
        """Return the worst verdict of its parts."""
        found = {part.verdict for part in self.parts}
        return next((worst for worst in (FAIL, NOT_MEASURED) if worst in found), PASS)


def limits_verified(evidence: Evidence, world: str) -> Gate:
    """G0: every promise about limits was tried as often as it asks for, and none broke.

    On the twin those of the guard alone; elsewhere also those of the arm's own process.
    """
    title = "limits verified"
    asked = "every promise of docs/safety.md at its full n, none broken"
    if world == "bench":
        why = f"{SAFETY} was measured on the guard and on emulated servos, not on a physical arm"
        return Gate(name="G0", title=title, parts=[Part(asked=asked, notes=[why])])
    rows = [row for row in evidence.safety if _is_asked(row, world)]
    if not rows:
        how = "make safety JSON=docs/safety.json measures it"
        return Gate(name="G0", title=title, parts=[Part(asked=asked, notes=[how])])
    return Gate(name="G0", title=title, parts=[_limits(rows, evidence, asked)])


def _is_asked(row: Record, world: str) -> bool:
    name, promise = str(row.content.get("id")), str(row.content.get("promise"))
    if world == "twin":
        return name in OF_THE_GUARD and not any(words in promise for words in OF_A_PROCESS)
    return name.startswith("S")


def _limits(rows: Sequence[Record], evidence: Evidence, asked: str) -> Part:
    said = Counter(str(row.content.get("verdict")) for row in rows)
    short = [_id(row) for row in rows if row.content.get("verdict") not in (PASS, FAIL)]
    lost = sorted(OF_THE_GUARD - {_id(row) for row in rows})
    whole = not (short or lost or SAFETY in evidence.refused_files)
    weakest = min(rows, key=_trials)
    broken, trials = int(weakest.content.get("broken") or 0), _trials(weakest)
    notes = [f"weakest: {_id(weakest)}, {broken} of {trials:,} broken"]
    notes += [f"tried too rarely so far: {', '.join(dict.fromkeys(short))}"] if short else []
    notes += [f"no row for {', '.join(lost)}"] if lost else []
    return Part(
        asked=asked,
        measured=", ".join(f"{count} {verdict}" for verdict, count in sorted(said.items())),
        n=sum(_trials(row) for row in rows),
        interval=wilson(broken, trials),
        verdict=FAIL if said[FAIL] else PASS if whole else NOT_MEASURED,
        sources=[weakest, *(row for row in rows if row is not weakest)],
        notes=notes,
    )


def loop_runs(evidence: Evidence, world: str) -> Gate:
    """G1: the loop is quick enough, and rows of a served policy do not run out."""
    gate = Gate(name="G1", title="the loop keeps its pace")
    quick, steady = f"at least {LOOP_HZ:g} Hz", f"fewer than {UNDERFLOWS:g} underflow a minute"
    if world == "twin":
        why = "a twin's clock stands still while a policy thinks: it has no pace of its own"
        parts = [Part(asked=asked, notes=[why]) for asked in (quick, steady)]
        return Gate(name=gate.name, title=gate.title, parts=parts)
    found = [
        (stream, row)
        for stream in evidence.streams
        if stream.content.get("arm") == ARM_OF[world]
        for row in stream.content.get("rows", ())
        if row.get("continued") and not row.get("added_delay_ms") and "loop_hz" in row
    ]
    pace = _pace(found, quick) if found else _evaluated_pace(evidence, world, quick)
    rows_last = _underflows(found, steady) if found else _not_streamed(evidence, steady)
    return Gate(name=gate.name, title=gate.title, parts=[pace, rows_last])


def _pace(found: Sequence[tuple[Record, dict[str, Any]]], asked: str) -> Part:
    slowest = min(float(row["loop_hz_slowest"]) for _, row in found)
    means = ", ".join(f"{row['loop_hz']:.1f} Hz" for _, row in found)
    return Part(
        asked=asked,
        measured=f"{means} on average, {slowest:.1f} Hz in the slowest episode",
        n=sum(int(row["episodes"]) for _, row in found),
        verdict=PASS if slowest >= LOOP_HZ else FAIL,
        sources=[stream for stream, _ in found],
        notes=["the slowest episode decides"],
    )


def _underflows(found: Sequence[tuple[Record, dict[str, Any]]], asked: str) -> Part:
    count = sum(int(row["underflows"]) for _, row in found)
    minutes = sum(float(row["minutes"]) for _, row in found)
    low, high = rate_interval(count, minutes)
    return Part(
        asked=asked,
        measured=f"{count} in {minutes:.1f} min, {count / minutes:.2f} a minute",
        n=count,
        interval=(low, high),
        unit="a minute",
        verdict=PASS if high < UNDERFLOWS else FAIL,
        sources=[stream for stream, _ in found],
        notes=["interval of a Poisson rate; its upper bound decides"],
    )


def _evaluated_pace(evidence: Evidence, world: str, asked: str) -> Part:
    """Return the pace at which policies that decide beside the arm were evaluated."""
    found = [run for run in _in_world(evidence, world) if run.content.get("loop_hz")]
    if not found:
        return Part(asked=asked, notes=[HOW_TO_STREAM])
    said = [run.content["loop_hz"] for run in found]
    slowest = min(float(pace["slowest"]) for pace in said)
    means = ", ".join(f"{pace['mean']:.1f} Hz" for pace in said)
    return Part(
        asked=asked,
        measured=f"{means} on average, {slowest:.1f} Hz in the slowest trial",
        n=sum(int(run.content["episodes"]) for run in found),
        verdict=_holds(slowest >= LOOP_HZ),
        sources=found,
        notes=["the slowest trial decides"],
    )


def _not_streamed(evidence: Evidence, asked: str) -> Part:
    """Return a part that says what is missing, and what stands in for it."""
    told = [
        f"stand-in, no arms: {row['what']}: {row['ours']} ({record.file})"
        for record in evidence.serving
        for row in record.content.get("rows", ())
        if row.get("part") == "lan" and "underflow" in str(row.get("what"))
    ]
    return Part(asked=asked, notes=[HOW_TO_STREAM, *told])


def _in_world(evidence: Evidence, world: str) -> list[Record]:
    """Return the evaluations in a world."""
    return [
        run for run in evidence.results if WORLD_OF.get(str(run.content.get("preset"))) == world
    ]


def rate_interval(count: int, minutes: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson rate, per minute (Garwood 1936)."""
    low = _chi_squared(0.025, 2 * count) / 2 if count else 0.0
    return low / minutes, _chi_squared(0.975, 2 * count + 2) / 2 / minutes


def _chi_squared(share: float, freedom: int) -> float:
    return float(stats.chi2.ppf(share, freedom))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def first_task(evidence: Evidence, world: str, reward: str) -> Gate:
    """G2: one task has been learnt; the one that was learnt best counts."""
    counts = task_parts(evidence, world, reward, FIRST_TASK)
    parts = counts[:1] or [_no_task(f"a task at least {FIRST_TASK:.0%}", world)]
    return Gate(name="G2", title="the first task is learnt", parts=parts)


def three_tasks(evidence: Evidence, world: str, reward: str) -> Gate:
    """G3: three tasks have been learnt by a reward that agrees with its labels."""
    counts = task_parts(evidence, world, reward, EACH_TASK)
    best = counts[:TASKS_ASKED]
    missing = TASKS_ASKED - len(best)
    best += [_no_task(f"another task at least {EACH_TASK:.0%}", world)] * missing
    agreeing = agreement_parts(evidence, world, reward)
    return Gate(name="G3", title="three tasks, by a reward that is right", parts=[*best, *agreeing])


def task_parts(evidence: Evidence, world: str, reward: str, least: float) -> list[Part]:
    """Return each task's success over all its runs in a world, the best first.

    Every committed run by this reward counts, so that nobody can pick a seed, each by its newest
    evaluation; those under other conditions than training's do not.
    """
    by_task: dict[str, dict[str, Record]] = {}
    found = sorted(_in_world(evidence, world), key=lambda run: str(run.content.get("evaluation")))
    for record in found:
        said = record.content
        other = said.get("variation") or said.get("trained_goal", said["goal"]) != said["goal"]
        if said.get("reward") == reward and not other:
            by_task.setdefault(str(said["task"]), {})[str(said.get("run", record.file))] = record
    parts = [_task(task, list(runs.values()), least) for task, runs in by_task.items()]
    return sorted(parts, key=lambda part: -(part.interval or (0.0, 0.0))[0])


def _task(task: str, runs: Sequence[Record], least: float) -> Part:
    counts = [(int(run.content["successes"]), int(run.content["episodes"])) for run in runs]
    worst = min(counts, key=lambda count: count[0] / count[1])
    judges = sorted({str(run.content.get("judge")) for run in runs})
    count = "1 run only" if len(runs) == 1 else f"{len(runs)} runs"
    said = f"{count}, the worst {worst[0]} of {worst[1]}; judge: {', '.join(judges)}"
    part = share_part(f"{task} at least {least:.0%}", least, *map(sum, zip(*counts, strict=True)))
    return replace(part, sources=runs, notes=[said])


def _no_task(asked: str, world: str) -> Part:
    return Part(asked=asked, notes=[f"no evaluation in docs/results is of the world {world}"])


def agreement_parts(evidence: Evidence, world: str, reward: str) -> list[Part]:
    """Return how far the reward agrees with labels, one part for each set of clips."""
    asked = f"{reward} agrees with labels at least {AGREEMENT:.0%}"
    found = [record for record in evidence.agreements if record.content.get("reward") == reward]
    known = [record for record in found if world != "bench" or record.content["rater"] != "twin"]
    if not known:
        file = f"docs/agreement-twin200-{reward}.json"
        how = f"make agreement REWARD={reward} SET=twin200 JSON={file} measures it"
        if world == "bench":
            how = "it takes clips of this bench with people's labels (make label, make agreement)"
        return [Part(asked=asked, notes=[how])]
    return [_agreement(record, asked) for record in known]


def _agreement(record: Record, asked: str) -> Part:
    said = record.content
    part = share_part(asked, AGREEMENT, said["accuracy"]["hits"], said["accuracy"]["of"])
    short = said["g3"]["shortfalls"]
    notes = [f"{said['set']}, labels: {said['labels'].get(said['rater'], said['rater'])}"]
    if said["rater"] == "twin":
        notes.append("stand-in: the twin's ground truth, in place of people's labels")
    notes += [f"besides: {'; '.join(short)}"] if short else []
    verdict = FAIL if short else part.verdict
    return replace(part, verdict=verdict, sources=[record], notes=notes)


def latency(evidence: Evidence, world: str) -> Gate:
    """KPI: how long it takes from an observation to its action; it gates nothing."""
    asked = [f"{which} at most {LATENCY_MS:g} ms" for which in ("p50", "p99")]
    found = [run for run in _in_world(evidence, world) if run.content.get("latency_ms")]
    title = "from observation to action"
    if not found:
        how = "make evaluate RUN=… arms=[arm01] measures it on emulated arms"
        if world == "twin":
            how = "a twin's clock stands still while a policy thinks"
        return Gate(
            name="KPI", title=title, parts=[Part(asked=each, notes=[how]) for each in asked]
        )
    parts = [part for record in found for part in _latencies(record, asked)]
    return Gate(name="KPI", title=title, parts=parts)


def _latencies(record: Record, asked: Sequence[str]) -> list[Part]:
    said = record.content["latency_ms"]
    at_most = said["p99_at_most"]
    bound = "too few for a bound" if at_most is None else f"at most {at_most:g} ms (95 %)"
    late = NOT_MEASURED if at_most is None else _holds(at_most <= LATENCY_MS)
    n, sources = int(said["n"]), [record]
    return [
        Part(
            asked=asked[0],
            measured=f"{said['p50']:g} ms",
            n=n,
            verdict=_holds(said["p50"] <= LATENCY_MS),
            sources=sources,
        ),
        Part(
            asked=asked[1],
            measured=f"{said['p99']:g} ms, {bound}",
            n=n,
            verdict=late,
            sources=sources,
        ),
    ]


def share_part(asked: str, least: float, hits: int, of: int) -> Part:
    """Return a share beside the least that is asked of it; its lower bound decides."""
    interval = wilson(hits, of)
    measured = f"{hits / of:.1%} ({hits} of {of})" if of else "-"
    verdict = _holds(interval[0] >= least) if of else NOT_MEASURED
    return Part(asked=asked, measured=measured, n=of, interval=interval, verdict=verdict)


def _holds(holds: bool) -> str:
    return PASS if holds else FAIL


def _trials(row: Record) -> int:
    return int(row.content.get("trials") or 0)


def _id(row: Record) -> str:
    return str(row.content.get("id"))
