"""The table as a person reads it: in a terminal, and as `docs/safety.md`."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

from ops.safety_checks.row import COLUMNS, Row

STYLES = {"pass": "green", "pass so far": "yellow", "FAIL": "bold red", "not measured": "dim"}
HEAD = """\
# What was measured of safety and durability

Written by `make safety` from `docs/safety.json`: do not edit. Nothing here was measured on
a physical arm, and no certified safety function is claimed: the emergency stop of a real arm is a
switch in the supply of its servos.

A row says `pass` only where the promise never broke in as many trials as it asks for; with fewer
trials it says `pass so far`. After n trials without a failure, rates of failure above 3/n are
excluded at 95 %. A figure such as p99.9 takes 2,995 trials. "The rig's own noise" is what the way
of measuring itself adds: subtract it before you blame or praise the arm's process.

Emulated servos have no heat of their own beyond a simple model, no backlash, no gear wear and no
lag of a real bus; a time measured here is that of the software alone.
"""


def terminal_table(rows: Sequence[Row], *, width: int | None = None) -> str:
    """Return the table for a terminal."""
    table = Table(*COLUMNS, show_lines=True)
    for row in rows:
        table.add_row(*row.cells, style=STYLES[row.verdict])
    out = StringIO()
    console = Console(file=out, width=width or max(Console().width, 140))
    console.print(table)
    for row in rows:
        for example in row.examples:
            console.print(f"{row.id}: {example}", markup=False)
    return out.getvalue()


def page(rows: Sequence[Row]) -> str:
    """Return `docs/safety.md`."""
    lines = [HEAD, _line(COLUMNS), _line(["---"] * len(COLUMNS)), *(_line(r.cells) for r in rows)]
    lines += ["", "## How each was measured", ""]
    lines += [f"- **{row.id}** ({row.promise}): {row.how}{_source(row)}" for row in rows]
    broken = [f"- {row.id}: `{example}`" for row in rows for example in row.examples]
    if broken:
        lines += ["", "## Failures, and how to see them again", "", *broken]
    return "\n".join(lines) + "\n"


def _source(row: Row) -> str:
    said = row.circumstances
    if not said:
        return ""
    return (
        f" Seed {said.get('seed')}, revision {said.get('revision')}, {said.get('machine')}, "
        f"{said.get('at')} UTC, {said.get('seconds')} s."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
