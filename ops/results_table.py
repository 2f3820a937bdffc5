"""Write the results table of the README from the committed result files in `docs/results/`.

`make results-table` writes it, `make results-table run=RUN` adds that run's result first, and
`make results-table check=1` fails if the README does not say what the files say.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("docs/results")
README = Path("README.md")
START, END = "<!-- results:start -->", "<!-- results:end -->"
TASKS = ("reach", "lift", "push", "place", "stack")
HEAD = (
    "task",
    "twin",
    "success",
    "95 %",
    "median time",
    "steps",
    "trained in",
    "arms",
    "seed",
    "reward",
    "revision",
)


class TableError(Exception):
    """The table cannot be written, and the message says why; `code` is the exit code."""

    def __init__(self, sentence: str, *, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


def read_results(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the name and the content of every result file, in the order of the table."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append((path.name, json.loads(path.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise TableError(f"{path} is no JSON: {error}; remove it or write it again") from None
    return sorted(found, key=lambda named: _place(*named))


def table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the results as a table in Markdown, one row a file."""
    rows = [HEAD, ("---",) * len(HEAD), *(_row(name, result) for name, result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(text: str, rows: str) -> str:
    """Return a README's text with `rows` between its markers."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise TableError(f"{README} lacks {START} and {END}, between which the table belongs")
    between = f"\n\n{rows}\n\n" if rows else "\n"
    return f"{before}{START}{between}{END}{after}"


def add(run: Path, folder: Path) -> Path:
    """Copy a run's result to where results are committed, and return its path there."""
    source = run / "results.json"
    if not source.is_file():
        raise TableError(f"{run} has no results.json; `make evaluate RUN={run}` first", code=2)
    text = source.read_text(encoding="utf-8")
    result = json.loads(text)
    run_id = run.name.rsplit("_", 1)[-1]
    name = f"{result['task']}-{result['preset']}-seed{result['seed']}-{run_id}.json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def main(words: Sequence[str], root: Path = ROOT) -> int:
    """Write, or with `check=1` only compare, the table; return the exit code."""
    given = {name: value for name, _, value in (word.partition("=") for word in words)}
    try:
        _refuse_unknown(given)
        if "run" in given:
            print(f"added {add(Path(given['run']), root / RESULTS).relative_to(root)}")
        return _write(root, check="check" in given)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


def _refuse_unknown(given: Mapping[str, str]) -> None:
    unknown = given.keys() - {"run", "check"}
    if unknown:
        raise TableError(f"expected run=RUN or check=1, got {min(unknown)}=", code=2)


def _write(root: Path, *, check: bool) -> int:
    path = root / README
    text = path.read_text(encoding="utf-8")
    results = read_results(root / RESULTS)
    due = with_table(text, table(results) if results else "")
    if check and due != text:
        raise TableError(f"the table in {README} is out of date; `make results-table` writes it")
    if not check:
        path.write_text(due, encoding="utf-8")
        print(f"{README}: {len(results)} results")
    return 0


def _place(name: str, result: Mapping[str, Any]) -> tuple[int, str, str, str]:
    task = result.get("task")
    order = TASKS.index(task) if task in TASKS else len(TASKS)
    return order, str(result.get("preset")), str(result.get("reward")), name


def _row(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        lower, upper = result["wilson95"]
        median = result["time_to_success_s"]
        return (
            str(result["task"]),
            str(result["preset"]),
            f"{result['successes']}/{result['episodes']}",
            f"{100 * lower:.0f}-{100 * upper:.0f}",
            "-" if median is None else f"{median:.1f} s",
            f"{result['env_steps'] / 1000:.1f} k",
            f"{result['wall_s'] / 60:.1f} min",
            str(result["actors"]),
            str(result["seed"]),
            str(result["reward"]),
            f"[{result['git_revision'][:8]}]({RESULTS.as_posix()}/{name})",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"{RESULTS / name} is no whole result: {error!r}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
