"""Curves as a page draws them: in percent of a box whose size the page decides."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TICKS = 5
"""Most tick marks on an axis, beside the one at its start."""
MOST_POINTS = 160
"""A curve is thinned out to so many points."""

type Points = Sequence[tuple[float, float]]
type Marks = Sequence[tuple[float, float, str]]
"""What to say at which values of x and y."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    """Percent from the left or from the bottom."""
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis covers."""

    low: float
    high: float
    say: Callable[[float], str]
    """How a value is written."""

    def percent(self, value: float) -> float:
        """Return where a value is, from 0 at the start of the axis to 100 at its end."""
        return round(100 * (value - self.low) / ((self.high - self.low) or 1.0), 2)

    @property
    def ticks(self) -> list[Tick]:
        """Return marks at round values."""
        step = round_step((self.high - self.low) / TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [Tick(self.percent(i * step), self.say(i * step)) for i in range(first, last + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One series of a chart."""

    name: str
    colour: str
    """Name of a colour of the page's style."""
    line: str = ""
    """The `d` of an SVG path."""
    band: str = ""
    dots: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Some curves over one pair of axes."""

    x: Axis
    y: Axis
    curves: Sequence[Curve]
    marks: str
    """JSON, what to say beside which point: [percent from the left, percent from the top, text]."""


def chart(
    x: Axis, y: Axis, curves: Sequence[Curve], marks: Sequence[tuple[float, float, str]]
) -> Chart:
    """Return a chart."""
    placed = [[x.percent(at), round(100 - y.percent(value), 2), text] for at, value, text in marks]
    return Chart(x=x, y=y, curves=curves, marks=json.dumps(placed))


def path(x: Axis, y: Axis, points: Points) -> str:
    """Return a line through points as the `d` of an SVG path."""
    return "".join(f"{'L' if i else 'M'}{_at(x, y, point)}" for i, point in enumerate(points))


def band(x: Axis, y: Axis, lower: Points, upper: Points) -> str:
    """Return the area between two lines as the `d` of an SVG path."""
    return path(x, y, [*lower, *reversed(upper)]) + "Z" if lower else ""


def dots(x: Axis, y: Axis, points: Points) -> str:
    """Return points as lines of no length, which round caps make dots of."""
    return "".join(f"M{_at(x, y, point)}h0" for point in points)


def thinned[T](items: Sequence[T], most: int = MOST_POINTS) -> list[T]:
    """Return at most `most` items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def round_step(width: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `width`."""
    if width <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= width * (1 - 1e-9))


def thousands(value: float) -> str:
    """Return a count in a few characters."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value / 1000:.4g} k" if value >= 1000 else f"{value:.4g}"


def percentage(share: float) -> str:
    """Return a share as percent."""
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _at(x: Axis, y: Axis, point: tuple[float, float]) -> str:
    return f"{x.percent(point[0]):g} {100 - y.percent(point[1]):g}"
