"""Say which of two rewards teaches better: `python -m rl.ab_reward a=heuristic b=embedded`.

Both train on the same seeds, one run after another, with the same settings; every word that is not
listed in `KNOWN` is a setting of `rl.train` (`task=lift steps=20000`). All policies are then tried
on the same fresh layouts, judged by the twin's ground truth. What is there already is not done
again: the same command goes on where it was stopped.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rl.alarm import Alarm
from rl.command_line import CONF, STOPPED
from rl.curves import Line, confusion, windowed
from rl.evaluate import Conditions, circumstances, evaluate_run, write_json
from rl.progress import say
from rl.run_folder import EPISODES, RunFolder
from rl.run_record import BadRun, read_run
from rl.statistics import mcnemar_exact, wilson
from robot.words import UsageError, parse_words

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {
    **{"a": "heuristic", "b": "embedded", "seeds": "0,1", "episodes": "100"},
    **{"runs": "runs/ab_reward", "json": ""},
}
ENOUGH = 0.8
"""The success rate in practice that a reward is timed to, over at least `FEWEST` episodes."""
FEWEST = 10
FROZEN = 4
"""Exit code of a training whose updates were frozen: it has a policy all the same."""
HEAD = ("success", "95 %", f"steps to {ENOUGH:.0%}", "steps", "minutes")
COUNTS = ("false positives", "false negatives", "frozen")

type Train = Callable[[Sequence[str]], int]
"""Runs `rl.train` with some words and returns its exit code."""
type Evaluate = Callable[[Path, Conditions], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What is compared, and how."""

    a: str
    b: str
    """Options of conf/reward."""
    seeds: Sequence[int]
    episodes: int
    """Trials of each policy."""
    runs: Path
    json: Path | None = None
    """Where the result goes; beside the runs if not said."""
    settings: Sequence[str] = ()
    """Words for every training."""

    def __post_init__(self) -> None:
        for reward in (self.a, self.b):
            if not (CONF / "reward" / f"{reward}.yaml").is_file():
                known = ", ".join(sorted(path.stem for path in (CONF / "reward").glob("*.yaml")))
                raise UsageError(f"unknown reward {reward!r}; known: {known}")
        if self.a == self.b:
            raise UsageError(f"A and B are both {self.a!r}; give two rewards")
        if not self.seeds or self.episodes < 1:
            raise UsageError("expected at least one seed and one episode")
        for word in self.settings:
            name = word.partition("=")[0]
            if "=" not in word or name in {"reward", "seed", "resume", "evaluation_episodes"}:
                raise UsageError(f"{word!r} is no setting that both trainings could share")


def train_here(words: Sequence[str]) -> int:
    """Run a training in a process of its own, which shows its progress, and return its code."""
    command = [sys.executable, "-m", "rl.train", *words]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603 - our module


def compare(
    contest: Contest, *, train: Train = train_here, evaluate: Evaluate = evaluate_run
) -> Mapping[str, object]:
    """Train and try all that is not there yet and return the comparison; raise `BadRun`."""
    conditions = Conditions(episodes=contest.episodes)
    rows: list[Mapping[str, Any]] = []
    for seed in contest.seeds:
        for reward in (contest.a, contest.b):
            folder = trained(contest, reward, seed, train)
            result = _known(folder, conditions) or evaluate(folder, conditions)
            rows.append(row_of(folder, reward, seed, result))
    trials = {reward: _outcomes(contest, rows, reward) for reward in (contest.a, contest.b)}
    return {
        "a": contest.a,
        "b": contest.b,
        "settings": list(contest.settings),
        "runs": rows,
        **verdict(rows, contest, trials),
        **circumstances(),
    }


def trained(contest: Contest, reward: str, seed: int, train: Train) -> Path:
    """Return the folder of a training, which is begun or gone on with unless it is over."""
    place = contest.runs / f"{reward}-seed{seed}"
    if (found := _finished(place, contest)) is not None:
        say(f"{reward}, seed {seed}: {found} is there")
        return found
    given = _only_run(place)
    say(f"{reward}, seed {seed}: {'trains' if given is None else f'goes on with {given}'}")
    words = [f"reward={reward}", f"seed={seed}", f"runs={place}", *contest.settings]
    words += ["evaluation_episodes=0", "audit.patience_s=0"]
    code = train([*words, *([f"resume={given.name}"] if given else [])])
    folder = _only_run(place)
    if code == STOPPED:
        raise BadRun("stopped; the same command goes on", code=STOPPED)
    if folder is None or code not in (0, FROZEN):
        raise BadRun(f"the training of {reward}, seed {seed}, ended with {code}; see above")
    write_json(place / "over.json", {"settings": list(contest.settings), "code": code})
    return folder


def row_of(folder: Path, reward: str, seed: int, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures of one run."""
    run, lines = read_run(folder), list(RunFolder(folder).lines(EPISODES))
    frozen = Alarm(folder).frozen
    said = confusion(lines)
    return {
        "reward": reward,
        "seed": seed,
        "run": folder.name,
        "successes": result["successes"],
        "episodes": result["episodes"],
        "wilson95": result["wilson95"],
        "steps_to_enough": steps_to(lines, ENOUGH),
        "env_steps": run.env_steps,
        "wall_s": round(run.wall_s, 1),
        "false_positives": said["false_alarm"],
        "false_negatives": said["miss"],
        "judged_episodes": sum(said.values()),
        "frozen": frozen.why if frozen else None,
    }


def steps_to(lines: Sequence[Line], share: float) -> int | None:
    """Return after how many steps practice succeeded so often, on ground truth; None if never.

    Counted over the newest episodes at each moment, those without exploration where there are any.
    """
    true = [line for line in lines if line.get("truth")]
    counted = [line for line in true if line.get("greedy")] or true
    rates = windowed(counted, lambda line: float(bool(line["truth"]["success"])))
    reached = (rate for rate in rates if rate.count >= FEWEST and rate.rate >= share)
    return next((round(rate.step) for rate in reached), None)


def verdict(
    rows: Sequence[Mapping[str, Any]],
    contest: Contest,
    trials: Mapping[str, Mapping[tuple[int, int], bool]],
) -> Mapping[str, object]:
    """Return both rewards' success over all seeds, and whether the difference is one."""
    pooled = {reward: _pooled(rows, reward) for reward in (contest.a, contest.b)}
    a, b = trials[contest.a], trials[contest.b]
    pairs = [(a[key], b[key]) for key in a.keys() & b.keys()]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    rates = [pooled[reward]["success_rate"] for reward in (contest.a, contest.b)]
    return {
        "pooled": pooled,
        "difference_points": round(100 * (rates[0] - rates[1]), 1),
        "pairs": len(pairs),
        "only_a": only_a,
        "only_b": only_b,
        "p_value": round(mcnemar_exact(only_a, only_b), 4),
    }


def _pooled(rows: Iterable[Mapping[str, Any]], reward: str) -> dict[str, Any]:
    mine = [row for row in rows if row["reward"] == reward]
    successes, trials = (sum(row[name] for row in mine) for name in ("successes", "episodes"))
    return {
        "successes": successes,
        "episodes": trials,
        "success_rate": successes / trials,
        "wilson95": [round(bound, 4) for bound in wilson(successes, trials)],
        **{
            name: sum(row[name] for row in mine)
            for name in ("false_positives", "false_negatives", "judged_episodes")
        },
    }


def _outcomes(
    contest: Contest, rows: Iterable[Mapping[str, Any]], reward: str
) -> Mapping[tuple[int, int], bool]:
    """Return the newest outcome of a reward's policies by the seeds of training and layout."""
    found: dict[tuple[int, int], bool] = {}
    for row in rows:
        if row["reward"] != reward:
            continue
        folder = RunFolder(contest.runs / f"{reward}-seed{row['seed']}" / row["run"])
        lines = folder.lines("results.jsonl")
        found |= {(row["seed"], int(line["seed"])): bool(line["success"]) for line in lines}
    return found


def _only_run(place: Path) -> Path | None:
    found = sorted(path for path in place.glob("[!.]*") if (path / "run.json").is_file())
    if len(found) > 1:
        raise BadRun(f"{place} holds {len(found)} runs; leave the one that counts", code=2)
    return found[0] if found else None


def _finished(place: Path, contest: Contest) -> Path | None:
    """Return a run that is over; raise `BadRun` where it was trained with other settings."""
    try:
        said = json.loads((place / "over.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if said.get("settings") != list(contest.settings):
        raise BadRun(f"{place} was trained with {said.get('settings')}; give other runs=", code=2)
    return _only_run(place)


def _known(folder: Path, conditions: Conditions) -> Mapping[str, Any] | None:
    """Return a run's result if it was tried on these very layouts."""
    try:
        result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = (conditions.episodes, conditions.first_seed, conditions.judge)
    names = ("episodes", "first_seed", "judge")
    return result if tuple(result.get(name) for name in names) == wanted else None


def table(result: Mapping[str, Any]) -> Table:
    """Return the comparison for a terminal."""
    shown = Table(
        title=f"{result['a']} against {result['b']}: difference "
        f"{result['difference_points']:+g} points, p = {result['p_value']:g}"
    )
    for name in ("reward", "seed", *HEAD, *COUNTS):
        shown.add_column(name, justify="right")
    for row in result["runs"]:
        lower, upper = (100 * bound for bound in row["wilson95"])
        reached = row["steps_to_enough"]
        shown.add_row(
            row["reward"],
            str(row["seed"]),
            f"{row['successes']}/{row['episodes']}",
            f"{lower:.0f}-{upper:.0f}",
            "never" if reached is None else str(reached),
            str(row["env_steps"]),
            f"{row['wall_s'] / 60:.1f}",
            f"{row['false_positives']}/{row['judged_episodes']}",
            f"{row['false_negatives']}/{row['judged_episodes']}",
            "yes" if row["frozen"] else "",
        )
    return shown


def contest_of(words: Sequence[str]) -> Contest:
    """Return what the words ask for; raise `UsageError` for those that make no sense."""
    mine = [word for word in words if word.partition("=")[0] in KNOWN]
    given = parse_words(mine, known=KNOWN)
    try:
        seeds = [int(part) for part in given["seeds"].split(",")]
        episodes = int(given["episodes"])
    except ValueError as error:
        raise UsageError(f"seeds= and episodes= are whole numbers: {error}") from None
    return Contest(
        a=given["a"],
        b=given["b"],
        seeds=seeds,
        episodes=episodes,
        runs=Path(given["runs"]),
        json=Path(given["json"]) if given["json"] else None,
        settings=[word for word in words if word not in mine],
    )


def main(words: Sequence[str]) -> int:
    """Compare two rewards, print the table and write it; return the exit code."""
    try:
        result = compare(contest := contest_of(words))
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except BadRun as error:
        sys.stderr.write(f"error: {error}\n")
        return error.code
    path = contest.json or contest.runs / f"{contest.a}-{contest.b}.json"
    write_json(path, result)
    Console().print(table(result))
    say(f"result: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
