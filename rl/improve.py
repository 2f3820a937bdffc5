"""Promote a run's policy where it is surely better: `python -m rl.improve run=RUN pairs=100`.

The deployed version of the same goal and the run's policy act on the same layouts. After every pair
the betting test of `rl.statistics.PairedTest` says whether the difference is certain; it may be
looked at as often as one likes. The run is promoted where it is certainly better, and where on no
condition of the regression set (other colours, the other twin, a varied table) it is certainly
worse. The first version of a goal has to succeed in `least` of its trials, by the lower bound.
`rollback=1 goal="…"` puts the version before back to use.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewarder.goal import Goal, UnknownGoal, parse_goal, task_goal
from rl.ab import LEVEL, Pair, decided, paired, schedule
from rl.command_line import find_run
from rl.evaluate import RUNS, circumstances, record, summary
from rl.model_registry import ModelRegistry
from rl.progress import say, shown
from rl.run_record import BadRun, RunRecord, read_run
from rl.statistics import PairedTest
from rl.trial import FIRST_SEED
from rl.trial_pool import Conditions, Contender, Job, contender_of, play
from robot.scene import COLOURS
from robot.words import UsageError, parse_words

KNOWN = {
    **{"run": "", "goal": "", "rollback": "0", "models": "runs/models"},
    **{"pairs": "100", "regression": "30", "least": "0.7", "processes": "2"},
    "first_seed": str(FIRST_SEED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Under what both versions are tried."""

    name: str
    goal: str
    preset: str
    variation: float = 0.0


def regression_set(run: RunRecord) -> list[Condition]:
    """Return the conditions under which a version must not be worse than the one before."""
    preset = "stiff" if run.preset == "emulated" else run.preset
    other = "compliant" if preset == "stiff" else "stiff"
    recoloured = str(_recoloured(parse_goal(run.goal)))
    return [
        Condition(name="other colours", goal=recoloured, preset=preset),
        Condition(name=f"{other} twin", goal=run.goal, preset=other),
        Condition(name="varied table", goal=run.goal, preset=preset, variation=1.0),
    ]


def _recoloured(goal: Goal) -> Goal:
    """Return the same task with every colour one further."""
    turn: dict[str, str] = dict(zip(COLOURS, [*COLOURS[1:], COLOURS[0]], strict=True))
    place = turn[goal.place.colour] if goal.place else ""
    return task_goal(goal.task, turn[goal.thing.colour], place)


def compare(
    runs: Sequence[RunRecord], condition: Condition, conditions: Conditions, trials: Path
) -> dict[str, Any]:
    """Try the deployed version (A) and the run (B) on the same layouts, until it is certain."""
    players = [replace(run, goal=condition.goal) for run in runs]
    plain = schedule(players, conditions.seeds, condition.preset)
    jobs: list[Job] = [(_under(one, condition), seed) for one, seed in plain]
    played = shown(record(play(jobs, conditions), trials), total=len(jobs), title=condition.name)
    pairs: list[Pair] = list(decided(paired(played, jobs, players), test_after_each=True))
    test = PairedTest()
    for a, b in pairs:
        test = test.after(a=a.success, b=b.success)
    better = "AB"[test.only_b > test.only_a] if test.p_value <= LEVEL else None
    return {
        "condition": condition.name,
        "goal": condition.goal,
        "pairs": len(pairs),
        "only_deployed": test.only_a,
        "only_new": test.only_b,
        "p_value": test.p_value,
        "better": better,
        "new": summary([b for _, b in pairs]),
    }


def _under(contender: Contender, condition: Condition) -> Contender:
    return replace(contender, variation=condition.variation)


def verdict(found: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why a run is not promoted after its comparison and those of the regression set."""
    first, *others = found
    if first["better"] != "B":
        return f"not certainly better than the deployed version (p = {first['p_value']:.3g})"
    forgot = [other["condition"] for other in others if other["better"] == "A"]
    return f"worse than the deployed version with {' and '.join(forgot)}" if forgot else None


def improve(run: RunRecord, registry: ModelRegistry, given: Mapping[str, str]) -> str | None:
    """Promote a run where the evidence is enough; return why not, None where it was promoted."""
    trials = registry.path / "trials.jsonl"
    whole = _conditions(given, "pairs")
    deployed = registry.deployed()
    found: list[dict[str, Any]] = []
    if deployed is None:
        found.append(_first(run, whole, trials))
        short = found[0]["wilson95"][0] < float(given["least"])
        why = f"its lower bound is below {given['least']}" if short else None
    else:
        found += _compared((deployed, run), whole, _conditions(given, "regression"), trials)
        why = verdict(found)
    if why is None:
        registry.promote(run, {"evidence": found, **circumstances()})
    return why


def _compared(
    runs: Sequence[RunRecord], whole: Conditions, regression: Conditions, trials: Path
) -> Iterator[dict[str, Any]]:
    """Yield the comparison, and where that is won, those of the regression set."""
    run = runs[1]
    preset = "stiff" if run.preset == "emulated" else run.preset
    first = compare(runs, Condition(name="as learnt", goal=run.goal, preset=preset), whole, trials)
    yield first
    if first["better"] == "B":
        for condition in regression_set(run):
            yield compare(runs, condition, regression, trials)


def _first(run: RunRecord, conditions: Conditions, trials: Path) -> dict[str, Any]:
    preset = "stiff" if run.preset == "emulated" else run.preset
    jobs: list[Job] = [(contender_of(run, preset), seed) for seed in conditions.seeds]
    played = shown(record(play(jobs, conditions), trials), total=len(jobs), title=run.task)
    return {"condition": "the first version", **summary([trial for _, trial in played])}


def _conditions(given: Mapping[str, str], episodes: str) -> Conditions:
    """Return how trials are held, as many as the word `episodes` says; raise `UsageError`."""
    wrong = [word for word in (episodes, "processes", "first_seed") if not given[word].isdigit()]
    if wrong:
        raise UsageError(f"{wrong[0]}={given[wrong[0]]}; expected a whole number")
    return Conditions(
        episodes=int(given[episodes]),
        processes=int(given["processes"]),
        first_seed=int(given["first_seed"]),
    )


def main(words: Sequence[str]) -> int:
    """Compare and promote, or roll back; return 1 where a run is not promoted."""
    try:
        return _main(parse_words(words, known=KNOWN))
    except (UsageError, BadRun, UnknownGoal) as error:
        sys.stderr.write(f"error: {error}\n")
        return getattr(error, "code", 2)


def _main(given: Mapping[str, str]) -> int:
    models = Path(given["models"])
    if given["rollback"] == "1":
        registry = ModelRegistry(models, str(parse_goal(given["goal"])))
        say(f"in use again: {registry.path / registry.roll_back()}")
        return 0
    if not given["run"]:
        raise UsageError('expected run=RUN, or rollback=1 goal="…"; see `make help`')
    _share(given["least"])
    run = read_run(find_run(given["run"], RUNS).path)
    registry = ModelRegistry(models, run.goal)
    why = improve(run, registry, given)
    if why:
        say(f"not promoted: {run.folder.name}: {why}")
        return 1
    say(f"promoted: {registry.path / registry.history()[-1]}")
    return 0


def _share(word: str) -> float:
    try:
        least = float(word)
    except ValueError:
        least = -1.0
    if not 0.0 <= least <= 1.0:
        raise UsageError(f"least={word}; expected a share from 0 to 1")
    return least


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
