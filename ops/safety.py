"""Try to break every promise of safety and durability, and print what was measured.

`python -m ops.safety quick=1 json=path only=S1,S2`; a row says `pass` only at full n. `only=` takes
promises, or checks by the names in `CHECKS`. `json=` adds to what the file holds, so that rows can
be measured one after the other; `docs=1` writes `docs/safety.md` from `docs/safety.json` and
measures nothing.
"""

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from ops.safety_checks.effort import Effort, quiet, say
from ops.safety_checks.page import page, terminal_table
from ops.safety_checks.row import Row
from robot.revision import git_revision
from robot.words import UsageError, parse_words

ROOT = Path(__file__).resolve().parent.parent
KINDS = "SRN"
"""First letters of promises, in the order of the table."""
RESULTS, PAGE = Path("docs/safety.json"), Path("docs/safety.md")
KNOWN = {"quick": "0", "json": "", "only": "", "seed": "0", "jobs": "", "most": "", "docs": "0"}

type Check = Callable[[Effort], Sequence[Row]]


CHECKS = (
    ("S1 S2", "guard", "limits_and_volumes"),
    ("S3", "guard", "illegal_starts"),
    ("S4", "guard", "nonsense"),
    ("S5", "guard", "stale"),
    ("S5 S6", "silence", "silence"),
    ("S7", "stops", "stops"),
    ("S7", "crowd", "crowded_stops"),
    ("S8", "handovers", "takeovers"),
    ("S9", "handovers", "first_commands"),
    ("S10", "stops", "troubles"),
    ("S11", "stops", "losses"),
    ("S11", "frames", "bad_frames"),
    ("S1 S6", "dying_clients", "dying_clients"),
    ("S1 S7", "presses", "pressed_stops"),
    ("S1 S12", "killed_arms", "killed_arms"),
    ("S1 R4", "killed_arms", "killed_neighbours"),
    ("R1", "durability", "kill_writers"),
    ("R2", "durability", "cut_power"),
    ("R3", "learning", "kill_savers"),
    ("R5", "services", "rewarder_away"),
    ("R5", "away", "others_away"),
    ("R6", "services", "nonsense_scores"),
    ("R7", "services", "disk_full"),
    ("R8", "soak", "soak"),
    ("N1", "visitors", "hostile_visitors"),
    ("N1", "telnet_lines", "hostile_lines"),
    ("N2", "hostile", "hostile_strings"),
)
"""The promises that a check tries, its module, which is imported for it alone, and its name."""


def check_of(module: str, name: str) -> Check:
    """Return a check."""
    return getattr(import_module(f"ops.safety_checks.{module}"), name)


def measure(
    effort: Effort, only: frozenset[str], keep: Callable[[Sequence[Row]], object]
) -> list[Row]:
    """Run the checks in `only`, or all; say and keep each row once it is known.

    `only` holds names of checks, and of promises: then what else a check measures is left out.
    """
    rows: list[Row] = []
    circumstances = {
        "seed": effort.seed,
        "quick": effort.quick,
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    }
    for ids, module, name in CHECKS:
        is_wanted = not only or name in only
        if not is_wanted and not only & set(ids.split()):
            continue
        began = time.monotonic()
        rows_of = check_of(module, name)
        found = [row for row in rows_of(effort) if is_wanted or row.id in only]
        took = round(time.monotonic() - began, 1)
        found = [replace(row, circumstances={**circumstances, "seconds": took}) for row in found]
        for row in found:
            say(f"{row.verdict:12} {row.id:4} {row.missing or row.measured}  [{took:g} s]")
        keep(found)
        rows += found
    return rows


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a results file, none where there is no file."""
    if not path.is_file():
        return []
    return [Row.from_json(stored) for stored in json.loads(path.read_text(encoding="utf-8"))]


def write_rows(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Put rows into a results file in place of those of the same promise; return all it holds."""
    measured = {(row.id, row.promise) for row in rows}
    kept = [row for row in read_rows(path) if (row.id, row.promise) not in measured]
    merged = sorted([*kept, *rows], key=lambda row: (KINDS.index(row.id[0]), int(row.id[1:])))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([row.to_json() for row in merged], indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    return merged


def main(words: Sequence[str], root: Path = ROOT) -> int:
    """Measure and print; return the exit code: 1 where a promise does not hold."""
    try:
        given = parse_words(words, known=KNOWN)
        effort_of = _settings(given)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if given["docs"] == "1":
        (root / PAGE).write_text(page(read_rows(root / RESULTS)), encoding="utf-8")
        say(f"{PAGE}: written from {RESULTS}")
        return 0
    quiet()
    results = Path(given["json"]) if given["json"] else None
    with tempfile.TemporaryDirectory(prefix="safety-") as folder:
        effort = Effort(folder=Path(folder), **effort_of)  # pyright: ignore[reportArgumentType]
        rows = measure(
            effort,
            _only(given["only"]),
            lambda found: write_rows(results, found) if results else None,
        )
    say(terminal_table(rows))
    if results:
        say(f"{results}: written")
    return int(any(row.verdict == "FAIL" for row in rows))


def _settings(given: Mapping[str, str]) -> dict[str, object]:
    """Return what the words say of the effort; raise `UsageError`."""
    numbers: dict[str, int | None] = {}
    for name in ("seed", "jobs", "most"):
        if not given[name]:
            numbers[name] = None
        elif given[name].isdigit():
            numbers[name] = int(given[name])
        else:
            raise UsageError(f"{name}={given[name]!r}; expected a whole number")
    known = sorted(known_ids()) + [name for _, _, name in CHECKS]
    unknown = _only(given["only"]) - set(known)
    if unknown:
        raise UsageError(f"only={min(unknown)}; expected some of {','.join(known)}")
    return {
        "quick": given["quick"] not in ("", "0"),
        "seed": numbers["seed"] or 0,
        "jobs": numbers["jobs"] or os.cpu_count() or 1,
        "most": numbers["most"],
    }


def _only(word: str) -> frozenset[str]:
    return frozenset(word.split(",")) - {""}


def known_ids() -> set[str]:
    """Return the names of all promises that are tried here."""
    last = zip(KINDS, (12, 8, 2), strict=True)
    return {f"{kind}{number}" for kind, most in last for number in range(1, most + 1)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
