"""The benchmark's rows, and when it says that a task works."""

import json
import sys
from pathlib import Path

import pytest

from ops import bench


def test_a_task_works_once_enough_of_the_newest_window_succeeded() -> None:
    enough = round(bench.ENOUGH * bench.WINDOW)
    missed, done = [False] * (bench.WINDOW - enough), [True] * enough
    assert bench.works(missed + done)
    assert bench.works([False] * 100 + missed + done)
    assert not bench.works([True] * 100 + missed + [False] + done[1:])
    assert not bench.works([True] * (bench.WINDOW - 1))


def test_a_line_names_both_sides_and_the_ratio() -> None:
    row = bench.compare("steps a second", [10.0, 30.0, 20.0], [5.0, 5.0, 4.0], than="theirs")
    assert (
        bench.line_of(row) == "steps a second, 2 frames of 96x96 a step: 20.0"
        " against 5.0 (theirs), ratio 5.0"
    )
    assert bench.line_of({"what": "guard", "ours": 1.0, "p99_us": 2.0}) == "guard: 1.0, 2.0"


def test_a_line_names_what_was_asked_for() -> None:
    row: bench.Row = {"what": "frames dropped", "ours": 0, "asked": "none"}
    assert bench.line_of(row) == "frames dropped: 0; asked: none"
    assert bench.line_of({**row, "asked": None}) == "frames dropped: 0"


def test_the_guard_alone_is_timed_and_written_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = tmp_path / "bench.json"
    monkeypatch.setattr(bench, "COMMANDS", 50)
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "guard", "--json", str(result)])
    assert bench.main() == 0
    (row,) = json.loads(result.read_text())["rows"]
    assert row["part"] == "guard"
    assert row["commands"] == 50
    assert row["p99_us"] >= row["ours"] > 0
