import json

import pytest

from ops.bench_precision import main


def test_a_tiny_policy_s_differences_are_measured_and_written(tmp_path):
    out = tmp_path / "precision.json"
    assert main(["kinds=act", "options=int8", "device=cpu", "n=1", f"json={out}"]) == 0
    [row] = json.loads(out.read_text())["rows"]
    assert 0.0 < row["largest"] < 1.0
    assert (row["policy"], row["observations"], row["n"]) == ("act", 5, 1)


@pytest.mark.parametrize("words", [["options=fp4"], ["kinds=t5", "options=int8"], ["n=x"]])
def test_what_is_not_known_is_refused_in_a_line(words, capsys):
    assert main(words) == 2
    assert "error: " in capsys.readouterr().err


def test_a_policy_that_cannot_be_had_is_a_row_that_says_why(tmp_path):
    out = tmp_path / "precision.json"
    assert main(["policies=/nowhere", "options=int8", "device=cpu", f"json={out}"]) == 0
    assert "no such folder" in json.loads(out.read_text())["rows"][0]["refused"]
