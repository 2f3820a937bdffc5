"""Say which of two policies is better: `python -m rl.ab a=RUN b=RUN episodes=100`."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.command_line import Composed, find_run, run_main
from rl.evaluate import (
    RUNS,
    circumstances,
    conditions_of,
    record,
    summary,
    training,
    write_json,
)
from rl.progress import say, shown
from rl.run_record import BadRun, RunRecord, read_run
from rl.statistics import PairedTest, mcnemar_exact
from rl.trial import Trial
from rl.trial_pool import Conditions, Job, contender_of, play

NAMES = ("A", "B")
LEVEL = 0.05
"""Chance of finding a difference where there is none."""
type Pair = tuple[Trial, Trial]


def compare(
    a: Path, b: Path, conditions: Conditions, *, sequential: bool, out: Path
) -> dict[str, object]:
    """Try two runs on the same layouts and return what differs; each trial goes to a line of `out`.

    `sequential` looks after every pair and stops as soon as the difference is certain enough.
    """
    runs = (read_run(a), read_run(b))
    if runs[0].goal != runs[1].goal:
        goals = f"{a} learnt {runs[0].goal!r}, {b} {runs[1].goal!r}"
        raise BadRun(f"{goals}; give two runs of one goal", code=2)
    preset = conditions.preset or runs[0].preset
    jobs = schedule(runs, conditions.seeds, preset)
    title = f"{runs[0].task} ({preset}), both"
    played = shown(record(play(jobs, conditions), out), total=len(jobs), title=title)
    pairs = list(decided(paired(played, jobs, runs), test_after_each=sequential))
    return verdict(runs, pairs, sequential=sequential) | {
        "judge": conditions.judge,
        "preset": preset,
        "first_seed": conditions.first_seed,
        **circumstances(),
    }


def schedule(runs: Sequence[RunRecord], seeds: Iterable[int], preset: str) -> list[Job]:
    """Return one trial of each run a seed; a draw says which comes first, so nobody can know."""
    players = [contender_of(run, preset) for run in runs]
    order = np.random.default_rng(0)
    return [(players[i], seed) for seed in seeds for i in order.permutation(len(players))]


def paired(
    played: Iterable[tuple[int, Trial]], jobs: Sequence[Job], runs: Sequence[RunRecord]
) -> Iterator[Pair]:
    """Yield the trials of A and B on one seed, in the order of the seeds whatever ended first."""
    ended: dict[int, Trial] = {}
    following = 0
    for index, trial in played:
        ended[index] = trial
        while following in ended and following + 1 in ended:
            pair = ended[following], ended[following + 1]
            a_first = jobs[following][0].policy == runs[0].policy
            yield pair if a_first else (pair[1], pair[0])
            following += 2


def decided(pairs: Iterable[Pair], *, test_after_each: bool) -> Iterator[Pair]:
    """Pass pairs on, with `test_after_each` only until the difference is certain enough."""
    test = PairedTest()
    for count, (a, b) in enumerate(pairs, start=1):
        yield a, b
        test = test.after(a=a.success, b=b.success)
        if test_after_each and test.p_value <= LEVEL:
            say(f"stopped after {count} pairs: the difference is certain enough")
            return


def verdict(
    runs: Sequence[RunRecord], pairs: Sequence[Pair], *, sequential: bool
) -> dict[str, object]:
    """Return both results and what the pairs say of the difference."""
    test = PairedTest()
    for a, b in pairs:
        test = test.after(a=a.success, b=b.success)
    p_value = test.p_value if sequential else mcnemar_exact(test.only_a, test.only_b)
    better = NAMES[test.only_b > test.only_a] if p_value <= LEVEL else None
    return {
        "goal": runs[0].goal,
        "pairs": len(pairs),
        "only_a": test.only_a,
        "only_b": test.only_b,
        "difference": round((test.only_a - test.only_b) / len(pairs), 4),
        "test": "betting, anytime-valid" if sequential else "McNemar, exact",
        "p_value": p_value,
        "better": better,
        **{
            name.lower(): {**summary([pair[i] for pair in pairs]), **training(runs[i])}
            for i, name in enumerate(NAMES)
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the comparison as a few lines of text."""
    better = result["better"]
    return "\n".join(
        [
            f"{result['goal']}  ({result['pairs']} layouts, the same for both)",
            *(_row(name, result[name.lower()]) for name in NAMES),
            f"  only A {result['only_a']}, only B {result['only_b']}; "
            f"{result['test']}: p = {result['p_value']:.3g}",
            f"  {better} is better." if better else "  The difference is not certain.",
        ]
    )


def _row(name: str, one: Mapping[str, Any]) -> str:
    lower, upper = (100 * bound for bound in one["wilson95"])
    rate = f"{one['successes']}/{one['episodes']} ({lower:.0f}-{upper:.0f} %)"
    median = one["time_to_success_s"]
    time = "-" if median is None else f"{median:.1f} s"
    return f"  {name}  {rate:<22} {time:>7}  {one['run']}"


def ab(composed: Composed) -> int:
    """Compare two runs, print the table and write it as JSON."""
    cfg = composed.cfg
    a, b = (find_run(str(run), RUNS).path for run in (cfg.a, cfg.b))
    out = Path(cfg.trials)
    result = compare(a, b, conditions_of(cfg), sequential=cfg.sequential, out=out)
    if cfg.json:
        write_json(Path(cfg.json), result)
    say(table(result))
    return 0


def main() -> int:
    """Run the command line."""
    return run_main("ab", ab, list)


if __name__ == "__main__":
    sys.exit(main())
