import json
from types import SimpleNamespace

import numpy as np
import pytest

from envs.twin_env import make_twin_env
from rewarder.goal import parse_goal
from rl import grounding
from rl.grounding import NearestJudge, asked, main
from rl.run_record import BadRun

RED, BLUE = np.array([0.20, 0.05, 0.0125]), np.array([0.25, -0.05, 0.0125])
FACTS = {
    "version": 1,
    "task": "lift",
    "goal": "Lift the red cube.",
    "preset": "stiff",
    "seed": 3,
    "actors": 4,
    "reward": "heuristic",
    "git_revision": "abc",
}
STATE = {"env_steps": 1000, "updates": 500, "wall_s": 60.0, "cpu_s": 90.0}


def judged(named, *tools):
    """Return the verdict on a tool that goes from place to place."""
    judge, at = NearestJudge(named), iter(tools)
    scene = SimpleNamespace(
        truth=lambda: SimpleNamespace(thing=RED, place=BLUE, tool=np.array(next(at)))
    )
    judge.begin(SimpleNamespace(scene=scene))
    assert not any(judge.done() for _ in tools)
    return judge.success()


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "20261121_lift_1a2b3c4d"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / "state.json").write_text(json.dumps(STATE))
    return folder


def test_the_cube_that_the_tool_came_nearest_to_was_followed():
    tools = [(0.2, 0.0, 0.2), (0.24, -0.03, 0.05), (0.2, 0.05, 0.03), (0.3, 0.0, 0.2)]
    assert judged("thing", *tools)
    assert not judged("place", *tools)


def test_a_tool_that_stays_away_follows_neither():
    assert not judged("thing", (0.2, 0.05, 0.2))
    assert not judged("place", (0.2, 0.05, 0.2))


@pytest.mark.parametrize(
    ("goal", "things", "sentences"),
    [
        (
            "Lift the red cube.",
            ("red", "green"),
            ("Lift the red cube.", "Lift the green cube."),
        ),
        (
            "Stack the blue cube on the red cube.",
            ("blue", "red"),
            ("Stack the blue cube on the red cube.", "Stack the red cube on the blue cube."),
        ),
    ],
)
def test_each_sentence_names_one_of_two_cubes(goal, things, sentences):
    layout, said = asked(parse_goal(goal))
    assert layout.place
    assert (layout.thing.colour, layout.place.colour) == things
    assert (layout.thing.kind, layout.place.kind) == ("cube", "cube")
    assert (str(said["thing"]), str(said["place"])) == sentences


def test_a_task_with_a_bowl_is_refused():
    with pytest.raises(BadRun, match="reach, lift, stack") as error:
        asked(parse_goal("Put the red cube in the blue bowl."))
    assert error.value.code == 2


def test_a_result_counts_sentences_and_layouts(run, monkeypatch, capsys):
    heard = []

    def follow(record, seeds):
        heard.extend(seeds)
        return iter([(True, True), (True, False), (False, True), (True, True)])

    monkeypatch.setattr(grounding, "follow", follow)
    assert main([f"run={run}", "pairs=4", "first_seed=7"]) == 0
    said = json.loads((run / "grounding.json").read_text())
    assert heard == [7, 8, 9, 10]
    assert (said["followed"], said["trials"], said["both"], said["pairs"]) == (6, 8, 2, 4)
    assert (said["followed_each"], said["seed"]) == ([3, 3], 3)
    assert "6 of 8 sentences followed, both of a layout 2 of 4 times" in capsys.readouterr().out


def test_one_layout_shows_both_sentences_the_same_cubes(run):
    layout, said = asked(parse_goal("Lift the red cube."))
    scenes = [make_twin_env(goal, layout=layout).scene for goal in said.values()]
    for scene in scenes:
        scene.reset(5)
    one, other = (scene.truth() for scene in scenes)
    np.testing.assert_allclose(one.thing, other.thing)
    np.testing.assert_allclose(one.place, other.place)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "expected run=RUN"),
        (["run=RUN", "pairs=0"], 2, "pairs=1 or more"),
        (["run=RUN", "pairs=many"], 2, "expected a whole number"),
        (["run=/nowhere"], 2, "there is no run folder"),
        (["run=RUN"], 1, "has no policy yet"),
        (["runs=x"], 2, "known words"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_writes_nothing(run, capsys, words, code, said):
    assert main([word.replace("RUN", str(run)) for word in words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (run / "grounding.json").exists()
