import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = {
    "help", "setup", "test", "check", "lint", "train-rl", "evaluate", "report", "ab", "relabel",
    "serve-rewarder", "run-arm", "bench", "calibrate-camera", "tune-colours", "mac-bootstrap",
    "gpu-bootstrap", "results-table", "clean", "setup-arm", "emulate", "arm", "doctor", "dashboard",
    "takeover", "home", "park", "jog", "record", "record-scripted", "dataset-export", "calibrate",
    "dataset-check", "dataset-repair", "hf-login", "hub-push", "nightly-copy", "safety", "chaos",
    "label", "agreement", "calibrate-reward", "unfreeze", "ab-reward", "train-classifier",
    "train-preference", "train-embedded-vlm", "reward-sets",
}  # fmt: skip
GOALS = [
    "Put the green cube in the blue bowl.",
    "Pick up the operator's cube, please",
    'Push the "red" cube; then stop',
    "a $5 cube, $(HOME), ${HOME} and \\ a backslash\\",
    "key=value -- and a=b",
    "Lege den grünen Würfel in die Schüssel",
    "'quoted'",
]


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # The words of a make that runs these tests are not theirs.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MAKE") and name not in {"ARGS", "JSON", "RUN", "A", "B"}
    }
    # -o: the environment that these tests run in is there, so make need not set it up.
    command = [shutil.which("make") or "make", "-o", "setup", "-o", "setup-arm", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shown(*words: str, **environment: str) -> list[str]:
    """Return what make would run, after the module's name."""
    done = make(*words, "SHOW=1", **environment)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)[2:]


def test_help_lists_every_target_and_needs_no_environment():
    done = make("help")
    assert set(re.findall(r"make (\S+)", done.stdout)) >= TARGETS


def test_every_target_is_at_most_three_lines():
    recipes = re.findall(r"^[\w.-][^\n]*:[^\n=]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipes
    assert max(recipe.count("\n") for recipe in recipes) <= 3


@pytest.mark.parametrize("goal", GOALS)
def test_a_goal_reaches_training_as_it_was_typed(goal):
    assert shown("train-rl", f"goal={goal}") == ["rl.train", f"goal={goal}"]


def test_lower_case_words_are_settings_even_where_make_has_such_a_variable():
    words = ["task=place", "learner.batch_size=512", "cluster=local", "launch=x", "+new=1", "~old="]
    assert shown("train-rl", *words) == ["rl.train", *words]


def test_upper_case_words_belong_to_the_target_and_flags_go_in_args():
    got = shown("evaluate", "RUN=runs/a b", "episodes=200", "ARGS=--verbose --name 'x y'")
    assert got == ["rl.evaluate", "--verbose", "--name", "x y", "run=runs/a b", "episodes=200"]


def test_an_upper_case_word_may_come_from_the_environment():
    assert shown("report", RUN="runs/x") == ["rl.report", "run=runs/x"]


def test_an_upper_case_word_that_a_target_does_not_know_is_refused_in_one_line():
    done = make("train-rl", "RUNS=1")
    assert "RUNS= is not known here" in done.stderr.splitlines()[0]
    assert "Error 2" in done.stderr


def test_every_module_that_make_starts_is_there():
    modules = set(re.findall(r"(?:\$\(launch\)|python -m) ([a-z][\w.]+)", MAKEFILE)) - {"pytest"}
    missing = [
        name for name in modules if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
    ]
    assert missing == []
