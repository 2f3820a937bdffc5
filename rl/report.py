"""One page that shows a run: `python -m rl.report run=RUN` writes RUN/report.html."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from rl.alarm import FROZEN, Alarm, Event
from rl.audit import AUDITS, audited
from rl.charts import Chart, Curve, duration, path, percentage, thousands
from rl.clips import chosen, clip
from rl.curves import (
    Line,
    agreement_curve,
    confusion,
    guard_curve,
    return_curve,
    success_curve,
    time_curve,
)
from rl.progress import say
from rl.report_tracking import followed
from rl.run_folder import RunFolder
from rl.run_record import BadRun, read_facts
from rl.statistics import wilson

RUNS = Path("runs")
TEMPLATE = "report.html.j2"
RECENT = 50
"""Without an evaluation the headline counts so many episodes of practice."""
AUDITS_SHOWN = 12
PARTS = {
    "update": "updating the policy",
    "wait": "waiting for the arms",
    "gather": "collecting episodes",
    "add": "filling the replay",
    "label": "labelling",
    "render": "drawing",
    "publish": "handing out policies",
    "checkpoint": "checkpoints",
}
"""What the parts of the driver's time are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """How well the policy does, in one figure and what it rests on."""

    successes: int
    trials: int
    basis: str

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval."""
        return wilson(self.successes, self.trials)


def write_report(folder: Path) -> Path:
    """Write a run's `report.html`, whatever state the run is in; raise `BadRun` if it is none."""
    facts = read_facts(folder)
    page = _page().render(contents(RunFolder(folder), facts))
    path = folder / "report.html"
    draft = path.with_name(".report.html.part")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)
    return path


def contents(run: RunFolder, facts: Mapping[str, object]) -> dict[str, object]:
    """Return what the page shows of a run."""
    episodes = list(run.lines("episodes.jsonl"))
    metrics = list(run.lines("metrics.jsonl"))
    result = _result(run.path)
    trials = _trials(run, result)
    alarm = Alarm(run.path)
    clips = [clip(run.path, title, line) for title, line in chosen(episodes)]
    return {
        "run": run.path.name,
        "facts": facts,
        "result": result,
        "headline": headline(result, episodes),
        "charts": charts(episodes, trials, alarm.events),
        "audit": audit_table(run, alarm, episodes),
        "confusion": confusion(episodes),
        "unlabelled": sum(not line.get("transitions") for line in episodes),
        "parts": parts(metrics),
        "guard_events": (result or {}).get("guard_events") or {},
        "clips": [each for each in clips if each],
        "followed": followed(run.path, episodes),
        "config": _text(run.path / "config.yaml"),
        "result_json": json.dumps(result, indent=2) if result else None,
    }


def headline(result: Mapping[str, Any] | None, episodes: Sequence[Line]) -> Headline | None:
    """Return the evaluation's figure, else that of the newest practice without exploration."""
    if result:
        judge = "ground truth of the twin" if result["judge"] == "truth" else "a person"
        basis = f"fresh layouts that training never saw, judged by {judge}"
        return Headline(successes=result["successes"], trials=result["episodes"], basis=basis)
    judged = [line for line in episodes if line.get("truth") and line.get("greedy")][-RECENT:]
    if not judged:
        return None
    successes = sum(bool(line["truth"]["success"]) for line in judged)
    basis = "newest episodes of practice without exploration; no evaluation yet"
    return Headline(successes=successes, trials=len(judged), basis=basis)


def charts(
    episodes: Sequence[Line],
    trials: Sequence[Mapping[str, Any]],
    events: Sequence[Event] = (),
) -> dict[str, Chart | None]:
    """Return the charts that there is something to draw for."""
    return {
        "success": marked(success_curve(episodes), events),
        "agreement": marked(agreement_curve(episodes), events),
        "returns": return_curve(episodes),
        "guard": guard_curve(episodes),
        "times": time_curve(trials),
    }


def marked(chart: Chart | None, events: Sequence[Event]) -> Chart | None:
    """Return a chart with an upright line wherever updates were frozen."""
    steps = [float(event.env_steps) for event in events if event.event == FROZEN]
    if chart is None or not steps:
        return chart
    x, y = chart.x, chart.y
    lines = "".join(path(x, y, [(step, y.low), (step, y.high)]) for step in steps)
    mark = Curve(name="updates frozen", colour="bad", line=lines)
    return replace(chart, curves=[*chart.curves, mark])


def audit_table(
    run: RunFolder, alarm: Alarm, episodes: Sequence[Line]
) -> Mapping[str, object] | None:
    """Return what the audits say, the newest of them and the alarm's events; None without any."""
    lines = list(run.lines(AUDITS))
    if not (lines or alarm.events):
        return None
    known = {line.get("file"): line for line in episodes}
    rows = [{**known.get(line.get("file"), {}), **line} for line in lines[-AUDITS_SHOWN:]]
    return {"stands": audited(run), "rows": rows[::-1], "events": alarm.events}


def parts(metrics: Sequence[Line]) -> list[tuple[str, float, float]]:
    """Return where the driver's time went: name, seconds, share; the largest first."""
    if not metrics:
        return []
    last = metrics[-1]
    spent = {
        key.removeprefix("time/").removesuffix("_s"): float(seconds)
        for key, seconds in last.items()
        if key.startswith("time/")
    }
    total = max(sum(spent.values()), float(last.get("wall_s", 0.0)))
    spent["other"] = total - sum(spent.values())
    shares = [(PARTS.get(n, n), s, s / total) for n, s in spent.items() if s > 0.005 * total]
    return sorted(shares, key=lambda part: -part[1])


def _result(folder: Path) -> Mapping[str, Any] | None:
    try:
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _trials(run: RunFolder, result: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the trials that the result was counted from."""
    if not result or result["judge"] != "truth":
        return []
    newest = result["evaluation"]
    return [line for line in run.lines("results.jsonl") if line.get("evaluation") == newest]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _page() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"duration": duration, "percentage": percentage, "thousands": thousands}
    return environment.get_template(TEMPLATE)


def main(words: Sequence[str]) -> int:
    """Write the report of the run that `run=RUN` names, say where it is, return the exit code."""
    try:
        say(f"report: {write_report(_named(words))}")
    except BadRun as error:
        sys.stderr.write(f"error: {error}\n")
        return error.code
    return 0


def _named(words: Sequence[str]) -> Path:
    name, _, run = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if name != "run" or not run:
        given = " ".join(words) or "nothing"
        raise BadRun(f"expected run=RUN, got {given}; use `make report RUN=runs/...`", code=2)
    return Path(run) if Path(run).is_dir() else RUNS / run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
