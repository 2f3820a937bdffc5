"""Say how often a trained policy succeeds: `python -m rl.evaluate run=RUN episodes=200`."""

import json
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rewarder.goal import parse_goal
from rl.command_line import Composed, find_run, run_main
from rl.own_arms import OwnArms
from rl.pace import pace
from rl.progress import say, shown
from rl.run_record import BadRun, RunRecord, read_run
from rl.statistics import clopper_pearson_lower, kaplan_meier_median, wilson
from rl.trial import Trial, evaluate_policy
from rl.trial_pool import Conditions, Contender, contender_of, play
from robot.revision import git_revision

__all__ = ["Conditions", "Trial", "evaluate_policy", "evaluate_run", "summary"]

RUNS = Path("runs")


def summary(trials: Sequence[Trial], *, timed: bool = True) -> dict[str, object]:
    """Return success@K with its interval and more; `timed` where success ended a trial."""
    successes = sum(trial.success for trial in trials)
    failed = [trial for trial in trials if not trial.success]
    times, reached = [trial.time_s for trial in trials], [trial.success for trial in trials]
    events: Counter[str] = Counter()
    for trial in trials:
        events.update(trial.guard_events)
    return {
        "episodes": len(trials),
        "successes": successes,
        "success_rate": _share(successes, len(trials)),
        "wilson95": [round(bound, 4) for bound in wilson(successes, len(trials))],
        "at_least95": round(clopper_pearson_lower(successes, len(trials)), 4),
        "time_to_success_s": kaplan_meier_median(times, reached) if timed else None,
        "failures": len(failed),
        "gentle_failure_rate": _share(sum(trial.gentle for trial in failed), len(failed)),
        "ends": dict(Counter(trial.end for trial in trials)),
        "guard_events": dict(events.most_common()),
        **pace(trials),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def evaluate_run(folder: Path, conditions: Conditions) -> dict[str, object]:
    """Try a run's policy on fresh layouts; write each trial and the result into its folder."""
    run = read_run(folder)
    preset = conditions.preset or run.preset
    contender = replace(
        contender_of(run, preset), goal=goal_of(run, conditions), variation=conditions.variation
    )
    with ExitStack() as stack:
        if conditions.arms:
            own = OwnArms(conditions.arms, folder)
            stack.callback(own.close)
            own.wait()
            preset = "emulated"
        return _evaluate(run, contender, conditions, preset)


def _evaluate(
    run: RunRecord, contender: Contender, conditions: Conditions, preset: str
) -> dict[str, object]:
    folder = run.folder
    evaluation = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    played = play([(contender, seed) for seed in conditions.seeds], conditions)
    recorded = record(played, folder / "results.jsonl", {"evaluation": evaluation})
    title = f"{run.task} ({preset})"
    trials = [trial for _, trial in shown(recorded, total=conditions.episodes, title=title)]
    result = {
        "task": run.task,
        "goal": contender.goal,
        "trained_goal": run.goal,
        **summary(trials, timed=conditions.judge == "truth"),
        **training(run),
        "judge": conditions.judge,
        "preset": preset,
        "variation": conditions.variation,
        "first_seed": conditions.first_seed,
        "evaluation": evaluation,
        **circumstances(),
    }
    write_json(result_path(folder, result), result)
    return result


def result_path(folder: Path, result: Mapping[str, Any]) -> Path:
    """Return where a result belongs: one under other conditions than training's has its own file.

    `results.json` stays what the report and the committed tables read.
    """
    plain = result["goal"] == result["trained_goal"] and not result["variation"]
    return folder / ("results.json" if plain else f"results-{result['evaluation']}.json")


def goal_of(run: RunRecord, conditions: Conditions) -> str:
    """Return the sentence to be tried, as its task's form has it; raise `BadRun` for another task.

    Raise `UnknownGoal` for a sentence that is not understood.
    """
    if conditions.goal is None:
        return run.goal
    goal = parse_goal(conditions.goal)
    if goal.task != run.task:
        raise BadRun(
            f"goal={conditions.goal!r} is of the task {goal.task}, {run.folder} learnt {run.task}; "
            "give a sentence of that task",
            code=2,
        )
    return str(goal)


def record(
    played: Iterable[tuple[int, Trial]], path: Path, also: Mapping[str, object] | None = None
) -> Iterator[tuple[int, Trial]]:
    """Pass trials on, each written to a line of `path` as soon as it is over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for index, trial in played:
            file.write(json.dumps({**(also or {}), **asdict(trial)}) + "\n")
            file.flush()
            yield index, trial


def training(run: RunRecord) -> dict[str, object]:
    """Return what it took to train the policy."""
    return {
        "run": run.folder.name,
        "env_steps": run.env_steps,
        "updates": run.updates,
        "wall_s": round(run.wall_s, 1),
        "cpu_s": round(run.cpu_s, 1),
        "seed": run.seed,
        "actors": run.actors,
        "reward": run.reward,
        "git_revision": run.git_revision,
    }


def circumstances() -> dict[str, object]:
    """Return how and where this command was run."""
    return {
        "evaluated_revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def sentence(result: Mapping[str, Any]) -> str:
    """Return a result in one line."""
    lower, upper = (100 * bound for bound in result["wilson95"])
    median = result["time_to_success_s"]
    time = "" if median is None else f", median time to success {median:.1f} s"
    count = f"{result['successes']} of {result['episodes']} succeeded ({lower:.0f}-{upper:.0f} %)"
    return f"{result['goal']} {count}{time}"


def conditions_of(cfg: DictConfig) -> Conditions:
    """Return the conditions that a configuration names."""
    names = ("episodes", "judge", "preset", "processes", "first_seed")
    arms = [str(arm) for arm in cfg.get("arms") or ()]
    others = {name: cfg[name] for name in ("variation", "goal") if name in cfg}
    return Conditions(arms=arms, **{name: cfg[name] for name in names}, **others)


def evaluate(composed: Composed) -> int:
    """Evaluate a run's policy and write `results.jsonl` and `results.json` into its folder."""
    cfg = composed.cfg
    folder = find_run(str(cfg.run), RUNS).path
    result = evaluate_run(folder, conditions_of(cfg))
    if cfg.json:
        write_json(Path(cfg.json), result)
    say(sentence(result))
    say(f"results: {result_path(folder, result)}")
    return 0


def main() -> int:
    """Run the command line."""
    return run_main("evaluate", evaluate, list)


if __name__ == "__main__":
    sys.exit(main())
