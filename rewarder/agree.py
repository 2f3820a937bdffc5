"""Measure how far a reward model agrees with a labelled set: `python -m rewarder.agree`.

`make agreement REWARD=embedded SET=twin200` prints a table, writes it as JSON and leaves a page
with the pictures of every clip that was judged wrongly. `gate=true` makes a failure the exit code.
"""

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rewarder.agreement import Agreement, Share, Verdict, judge, measure
from rewarder.clip_set import BadSet, ClipSet
from rewarder.entry import composed, find_set, run_tool, watched
from rewarder.gallery import gallery
from rewarder.statistics import Kappa
from robot.revision import git_revision
from robot.sealed import make_folder, seal

OUT = Path("runs/agreement")


def run(words: Sequence[str]) -> int:
    """Measure, print and write as the words say; return the exit code."""
    asked = composed("agreement", words)
    cfg = asked.cfg
    found = find_set(str(cfg.set))
    rater = str(cfg.rater or found.info.reference)
    truth = _labels(found, rater)
    clips = watched(found, truth, f"{asked.reward} on {found.info.name}")
    verdicts = list(judge(asked.model(), clips, truth))
    agreement = measure(verdicts)
    folder = Path(cfg.out or OUT / f"{found.info.name}-{asked.reward}")
    make_folder(folder)
    title = f"{asked.reward} on {found.info.name}, labels: {_whose(found, rater)}"
    seal(folder / "gallery.html", gallery(title, agreement, verdicts, found.clips).encode())
    said = result(found, rater, asked.reward, agreement, verdicts)
    for path in (folder / "agreement.json", *([Path(cfg.json)] if cfg.json else [])):
        seal(path, (json.dumps(said, indent=2) + "\n").encode())
    _print(title, agreement, found, rater, folder)
    return 1 if cfg.gate and agreement.shortfalls else 0


def _labels(found: ClipSet, rater: str) -> dict[str, bool]:
    truth = found.truth(rater)
    if not truth:
        raise BadSet(
            f"{rater!r} has labelled no clip of {found.folder}; raters there: "
            f"{', '.join(found.raters) or 'none'}; label some with make label"
        )
    return truth


def _whose(found: ClipSet, rater: str) -> str:
    return found.info.raters.get(rater, rater)


def result(
    found: ClipSet, rater: str, reward: str, agreement: Agreement, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Return what is written of a measurement, as JSON has it."""
    return {
        "set": found.info.name,
        "set_frozen": found.frozen,
        "rater": rater,
        "labels": dict(found.info.raters),
        "reward": reward,
        "model": next((verdict.model for verdict in verdicts if verdict.model), None),
        "g3": {"passed": not agreement.shortfalls, "shortfalls": agreement.shortfalls},
        **asdict(agreement),
        "raters": {who: asdict(kappa) for who, kappa in between_raters(found, rater)},
        "git_revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "command": shlex.join(["python", "-m", "rewarder.agree", *sys.argv[1:]]),
        "verdicts": [_plain(asdict(verdict)) for verdict in verdicts],
    }


def between_raters(found: ClipSet, rater: str) -> Iterator[tuple[str, Kappa]]:
    """Return how others agree with a rater, and each with an own second look, where they do."""
    for other in found.raters:
        beside = (
            [] if other == rater else [(f"{other} beside {rater}", found.between(rater, other))]
        )
        for who, kappa in (*beside, (f"{other}, second look", found.second_look(other))):
            if kappa.count:
                yield who, kappa


def _plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them, which knows no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in said.items()
    }


def _print(title: str, agreement: Agreement, found: ClipSet, rater: str, folder: Path) -> None:
    console = Console()
    console.print(_figures(title, agreement))
    console.print(_kinds(agreement))
    for who, kappa in between_raters(found, rater):
        beyond = "" if kappa.kappa is None else f", kappa {kappa.kappa:.2f}"
        console.print(f"{who}: {kappa.share:.1%} of {kappa.count}{beyond}", soft_wrap=True)
    shortfalls = agreement.shortfalls
    verdict = f"no pass: {'; '.join(shortfalls)}" if shortfalls else "pass"
    console.print(f"G3: {verdict}; accuracy is at least {agreement.accuracy.lower:.1%} (95 %)")
    console.print(f"wrong clips: {folder / 'gallery.html'}", soft_wrap=True)


def _figures(title: str, agreement: Agreement) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in (
        ("accuracy, no verdict = no", agreement.accuracy),
        ("accuracy where judged", agreement.accuracy_judged),
        ("judged", agreement.judged),
        ("balanced accuracy", agreement.balanced_accuracy),
        ("AUC, successes over failures", agreement.auc),
        ("precision", agreement.precision),
        ("recall", agreement.recall),
        ("failures called done (false)", agreement.false_successes),
        ("calibration error (ECE)", agreement.ece),
        ("Cohen's kappa", agreement.kappa),
        ("accuracy of always saying no", agreement.constant_no),
    ):
        table.add_row(name, _words(value))
    return table


def _kinds(agreement: Agreement) -> Table:
    table = Table("judged rightly", "share", title="by kind and task")
    for name, value in (*agreement.by_kind.items(), *agreement.by_task.items()):
        table.add_row(name, _words(value))
    return table


def _words(value: Share | float | None) -> str:
    if isinstance(value, Share):
        part = "-" if value.share is None else f"{value.share:.1%}"
        return f"{part}  {value.hits}/{value.of}  [{value.lower:.1%}, {value.upper:.1%}]"
    return "-" if value is None else f"{value:.3f}"


def main() -> int:
    """Run the command line."""
    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
