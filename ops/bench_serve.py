"""Our policy server beside openpi's and LeRobot's, measured in one run: `make bench-serve`.

`python -m ops.bench_serve --only one crowd --json docs/bench_serve.json`. Peers are set up in
`bench/peers` when they are first needed; where one cannot be had, stored figures stand in and the
column `than` says so. `one` is a single client, `crowd` four at once, `uplink` the bytes of an
observation, `rows` whose rows arrive while the server is killed, `kill` how soon an arm holds,
`lan` four arms on a link with delay and loss (root on Linux), `interop` others' own clients.
"""

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from ops.serve_checks.effort import PEERS, Effort
from ops.serve_checks.row import Row, table_of
from ops.serve_checks.server import ServerFailed
from robot.revision import git_revision

WIDTH = 160
"""Of the table where nobody looks on, columns."""

type Part = Callable[[Effort], list[Row]]

PARTS: Mapping[str, tuple[str, str]] = {
    "one": ("speed", "one_client"),
    "crowd": ("speed", "four_clients"),
    "uplink": ("speed", "uplink"),
    "rows": ("faults", "whose_rows"),
    "kill": ("faults", "killed"),
    "lan": ("lan_arms", "lan"),
    "interop": ("interop", "interop"),
}
"""Module and function of each part; a module is imported for its own part alone."""


def part_of(name: str) -> Part:
    """Return what measures a part."""
    module, function = PARTS[name]
    return getattr(import_module(f"ops.serve_checks.{module}"), function)


def measure(names: Sequence[str], effort: Effort) -> list[tuple[str, Row]]:
    """Return the rows of each part, and say which one is at work; one that fails says why."""
    rows: list[tuple[str, Row]] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += [(name, row) for row in part_of(name)(effort)]
        except (ServerFailed, RuntimeError, OSError) as error:
            rows.append((name, Row(what=name, ours=f"failed: {error}", holds=False)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; return 1 where something that was asked for does not hold."""
    options = _parser().parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = measure(options.only, effort_of(options))
    Console(width=max(Console().width, WIDTH)).print(table_of([row for _, row in rows]))
    for _, row in rows:
        for line in _said(row):
            print(f"{row.what}: {line}")
    if options.json:
        result = {**result_of(rows), "seed": options.seed}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(any(row.holds is False for _, row in rows))


def effort_of(options: argparse.Namespace) -> Effort:
    """Return how much the command line asks for."""
    return Effort(
        requests=options.requests,
        crowd_s=options.crowd_s,
        chunks=options.chunks,
        restarts=options.restarts,
        kills=options.kills,
        lan_s=60.0 * options.minutes,
        seed=options.seed,
        peers=None if options.no_peers else PEERS,
    )


def _said(row: Row) -> list[str]:
    said = row.more.get("said")
    return [str(line) for line in said] if isinstance(said, list) else []  # pyright: ignore


def result_of(rows: Sequence[tuple[str, Row]]) -> dict[str, Any]:
    """Return what a results file holds."""
    return {
        "command": f"python -m ops.bench_serve {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "git_revision": git_revision(),
        "rows": [{"part": part, **row.to_json()} for part, row in rows],
    }


def _parser() -> argparse.ArgumentParser:
    default = Effort()
    parser = argparse.ArgumentParser(prog="python -m ops.bench_serve", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true", help="compare with stored figures")
    for name, value, text in (
        ("requests", default.requests, "of one client"),
        ("crowd-s", default.crowd_s, "seconds of four clients"),
        ("chunks", default.chunks, "whose rows are looked at"),
        ("restarts", default.restarts, "of the server while they come"),
        ("kills", default.kills, "of the server"),
        ("minutes", default.lan_s / 60.0, "on the link with delay and loss; 10 for a full run"),
        ("seed", default.seed, "of moments and losses"),
    ):
        words = f"{text}, %(default)s unless given"
        parser.add_argument(f"--{name}", type=type(value), default=value, help=words)
    return parser


if __name__ == "__main__":
    sys.exit(main())
