"""How many arms a policy server keeps in rows, and how many replicas a crowd takes.

`make serve-simulation arms=1,4,64 check=1`; `check=1` runs the real server and as many real clients
beside the simulated ones, and shows both.
`python -m ops.serve_simulation arms=1,2,4,8,64,1000 batch_ms=40 request_ms=6 json=docs/sim.json`.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ops.serve_model.questions import ROUTES, STARVED_SHARE, Row, by_order, check, needs
from ops.serve_model.serving import Serving
from ops.serve_model.simulated import simulate
from policy_server.scheduler import GATHER_S, MAX_BATCH
from robot.revision import git_revision
from robot.words import UsageError, parse_words

KNOWN = {
    "arms": "1,2,4,8,64,1000",
    "hz": "20",
    "horizon": "32",
    "threshold": "0.5",
    "batch_ms": "40",
    "request_ms": "6",
    "service_ms": "",
    "max_batch": str(MAX_BATCH),
    "gather_ms": f"{1e3 * GATHER_S:g}",
    "network_ms": "5",
    "jitter_ms": "1",
    "replicas": "1",
    "route": "hash",
    "slack": "0",
    "episode_s": "8",
    "seconds": "20",
    "seed": "0",
    "check": "0",
    "json": "",
}
CROWDS = (4, 64, 1000)
WIDTH = 110
"""Of a table, in characters, at the least."""


def serving_of(words: Mapping[str, str]) -> Serving:
    """Return what the words ask for, for one arm; raise `ValueError`."""
    batch_ms, request_ms = float(words["batch_ms"]), float(words["request_ms"])
    sizes = range(1, int(words["max_batch"]) + 1)
    computed = [batch_ms + request_ms * size for size in sizes]
    given = [float(part) for part in words["service_ms"].split(",") if part]
    if int(words["replicas"]) < 1 or not (given or computed):
        raise ValueError("expected at least one replica that answers at least one request at once")
    if words["route"] not in ROUTES:
        raise ValueError(f"route={words['route']}; expected one of {', '.join(ROUTES)}")
    return Serving(
        arms=1,
        service_s=tuple(1e-3 * ms for ms in given or computed),
        replicas=int(words["replicas"]),
        route=words["route"],
        horizons=tuple(int(part) for part in words["horizon"].split(",")),
        hz=float(words["hz"]),
        threshold=float(words["threshold"]),
        network_s=1e-3 * float(words["network_ms"]),
        jitter_s=1e-3 * float(words["jitter_ms"]),
        gather_s=1e-3 * float(words["gather_ms"]),
        says_slack=words["slack"] == "1",
        episode_s=float(words["episode_s"]),
        seconds=float(words["seconds"]),
        seed=int(words["seed"]),
    )


def table(title: str, rows: Sequence[Row]) -> Table:
    """Return the rows for a terminal."""
    shown = Table(title=title, title_justify="left", box=None)
    for name in max(rows, key=len):
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(*(str(value) for value in row.values()))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, check, print and write; return the exit code."""
    given = sys.argv[1:] if argv is None else argv
    try:
        words = parse_words(given, known=KNOWN)
        serving = serving_of(words)
        crowds = [int(part) for part in words["arms"].split(",")]
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    console = Console()
    console.width = max(console.width, WIDTH)
    rows = [asdict(simulate(replace(serving, arms=arms))) for arms in crowds]
    console.print(table(f"{serving.replicas} replica(s), {serving.route}", rows))
    needed = needs(serving, [arms for arms in CROWDS if arms <= max(crowds)])
    if needed:
        console.print(table(f"replicas for <{STARVED_SHARE:.1%} starved ticks", needed))
    ordered = by_order(serving)
    console.print(table("chunks of 8 and 32 rows: in order of arrival or slack", ordered))
    checked = _checked(words) if words["check"] == "1" else []
    if checked:
        console.print(table("predicted and measured on this machine", checked))
    if words["json"]:
        found = {"rows": rows, "needed": needed, "order": ordered, "check": checked}
        _write(Path(words["json"]), given, serving, found)
    return 0


def _checked(words: Mapping[str, str]) -> list[Row]:
    """Return how right the model is of the null policy, whose times are computed."""
    computed = serving_of({**words, "service_ms": "", "max_batch": str(MAX_BATCH)})
    return check(computed, f"{words['batch_ms']},{words['request_ms']}")


def _write(
    path: Path, given: Sequence[str], serving: Serving, found: Mapping[str, Sequence[Row]]
) -> None:
    facts = {
        **found,
        "serving": asdict(serving),
        "seed": serving.seed,
        "revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "command": " ".join(["python", "-m", "ops.serve_simulation", *given]),
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
