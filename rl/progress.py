"""Trials as they end, in a terminal or in plain lines."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rl.statistics import wilson

if TYPE_CHECKING:
    from rl.trial import Trial

type Played = Iterable[tuple[int, "Trial"]]
PLAIN_LINES = 10
"""Lines of progress where there is no terminal."""


def shown(played: Played, *, total: int, title: str) -> Iterator[tuple[int, "Trial"]]:
    """Pass trials on and show how many there were and how they went."""
    return (_bar if sys.stdout.isatty() else _lines)(played, total, title)


def _bar(played: Played, total: int, title: str) -> Iterator[tuple[int, "Trial"]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[score]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(title, total=total, score="")
        successes = 0
        for done, (index, trial) in enumerate(played, start=1):
            successes += trial.success
            bar.update(task, completed=done, score=score(successes, done))
            yield index, trial


def _lines(played: Played, total: int, title: str) -> Iterator[tuple[int, "Trial"]]:
    successes = 0
    every = max(1, total // PLAIN_LINES)
    for done, (index, trial) in enumerate(played, start=1):
        successes += trial.success
        if done % every == 0 or done == total:
            say(f"{title}: {done}/{total} trials, {score(successes, done)}")
        yield index, trial


def score(successes: int, trials: int) -> str:
    """Return a success rate and its interval in a few characters."""
    lower, upper = wilson(successes, trials)
    return f"success {100 * successes / trials:.0f} % ({100 * lower:.0f}-{100 * upper:.0f})"


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
