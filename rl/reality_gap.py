"""What may be otherwise before a policy fails: `python -m rl.reality_gap run=RUN episodes=100`.

A policy is tried on the nominal twin and on twins that differ from it in one thing each, on the
same layouts and judged by where everything really is. It is ready to leave the twin where no row
costs it more than `MOST_LOST` of all trials. `make reality-gap RUN=…` writes RUN/reality_gap.json.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from rl.command_line import STOPPED, find_run
from rl.evaluate import RUNS, circumstances, record, summary, training, write_json
from rl.progress import say, shown
from rl.run_record import BadRun, RunRecord, read_facts, read_run
from rl.statistics import paired_difference
from rl.trial import FIRST_SEED, Trial
from rl.trial_pool import Conditions, contender_of, play
from robot.perturbation import NOMINAL, Perturbation
from robot.words import UsageError, parse_words

KNOWN = {
    **{"run": "", "episodes": "100", "processes": "2", "preset": "", "rows": "all"},
    **{"first_seed": str(FIRST_SEED), "json": ""},
}
MOST_LOST = 0.15
"""A policy may lose this share of all trials to any one row."""
RESULT, TRIALS = "reality_gap.json", "reality_gap.jsonl"
FIRST = "nominal"
HARDLY_SAGS = "A stiff arm hardly sags, whatever its gain and weight; preset=compliant does."

type Verdict = Literal["holds", "fails", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way in which a twin is not the nominal one."""

    says: str
    change: Perturbation


ROWS: Mapping[str, Row] = {
    FIRST: Row(says="nominal", change=NOMINAL),
    "stiffness": Row(says="servo gain -30 %", change=Perturbation(stiffness=0.7)),
    "sag": Row(says="gravity sag +30 %", change=Perturbation(weight=1.3)),
    "backlash": Row(says="backlash +1 deg", change=Perturbation(backlash_deg=1.0)),
    "latency": Row(says="latency +50 ms", change=Perturbation(delay_s=0.05)),
    "dropped": Row(says="10 % of frames dropped", change=Perturbation(dropped=0.1)),
    "camera": Row(
        says="cameras off by 4 mm, 0.7 deg", change=Perturbation(camera_m=0.004, camera_deg=0.7)
    ),
    "dark": Row(says="light -30 %", change=Perturbation(light=0.7)),
    "bright": Row(says="light +30 %", change=Perturbation(light=1.3)),
    "shade": Row(says="colours' shades 10 %", change=Perturbation(shade=0.1)),
    "slippery": Row(says="contact friction -30 %", change=Perturbation(friction=0.7)),
    "joint_friction": Row(says="joint friction +50 %", change=Perturbation(joint_friction=1.5)),
}


def tried(run: RunRecord, name: str, conditions: Conditions) -> list[Trial]:
    """Return the trials of a row in the order of the seeds; each goes to a line of a file."""
    row = ROWS[name]
    contender = replace(contender_of(run, conditions.preset or run.preset), perturbation=row.change)
    played = play([(contender, seed) for seed in conditions.seeds], conditions)
    recorded = record(played, run.folder / TRIALS, {"row": name, "preset": contender.preset})
    ended = dict(shown(recorded, total=conditions.episodes, title=f"{run.task}, {row.says}"))
    return [ended[i] for i in sorted(ended)]


def compared(nominal: Sequence[Trial], row: Sequence[Trial]) -> dict[str, object]:
    """Return how a row's trials went beside the nominal ones of the same seeds."""
    pairs = list(zip(nominal, row, strict=True))
    lost = sum(a.success and not b.success for a, b in pairs)
    won = sum(b.success and not a.success for a, b in pairs)
    difference, lower, upper = paired_difference(won, lost, len(pairs))
    return {
        "only_nominal": lost,
        "only_row": won,
        "difference": round(difference, 4),
        "difference95": [round(lower, 4), round(upper, 4)],
        "verdict": verdict(lower, upper),
    }


def verdict(lower: float, upper: float) -> Verdict:
    """Return whether a difference with this interval keeps to the rule, or may do either."""
    if lower >= -MOST_LOST:
        return "holds"
    return "fails" if upper < -MOST_LOST else "open"


def result_of(
    run: RunRecord, trials: Mapping[str, Sequence[Trial]], conditions: Conditions
) -> dict[str, object]:
    """Return what is written of a measurement."""
    rows: list[dict[str, object]] = []
    for name, played in trials.items():
        row = {"row": name, "says": ROWS[name].says, "change": differs(ROWS[name].change)}
        beside = {} if name == FIRST else compared(trials[FIRST], played)
        rows.append({**row, **summary(played), **beside})
    return {
        "task": run.task,
        "goal": run.goal,
        "most_lost": MOST_LOST,
        "verdict": overall([str(row["verdict"]) for row in rows if "verdict" in row]),
        "rows": rows,
        "judge": "truth",
        "preset": conditions.preset,
        "first_seed": conditions.first_seed,
        "trained_on": {"arm": str(read_facts(run.folder).get("arm", "twin")), "preset": run.preset},
        **training(run),
        **circumstances(),
    }


def differs(change: Perturbation) -> dict[str, float]:
    """Return what a perturbation changes, by name."""
    values = {field.name: float(getattr(change, field.name)) for field in fields(change)}
    return {name: value for name, value in values.items() if value != getattr(NOMINAL, name)}


def overall(verdicts: Sequence[str]) -> Verdict:
    """Return the verdict on all rows: one that fails decides, and one that is open leaves it so."""
    if "fails" in verdicts:
        return "fails"
    return "open" if "open" in verdicts else "holds"


def table(result: Mapping[str, Any]) -> str:
    """Return the result as a few lines of text."""
    layouts = f"{result['rows'][0]['episodes']} layouts, the same in all rows"
    return "\n".join(
        [
            f"{result['goal']}  ({result['preset']} twin, {layouts})",
            *(_line(row) for row in result["rows"]),
            f"  At most {100 * MOST_LOST:.0f} points lost in any row: {result['verdict']}",
            *([f"  {HARDLY_SAGS}"] if result["preset"] == "stiff" else []),
        ]
    )


def _line(row: Mapping[str, Any]) -> str:
    lower, upper = (100 * bound for bound in row["wilson95"])
    rate = f"{row['successes']}/{row['episodes']} ({lower:.0f}-{upper:.0f} %)"
    if "verdict" not in row:
        return f"  {row['says']:<30} {rate}"
    low, high = (100 * bound for bound in row["difference95"])
    points = f"{100 * row['difference']:+.0f} points ({low:+.0f} to {high:+.0f})"
    return f"  {row['says']:<30} {rate:<20} {points:<28} {row['verdict']}"


def measure(given: Mapping[str, str]) -> dict[str, object]:
    """Play, write into the run's folder and return the result; raise `UsageError`, `BadRun`."""
    rows = rows_of(given["rows"])
    if not given["run"]:
        raise UsageError("expected run=RUN; use `make reality-gap RUN=runs/...`")
    episodes, processes = _whole(given, "episodes"), _whole(given, "processes")
    run = read_run(find_run(given["run"], RUNS).path)
    conditions = Conditions(
        episodes=episodes,
        processes=processes,
        first_seed=_whole(given, "first_seed"),
        preset=_twin(given["preset"] or run.preset),
    )
    trials = {name: tried(run, name, conditions) for name in rows}
    result = result_of(run, trials, conditions)
    for path in (run.folder / RESULT, *([Path(given["json"])] if given["json"] else [])):
        write_json(path, result)
    return result


def rows_of(names: str) -> list[str]:
    """Return the rows that are named with commas between, the nominal one first."""
    if names == "all":
        return list(ROWS)
    unknown = set(names.split(",")) - ROWS.keys()
    if unknown:
        raise UsageError(f"rows={names}: there is no {min(unknown)!r}; known: {', '.join(ROWS)}")
    return [name for name in ROWS if name == FIRST or name in names.split(",")]


def _twin(preset: str) -> str:
    """Return which twin to try a policy on; raise `UsageError` for one that is not known."""
    from robot.twin_model import PRESETS  # noqa: PLC0415 - a usage error needs no MuJoCo

    if preset == "emulated":
        return "stiff"
    if preset not in PRESETS:
        raise UsageError(f"preset={preset}; known: {', '.join(PRESETS)}")
    return preset


def _whole(given: Mapping[str, str], name: str) -> int:
    if not given[name].isdigit():
        raise UsageError(f"{name}={given[name]}; expected a whole number")
    return int(given[name])


def main(words: Sequence[str]) -> int:
    """Measure, print, return the exit code."""
    try:
        result = measure(parse_words(words, known=KNOWN))
    except (UsageError, BadRun) as error:
        sys.stderr.write(f"error: {error}\n")
        return getattr(error, "code", 2)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return STOPPED
    say(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
