"""How far bfloat16, int8 weights and torch's compiler are from float32, and how quick they are.

`python -m ops.bench_precision policies=FOLDER,FOLDER device=cuda n=50 json=precision.json`; without
`policies` tiny checkpoints are made, whose random weights show that the ways work and no more.
`options` picks some of bfloat16, int8, bfloat16+int8, compiled; with `n` so many answers are timed.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from policy_server import tiny, tiny_openvla
from policy_server.accuracy import compare, plain_answers
from policy_server.load import Device, load_policy, plain_policy
from policy_server.policy import Policy, PolicyUnavailable
from policy_server.self_test import answers, probe, warm_up
from robot.revision import git_revision
from robot.words import UsageError, parse_words

OPTIONS: Mapping[str, Mapping[str, object]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"int8": True},
    "bfloat16+int8": {"dtype": "bfloat16", "int8": True},
    "compiled": {"compiled": True},
}
KINDS = "act,diffusion,smolvla,pi0,pi05,pi0_fast,wall_x,openvla"
KNOWN = {
    **{"policies": "", "kinds": KINDS, "options": "bfloat16,int8,bfloat16+int8"},
    **{"device": "auto", "n": "0", "json": ""},
}

type Row = dict[str, object]


def row_of(name: str, option: str, device: Device, *, n: int) -> Row:
    """Return the figures of one policy computed in one way."""
    changed = replace(device, **OPTIONS[option])
    row: Row = {"policy": Path(name).name, "option": option, "device": changed.found}
    try:
        wanted = plain_answers(lambda: plain_policy(name, changed))
        policy = load_policy(name, changed)
        warm_up(policy)
        accuracy = compare(policy, wanted or [])
    except PolicyUnavailable as error:
        return {**row, "refused": str(error)}
    row |= {"largest": accuracy.largest, "mean": accuracy.mean}
    row["observations"] = accuracy.observations
    return {**row, "p50_ms": _median_ms(policy, n), "n": n} if n else row


def _median_ms(policy: Policy, n: int) -> float:
    """Return how long one answer takes in the middle of `n`; rows on the CPU end each."""
    times: list[float] = []
    for _ in range(n):
        began = time.perf_counter()
        answers(policy, [probe(policy.spec)])
        times.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(times), 2)


@contextmanager
def checkpoints(words: Mapping[str, str]) -> Generator[list[str]]:
    """Yield the policies that were named, else tiny ones that are made for this."""
    if words["policies"]:
        yield words["policies"].split(",")
        return
    with tempfile.TemporaryDirectory(prefix="tiny-") as scratch, tiny.small_pi():
        yield [str(_made(kind, Path(scratch) / kind)) for kind in words["kinds"].split(",")]


def _made(kind: str, out: Path) -> Path:
    return tiny_openvla.make(out) if kind == tiny.OPENVLA else tiny.make(kind, out)


def table(rows: Sequence[Row]) -> Table:
    """Return the rows for a terminal."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table(*names, title="differences from float32, degrees or percent")
    for row in rows:
        shown.add_row(*(str(row.get(name, "")) for name in names))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    given = sys.argv[1:] if argv is None else argv
    try:
        words = parse_words(given, known=KNOWN)
        options, n = _options(words["options"]), int(words["n"])
        device = Device(device=words["device"])
        with checkpoints(words) as names:
            rows = [row_of(name, option, device, n=n) for name in names for option in options]
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    Console().print(table(rows))
    if words["json"]:
        _write(Path(words["json"]), rows, given)
    return 0


def _options(said: str) -> list[str]:
    options = said.split(",")
    if unknown := set(options) - OPTIONS.keys():
        raise UsageError(f"no option {min(unknown)!r}; known: {', '.join(OPTIONS)}")
    return options


def _write(path: Path, rows: Sequence[Row], given: Sequence[str]) -> None:
    facts = {
        "rows": rows,
        "revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "command": " ".join(["python", "-m", "ops.bench_precision", *given]),
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
