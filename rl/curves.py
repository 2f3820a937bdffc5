"""The curves of a run: success, what the reward model said of it, returns, the guard's work."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from rl.charts import Axis, Chart, Curve, band, chart, dots, path, percentage, thinned, thousands
from rl.statistics import wilson

type Line = Mapping[str, Any]
"""What a run kept of an episode, from its `episodes.jsonl`."""
FEWEST = 3
"""Fewer episodes than these make no mean, and one more makes a curve."""
SHARE = Axis(low=0.0, high=1.0, say=percentage)


def success_curve(lines: Sequence[Line]) -> Chart | None:
    """Return success on ground truth over practice: without exploration, and with it."""
    judged = [line for line in lines if line.get("truth")]
    groups = [
        ("exploring", "muted", [line for line in judged if not line.get("greedy")]),
        ("without exploration", "blue", [line for line in judged if line.get("greedy")]),
    ]
    drawn = [(n, c, windowed(group, _truth)) for n, c, group in groups if len(group) > FEWEST]
    if not drawn:
        return None
    x = _steps(lines)
    curves = [
        _curve(x, name, colour, rates, interval=colour == "blue") for name, colour, rates in drawn
    ]
    return chart(x, SHARE, curves, [_mark(rate) for rate in drawn[-1][2]])


def agreement_curve(lines: Sequence[Line]) -> Chart | None:
    """Return success over all labelled episodes, by the reward model and by ground truth."""
    both = [line for line in lines if line.get("truth") and line.get("transitions")]
    if len(both) <= FEWEST:
        return None
    x = _steps(lines)
    said, true = windowed(both, _said), windowed(both, _truth)
    marks = [
        (a.step, a.rate, f"{_at(a)}: said {percentage(a.rate)}, true {percentage(b.rate)}")
        for a, b in zip(said, true, strict=True)
    ]
    curves = [_curve(x, "ground truth", "blue", true), _curve(x, "reward model", "orange", said)]
    return chart(x, SHARE, curves, marks)


def confusion(lines: Sequence[Line]) -> dict[str, int]:
    """Return how often the reward model and ground truth said what of labelled episodes."""
    both = [line for line in lines if line.get("truth") and line.get("transitions")]
    count = {"hit": 0, "false_alarm": 0, "miss": 0, "rejection": 0}
    for line in both:
        said, true = _said(line), _truth(line)
        outcome = ("miss", "hit") if true else ("rejection", "false_alarm")
        count[outcome[said]] += 1
    return count


def return_curve(lines: Sequence[Line]) -> Chart | None:
    """Return each episode's return and the mean of those around it."""
    known = [line for line in lines if line.get("return") is not None]
    if len(known) <= FEWEST:
        return None
    returns = [float(line["return"]) for line in known]
    x = _steps(lines)
    y = _padded(min(returns), max(returns))
    points = [(float(line["env_steps"]), float(line["return"])) for line in known]
    mean = [(rate.step, rate.rate) for rate in windowed(known, lambda line: float(line["return"]))]
    curves = [
        Curve(name="an episode", colour="faint", dots=dots(x, y, thinned(points, 400))),
        Curve(name="mean", colour="blue", line=path(x, y, mean)),
    ]
    return chart(x, y, curves, [(at, r, f"{thousands(at)} steps: {r:.1f}") for at, r in mean])


def guard_curve(lines: Sequence[Line]) -> Chart | None:
    """Return how often the guard changed a command, per step of practice."""
    known = [line for line in lines if line.get("guard_events") is not None and line.get("steps")]
    if len(known) <= FEWEST:
        return None
    rates = windowed(known, lambda line: events(line["guard_events"]) / line["steps"])
    x, y = _steps(lines), _padded(0.0, max(rate.rate for rate in rates) or 1.0)
    marks = [(rate.step, rate.rate, f"{_at(rate)}: {rate.rate:.2f} a step") for rate in rates]
    line = path(x, y, [(rate.step, rate.rate) for rate in rates])
    curve = Curve(name="guard events a step", colour="orange", line=line)
    return chart(x, y, [curve], marks)


def time_curve(trials: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return which share of trials had succeeded after which time."""
    if not trials:
        return None
    ends = sorted(float(trial["time_s"]) for trial in trials if trial["success"])
    last = max(float(trial["time_s"]) for trial in trials)
    x = Axis(low=0.0, high=last, say=lambda value: f"{value:g} s")
    total = len(trials)
    corners = [(0.0, 0.0)]
    for count, end in enumerate(ends, start=1):
        corners += [(end, (count - 1) / total), (end, count / total)]
    corners.append((last, len(ends) / total))
    marks = [
        (end, i / total, f"{end:.1f} s: {percentage(i / total)}") for i, end in enumerate(ends, 1)
    ]
    curve = Curve(name="succeeded", colour="blue", line=path(x, SHARE, corners))
    return chart(x, SHARE, [curve], marks)


class Rate:
    """A mean over the newest episodes up to a step of practice."""

    def __init__(self, step: float, values: Sequence[float]) -> None:
        self.step, self.count = step, len(values)
        self.rate = sum(values) / self.count
        self._sum = sum(values)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the Wilson interval, where the values are 0 or 1."""
        return wilson(round(self._sum), self.count)


def windowed(lines: Sequence[Line], value: Callable[[Line], float]) -> list[Rate]:
    """Return the mean of `value` over a window that ends at each episode, once there are a few."""
    width = min(40, max(10, len(lines) // 12))
    values = [float(value(line)) for line in lines]
    ends = range(FEWEST, len(lines) + 1)
    return [
        Rate(float(lines[end - 1]["env_steps"]), values[max(0, end - width) : end])
        for end in thinned(ends)
    ]


def events(said: object) -> int:
    """Return how many guard events an episode had, whether it kept their number or each rule's."""
    if isinstance(said, Mapping):
        return sum(cast("Mapping[str, int]", said).values())
    return int(said) if isinstance(said, int | float) else 0


def _curve(
    x: Axis, name: str, colour: str, rates: Sequence[Rate], *, interval: bool = False
) -> Curve:
    line = path(x, SHARE, [(rate.step, rate.rate) for rate in rates])
    if not interval:
        return Curve(name=name, colour=colour, line=line)
    lower = [(rate.step, rate.interval[0]) for rate in rates]
    upper = [(rate.step, rate.interval[1]) for rate in rates]
    return Curve(name=name, colour=colour, line=line, band=band(x, SHARE, lower, upper))


def _mark(rate: Rate) -> tuple[float, float, str]:
    lower, upper = (100 * bound for bound in rate.interval)
    interval = f"{lower:.0f}-{upper:.0f} %, last {rate.count}"
    return rate.step, rate.rate, f"{_at(rate)}: {percentage(rate.rate)} ({interval})"


def _at(rate: Rate) -> str:
    return f"{thousands(rate.step)} steps"


def _steps(lines: Sequence[Line]) -> Axis:
    return Axis(low=0.0, high=max(float(line["env_steps"]) for line in lines), say=thousands)


def _padded(low: float, high: float) -> Axis:
    margin = 0.05 * ((high - low) or 1.0)
    start = low - margin if low else 0.0
    return Axis(low=start, high=high + margin, say=lambda value: f"{value:.4g}")


def _truth(line: Line) -> bool:
    return bool(line["truth"]["success"])


def _said(line: Line) -> bool:
    return bool(line["rewarded_success"])
