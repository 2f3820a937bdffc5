"""The live view of a run: a panel in a terminal, a line now and then without one."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rl.figures import Figures
from rl.statistics import wilson

LINE_S, TROUBLE_S = 10.0, 2.0
"""Without a terminal one line is written this often, a first word of trouble sooner."""


class Terminal:
    """A panel that is drawn anew with every set of figures."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False)

    def show(self, figures: Figures) -> None:
        """Draw the figures."""
        self._live.update(panel(self._title, figures), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        self._live.update(Text(f"{self._title}\nstarting"), refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class Lines:
    """One line every ten seconds, and one soon when something begins to be wrong."""

    def __init__(
        self,
        title: str,
        write: Callable[[str], object] = sys.stdout.write,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._write, self._clock = title, write, clock
        self._due = float("-inf")
        self._troubles: Sequence[str] = ()

    def show(self, figures: Figures) -> None:
        """Write a line if it is time for one."""
        troubles, now = troubles_of(figures), self._clock()
        is_news = bool(troubles) and not self._troubles
        if now < self._due and not (is_news and now >= self._due - LINE_S + TROUBLE_S):
            return
        self._troubles, self._due = troubles, now + LINE_S
        self._write("; ".join([line(figures), *troubles]) + "\n")
        sys.stdout.flush()

    def __enter__(self) -> Self:
        self._write(self._title + "\n")
        sys.stdout.flush()
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()


def make_view(title: str) -> Terminal | Lines:
    """Return the view that fits where the output goes."""
    return Terminal(title) if sys.stdout.isatty() else Lines(title)


def panel(title: str, figures: Figures) -> RenderableType:
    """Return everything there is to see."""
    done, total = figures.counters.env_steps, figures.steps_total
    bar = Table.grid()
    bar.add_row(ProgressBar(total=total, completed=min(done, total), width=60))
    troubles = [Text(f"! {sentence}", style="yellow") for sentence in troubles_of(figures)]
    return Group(Text(title, style="bold"), bar, Text(line(figures)), arm_table(figures), *troubles)


def arm_table(figures: Figures) -> Table:
    """Return one row an arm: what it does and how its newest greedy episodes went."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("arm")
    table.add_column("success without exploring (95 % interval)")
    table.add_column("")
    for arm, word in sorted(figures.arms.items()):
        table.add_row(arm, rate(*figures.success.get(arm, (0, 0))), word)
    if len(figures.arms) > 1:
        table.add_row("all", rate(*figures.total_success), "", style="bold")
    return table


def line(figures: Figures) -> str:
    """Return the figures in one line."""
    counters = figures.counters
    audited = figures.audited
    audits = [f"{audited.right}/{audited.audits} audits right"] if audited.audits else []
    mean_return = "-" if figures.mean_return is None else f"{figures.mean_return:.1f}"
    return ", ".join(
        [
            f"{counters.env_steps}/{figures.steps_total} steps",
            f"{counters.episodes} episodes",
            f"success {rate(*figures.total_success)}",
            *audits,
            f"return {mean_return}",
            f"{figures.steps_per_s:.0f} steps/s",
            f"{counters.updates} updates at {figures.updates_per_s:.0f}/s",
            f"{duration(counters.wall_s)} so far",
            f"ETA {'-' if figures.eta_s is None else duration(figures.eta_s)}",
        ]
    )


def troubles_of(figures: Figures) -> list[str]:
    """Return a sentence for everything that is wrong."""
    sentences = [*figures.troubles]
    sentences += [
        f"{arm}: {word}" for arm, word in figures.arms.items() if word.startswith(("failed", "its"))
    ]
    if figures.counters.unlabelled:
        sentences.append(f"{figures.counters.unlabelled} episodes could not be judged")
    if figures.pending > 3 * max(1, len(figures.arms)):
        sentences.append(f"{figures.pending} episodes wait for their label")
    return sentences


def rate(successes: int, trials: int) -> str:
    """Return a success rate with its interval."""
    if not trials:
        return "-"
    lower, upper = wilson(successes, trials)
    return f"{successes}/{trials} ({100 * lower:.0f}-{100 * upper:.0f} %)"


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
