import json
import re

import pytest

from rl.evaluations import read_evaluations
from rl.weekly import main

RESULT = {
    "run": "20261121_lift_1a2b3c4d",
    "task": "lift",
    "goal": "Lift the red cube.",
    "preset": "stiff",
    "judge": "truth",
    "reward": "heuristic",
    "seed": 3,
    "updates": 9000,
    "env_steps": 24000,
    "git_revision": "abcdef1234567",
    "evaluation": "20261121T100000Z",
    "successes": 2,
    "episodes": 4,
    "failures": 2,
    "gentle_failure_rate": 0.5,
    "time_to_success_s": 9.9,
}
TIMES = [(True, 1.0, 100.0), (True, 3.0, 300.0), (False, 6.0, 200.0), (False, 6.0, 900.0)]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    run = tmp_path / "runs" / RESULT["run"]
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    return tmp_path


def keep(root, name="results.json", **changes):
    """Write a result into the run's folder, with its trials."""
    run, result = root / "runs" / RESULT["run"], {**RESULT, **changes}
    (run / name).write_text(json.dumps(result))
    with (run / "results.jsonl").open("a") as file:
        for success, time_s, jerk in TIMES:
            line = {"evaluation": result["evaluation"], "success": success, "time_s": time_s}
            file.write(json.dumps({**line, "jerk": jerk}) + "\n")


def commit(root, name, **changes):
    (root / "docs" / "results" / name).write_text(json.dumps({**RESULT, **changes}))


def found(root):
    return read_evaluations(root / "runs", root / "docs" / "results")


def page(root):
    words = [f"runs={root / 'runs'}", f"docs={root / 'docs'}", f"out={root / 'out'}"]
    assert main(words) == 0
    return (root / "out" / "index.html").read_text()


def plain(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_times_come_from_the_trials_with_time_outs_censored(root):
    keep(root)
    one = found(root).evaluations[0]
    assert (one.median_s, one.jerk, len(one.trials)) == (3.0, 250.0, 4)


def test_a_committed_result_that_a_run_still_has_counts_once(root):
    keep(root)
    commit(root, "a.json")
    commit(root, "b.json", evaluation="20261122T100000Z", run="other")
    assert [len(one.trials) for one in found(root).evaluations] == [4, 0]


def test_a_row_tells_success_time_gentleness_and_jerk(root):
    keep(root)
    text = plain(page(root))
    assert "20261121_lift_1a2b3c4d, 9 k updates" in text
    assert "2/4 (15-85 %) 3.0 s 1/2 (9-91 %) 250" in text


def test_a_trial_line_without_jerk_is_said_to_lack_it(root):
    commit(root, "a.json")
    assert "not kept" in plain(page(root))


def test_success_under_other_conditions_stands_beside_that_as_learnt(root):
    keep(root)
    keep(
        root,
        "results-x.json",
        evaluation="x",
        successes=1,
        failures=3,
        goal="Lift the blue cube.",
        trained_goal="Lift the red cube.",
        variation=1.0,
    )
    text = plain(page(root)).partition("Generalisation")[2]
    assert "Lift the red cube. Lift the blue cube. 100 % 2/4 (15-85 %) 1/4 (5-70 %)" in text
    assert plain(page(root)).partition("Generalisation")[0].count("9 k updates") == 1


def test_grounding_is_shown_and_otherwise_said_to_be_missing(root):
    keep(root)
    assert "make grounding" in page(root)
    said = {"goals": ["Lift the red cube.", "Lift the blue cube."], "followed": 39, "trials": 40}
    said |= {"both": 19, "pairs": 20, "wilson95": [0.87, 1.0], "both_wilson95": [0.76, 0.99]}
    (root / "runs" / RESULT["run"] / "grounding.json").write_text(json.dumps(said))
    assert "39/40 (87-100 %) 19/20 (76-99 %)" in plain(page(root))


def test_the_page_needs_nothing_from_anywhere(root):
    keep(root)
    html = page(root)
    assert "default-src 'none'" in html
    assert not re.findall(r"<script|https?://|src=|@import|url\(", html)


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(root):
    keep(root)
    (root / "docs" / "results" / "torn.json").write_text("{")
    (root / "docs" / "results" / "part.json").write_text('{"task": "lift"}')
    text = plain(page(root))
    assert "torn.json cannot be read" in text
    assert "part.json is no whole result" in text
    assert "2/4" in text


def test_a_goal_cannot_bring_markup_along(root):
    keep(root, goal="<b>x</b>", trained_goal="Lift the red cube.")
    assert "<b>x</b>" not in page(root)


def test_nothing_to_show_writes_nothing(root, capsys):
    words = [f"runs={root / 'runs'}", f"docs={root / 'docs'}", f"out={root / 'out'}"]
    assert main(words) == 2
    assert "make evaluate" in capsys.readouterr().err
    assert not (root / "out").exists()


def test_a_file_in_place_of_the_folder_is_a_usage_error(root, capsys):
    keep(root)
    (root / "out").write_text("")
    assert main([f"runs={root / 'runs'}", f"docs={root / 'docs'}", f"out={root / 'out'}"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_an_unknown_word_is_a_usage_error():
    assert main(["folder=x"]) == 2
