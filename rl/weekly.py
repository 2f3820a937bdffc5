"""One page over all evaluations: `python -m rl.weekly out=FOLDER` writes FOLDER/index.html.

It shows every run in `runs=` and every committed result in `docs=`/results, and needs no network.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from rl.charts import Axis, Chart, Curve, chart, dots, duration, path, percentage, thousands
from rl.curves import SHARE, time_curve
from rl.evaluations import Evaluation, Found, compared, read_evaluations, versions
from rl.progress import say
from rl.trial import SATURATION_S
from robot.revision import git_revision
from robot.words import UsageError, parse_words

TEMPLATE = "weekly.html.j2"
TASKS = ("reach", "lift", "push", "place", "stack")
KNOWN = {"out": "runs/weekly", "runs": "runs", "docs": "docs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """What the page shows of one task."""

    task: str
    versions: Sequence[Evaluation]
    """Plain evaluations, the oldest first."""
    success: Chart
    times: Chart | None
    """Of the newest evaluation whose trials are kept."""
    timed: Evaluation | None


def contents(found: Found) -> dict[str, object]:
    """Return what the page shows."""
    by_task = versions(found.evaluations)
    order = [*TASKS, *sorted(by_task.keys() - set(TASKS))]
    return {
        "tasks": [task_view(task, by_task[task]) for task in order if task in by_task],
        "others": list(compared(found.evaluations)),
        "groundings": found.groundings,
        "left_out": found.left_out,
        "runs": len({one.run for one in found.evaluations}),
        "trials": sum(one.episodes for one in found.evaluations),
        "saturation_s": SATURATION_S,
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "revision": git_revision(),
    }


def task_view(task: str, found: Sequence[Evaluation]) -> TaskView:
    """Return what the page shows of a task that has been evaluated."""
    timed = next((one for one in reversed(found) if one.trials and one.judge == "truth"), None)
    times = time_curve(timed.trials) if timed else None
    return TaskView(
        task=task, versions=found, success=success_chart(found), times=times, timed=timed
    )


def success_chart(found: Sequence[Evaluation]) -> Chart:
    """Return the success of each version with its interval, by the number of its row."""
    x = Axis(low=0.0, high=len(found) + 1.0, say=lambda value: _row(value, len(found)))
    rows = list(enumerate(found, start=1))
    whiskers = "".join(path(x, SHARE, [(i, low), (i, high)]) for i, low, high in _intervals(rows))
    points = [(float(i), one.successes / one.episodes) for i, one in rows]
    marks = [
        (i, rate, f"{i}: {percentage(rate)}") for (i, rate), _ in zip(points, rows, strict=True)
    ]
    curve = Curve(name="success", colour="blue", line=whiskers, dots=dots(x, SHARE, points))
    return chart(x, SHARE, [curve], marks)


def _row(value: float, count: int) -> str:
    """Return the number of a row, nothing beside the rows."""
    return f"{value:g}" if value.is_integer() and 1 <= value <= count else ""


def _intervals(rows: Sequence[tuple[int, Evaluation]]) -> list[tuple[float, float, float]]:
    return [(float(i), *one.interval) for i, one in rows]


def write_page(out: Path, found: Found) -> Path:
    """Write `index.html` into a folder, whole or not at all, and return its path."""
    page = _template().render(contents(found))
    out.mkdir(parents=True, exist_ok=True)
    draft = out / ".index.html.part"
    draft.write_text(page, encoding="utf-8")
    return draft.replace(out / "index.html")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "percentage": percentage, "thousands": thousands}
    return environment.get_template(TEMPLATE)


def main(words: Sequence[str]) -> int:
    """Write the page, say where it is, return the exit code."""
    try:
        given = parse_words(words, known=KNOWN)
        found = _found(given)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    say(f"{len(found.evaluations)} evaluations: {write_page(Path(given['out']), found)}")
    return 0


def _found(given: Mapping[str, str]) -> Found:
    """Return what there is to show; raise `UsageError` where that is nothing."""
    runs, results, out = Path(given["runs"]), Path(given["docs"]) / "results", Path(given["out"])
    if out.exists() and not out.is_dir():
        raise UsageError(f"out={out} is a file; give a folder to write index.html into")
    found = read_evaluations(runs, results)
    if not found.evaluations:
        raise UsageError(f"no evaluation in {runs} or {results}; make evaluate RUN=… makes one")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
