import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rewarder.goal import UnknownGoal
from rl.command_line import find_lift, quoted, unquoted, with_earlier, with_task
from rl.run_folder import RunFolder
from rl.run_record import BadRun

printable = st.text(st.characters(categories=("L", "N", "P", "Zs", "S")), min_size=1)


@given(printable)
def test_any_sentence_survives_hydras_grammar(sentence):
    if sentence[0] in "'\"" or sentence == "null" or "$" in sentence:
        return
    override = OverridesParser.create().parse_override(quoted(f"goal={sentence}"))
    assert override.value() == sentence
    assert unquoted(quoted(f"goal={sentence}").partition("=")[2]) == sentence


def test_other_words_are_left_to_hydra():
    assert quoted("arms=[arm01, arm02]") == "arms=[arm01, arm02]"
    assert quoted("goal='Lift it.'") == "goal='Lift it.'"


def test_a_goal_picks_its_task():
    assert with_task(["seed=1", "goal='Lift the green cube.'"])[-1] == "task=lift"


def test_a_task_that_is_not_the_goals_is_a_usage_error():
    with pytest.raises(BadRun, match="task=place but the goal names the task lift") as error:
        with_task(["task=place", "goal='Lift the green cube.'"])
    assert error.value.code == 2


def test_an_unknown_goal_lists_the_known_forms():
    with pytest.raises(UnknownGoal, match="Reach for the COLOUR cube"):
        with_task(["goal='Make tea.'"])


@pytest.fixture
def run(tmp_path):
    overrides = ["goal='Lift the green cube.'", "task=lift", "seed=3"]
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={"overrides": overrides})
    folder.close()
    return folder.path


def test_a_resumed_run_is_composed_as_it_was(run):
    words = with_earlier([f"resume={run}", "steps=9"])
    assert words == [
        "goal='Lift the green cube.'",
        "task=lift",
        "seed=3",
        f"resume={run}",
        "steps=9",
    ]


def test_what_is_given_anew_replaces_what_was_given_before(run):
    words = with_earlier([f"resume={run}", "seed=4"])
    assert [word for word in words if word.startswith("seed")] == ["seed=4"]


def test_a_run_is_found_by_its_name(run):
    assert "seed=3" in with_earlier([f"resume={run.name}", f"runs={run.parent}"])


def test_a_damaged_run_is_named(run):
    (run / "run.json").write_text(json.dumps({})[:1])
    with pytest.raises(BadRun, match=r"run\.json"):
        with_earlier([f"resume={run}"])


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("push", "learnt push; expected a run of lift"),
        ("lift", "has no policy yet"),
        ("", "no run"),
    ],
)
def test_only_a_lifting_policy_puts_things_back(task, sentence, tmp_path):
    if task:
        facts = {"goal": "", "preset": "", "seed": 0, "actors": 1, "reward": "", "git_revision": ""}
        folder = RunFolder.create(tmp_path, task=task, config="", facts=facts)
        folder.close()
    name = folder.path.name if task else "nothing"
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(BadRun, match=sentence):
        find_lift(OmegaConf.create({"put_back": name}), tmp_path)


def test_nothing_is_put_back_where_nobody_asks(tmp_path):
    assert find_lift(OmegaConf.create({"put_back": None}), tmp_path) is None
