import json

import pytest

from ops.results_table import END, START, main

RESULT = {
    "task": "lift",
    "preset": "stiff",
    "episodes": 100,
    "successes": 97,
    "wilson95": [0.9155, 0.9897],
    "time_to_success_s": 2.4,
    "env_steps": 24100,
    "wall_s": 301.0,
    "actors": 4,
    "seed": 1,
    "reward": "heuristic",
    "git_revision": "0123456789abcdef",
}
TEXT = f"# Title\n{START}\nold\n{END}\nrest\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "README.md").write_text(TEXT)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    return tmp_path


def write(root, name, **changes):
    (root / "docs" / "results" / name).write_text(json.dumps({**RESULT, **changes}))


def readme(root):
    return (root / "README.md").read_text()


def test_a_row_states_the_count_its_interval_the_seed_and_the_revision(root):
    write(root, "a.json")
    assert main([], root) == 0
    assert (
        "| lift | stiff | 97/100 | 92-99 | 2.4 s | 24.1 k | 5.0 min | 4 | 1 | heuristic "
        "| [01234567](docs/results/a.json) |" in readme(root)
    )


def test_what_stands_around_the_markers_is_kept(root):
    main([], root)
    assert readme(root).startswith(f"# Title\n{START}")
    assert readme(root).endswith(f"{END}\nrest\n")


def test_tasks_come_from_easy_to_hard(root):
    write(root, "a.json", task="place")
    write(root, "b.json", task="reach")
    main([], root)
    assert readme(root).index("| reach") < readme(root).index("| place")


def test_writing_twice_changes_nothing(root):
    write(root, "a.json")
    main([], root)
    once = readme(root)
    main([], root)
    assert readme(root) == once


def test_the_check_fails_until_the_table_is_written(root, capsys):
    write(root, "a.json")
    assert main(["check=1"], root) == 1
    assert "make results-table" in capsys.readouterr().err
    assert readme(root) == TEXT
    main([], root)
    assert main(["check=1"], root) == 0


def test_a_run_that_is_added_gets_a_row(root, tmp_path):
    run = tmp_path / "20261121_lift_1a2b3c4d"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(RESULT))
    assert main([f"run={run}"], root) == 0
    assert "docs/results/lift-stiff-seed1-1a2b3c4d.json" in readme(root)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("broken.json", "{", "is no JSON"), ("part.json", '{"task": "lift"}', "is no whole result")],
)
def test_a_file_that_is_no_result_is_named(root, capsys, name, text, words):
    (root / "docs" / "results" / name).write_text(text)
    assert main([], root) == 1
    error = capsys.readouterr().err
    assert name in error
    assert words in error
    assert readme(root) == TEXT


def test_a_run_without_a_result_is_a_usage_error(root, capsys):
    assert main([f"run={root}"], root) == 2
    assert "make evaluate" in capsys.readouterr().err


def test_a_readme_without_markers_is_left_alone(root, capsys):
    (root / "README.md").write_text("bare")
    assert main([], root) == 1
    assert START in capsys.readouterr().err


def test_an_unknown_word_is_a_usage_error(root):
    assert main(["chek=1"], root) == 2
