"""A line of the table: what was measured, of whom, and whether that is what was asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

COLUMNS = ("what", "ours", "other", "than", "ratio", "asked", "holds")
STORED = "stored"
"""Of figures that were measured before, on another machine, with one core for client and server."""

type Figure = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of ours, and the peer's beside it."""

    what: str
    """Of what, with the unit."""
    ours: Figure
    other: float | None = None
    than: str = ""
    """Whose the other figure is; it ends in `stored` where it was not measured in this run."""
    asked: str = ""
    holds: bool | None = None
    """None where nothing was asked, or nothing measured."""
    more: Mapping[str, object] = field(default_factory=dict[str, object])
    """What else was seen meanwhile."""

    @property
    def ratio(self) -> float | None:
        """Return how many times the other figure ours is."""
        if not isinstance(self.ours, int | float) or not self.other:
            return None
        return round(self.ours / self.other, 3)

    def to_json(self) -> dict[str, Any]:
        """Return all of it, the ratio as well."""
        return {**asdict(self), "ratio": self.ratio}

    @property
    def cells(self) -> tuple[str, ...]:
        """Return what each column shows."""
        holds = {None: "", True: "yes", False: "NO"}[self.holds]
        numbers = [_shown(value) for value in (self.ours, self.other, self.ratio)]
        return (self.what, numbers[0], numbers[1], self.than, numbers[2], self.asked, holds)


def not_measured(what: str, why: object) -> Row:
    """Return the row of something that cannot be had here, with the reason."""
    return Row(what=what, ours=f"not measured: {why}")


def table_of(rows: Sequence[Row]) -> Table:
    """Return the table for a terminal."""
    table = Table(*COLUMNS, title="policy server")
    for row in rows:
        table.add_row(*row.cells, style="bold red" if row.holds is False else None)
    return table


def _shown(value: Figure) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value
