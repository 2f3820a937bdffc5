import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarder.pair_judges import ScoreJudge, VisionJudge, value
from rewarder.pairs import (
    BadPairs,
    Comparison,
    Pair,
    PairLabel,
    append_pairs,
    candidate_pairs,
    compare,
    disagreement,
    needs_person,
    newest,
    read_pairs,
    said_by,
)
from rewarder.reward import Clip, NoScore, Score
from rewarder.vision_model import Answer
from robot.camera import encode_jpeg

GOAL = "Lift the red cube."
PAIR = Pair(GOAL, "000001-aa", "000002-bb")
PICTURE = encode_jpeg(np.full((32, 32, 3), 120, np.uint8))


def clip_of(level, goal=GOAL):
    return Clip(
        goal=goal,
        stamps=np.arange(4.0),
        frames={"front": [PICTURE] * 4, "side": [PICTURE] * 4},
        joint_pos=np.full((4, 6), level),
        joint_target=np.zeros((4, 6)),
    )


class Levels:
    """Finds in the joints how well a clip went."""

    def score(self, clip):
        progress = clip.joint_pos[:, 0]
        yes = np.ones(4, bool)
        return Score(success=~yes, progress=progress, valid=yes, model="levels/1")


class Says:
    """Gives the same answer whatever it is shown."""

    name = "says/1"

    def __init__(self, probability):
        self.probability = probability

    def first_is_better(self, first, second):
        return self.probability


def comparison(probability, preferred):
    return Comparison(
        preferred=preferred, probability=probability, forward=probability, backward=probability
    )


def test_what_was_said_is_read_back(tmp_path):
    labels = [
        PairLabel.of_person(PAIR, "first", "anna"),
        PairLabel.of_person(PAIR, None, "ben"),
        said_by("vlm/1", PAIR, comparison(0.2, "second")),
    ]
    append_pairs(tmp_path / "pairs.jsonl", labels[:1])
    append_pairs(tmp_path / "pairs.jsonl", labels[1:])
    assert read_pairs(tmp_path / "pairs.jsonl") == labels


def test_a_line_that_a_power_cut_left_is_passed_over_and_written_on_after(tmp_path):
    file = tmp_path / "pairs.jsonl"
    label = PairLabel.of_person(PAIR, "tie", "anna")
    append_pairs(file, [label])
    file.write_bytes(file.read_bytes() + b'{"goal": "Lift th')
    append_pairs(file, [label])
    assert read_pairs(file) == [label, label]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('"preferred": "left"', "preferred"),
        ('"probability": 2.0', "probability"),
        ('"person": "yes"', "person"),
        ('"second": "000001-aa"', "a pair needs two clips"),
        ('"extra": 1', "extra"),
    ],
)
def test_a_line_that_is_no_label_is_named(tmp_path, wrong, said):
    file = tmp_path / "pairs.jsonl"
    append_pairs(file, [PairLabel.of_person(PAIR, "first", "anna")])
    file.write_text(file.read_text().replace('"at":', f'{wrong}, "at":'))
    with pytest.raises(BadPairs, match=f"line 1.*{said}"):
        read_pairs(file)


def test_what_somebody_says_later_replaces_it_whichever_way_round():
    first = PairLabel.of_person(PAIR, "first", "anna")
    later = PairLabel.of_person(PAIR.mirrored, "first", "anna")
    other = PairLabel.of_person(PAIR, "tie", "ben")
    assert newest([first, other, later]) == [later, other]


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_a_model_that_always_favours_one_side_prefers_neither(probability):
    assert compare(Says(probability), clip_of(0), clip_of(1)).preferred == "tie"


@settings(deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_order_of_the_clips_changes_nothing(one, other):
    judge = ScoreJudge(Levels())
    forward = compare(judge, clip_of(one), clip_of(other))
    backward = compare(judge, clip_of(other), clip_of(one))
    assert forward.probability == pytest.approx(1.0 - backward.probability)
    assert {forward.preferred, backward.preferred} in ({"first", "second"}, {"tie"})


def test_the_clip_with_more_progress_is_preferred():
    assert compare(ScoreJudge(Levels()), clip_of(0.9), clip_of(0.3)).preferred == "first"


def test_clips_of_two_goals_are_not_compared():
    with pytest.raises(NoScore, match="two goals"):
        compare(Says(0.9), clip_of(0), clip_of(0, "Reach for the red cube."))


@pytest.mark.parametrize("wrong", [float("nan"), 1.5, -0.1])
def test_what_is_no_probability_is_no_comparison(wrong):
    with pytest.raises(NoScore, match="for probabilities"):
        compare(Says(wrong), clip_of(0), clip_of(1))


def test_a_score_of_nothing_has_no_value():
    none = Score(
        success=np.zeros(3, bool), progress=np.zeros(3), valid=np.zeros(3, bool), model="m"
    )
    with pytest.raises(NoScore, match="could judge no moment"):
        value(none)


class Eyes:
    """Answers with given probabilities of A and B."""

    name = "eyes/1"

    def __init__(self, a, b):
        self.said, self.asked = np.log([a, b]), []

    def ask(self, questions):
        self.asked += questions
        return [Answer(log_probs=self.said)]


def test_a_vision_model_sees_the_moments_of_both_clips_side_by_side():
    eyes = Eyes(0.6, 0.2)
    assert VisionJudge(eyes, moments=3).first_is_better(clip_of(0), clip_of(1)) == pytest.approx(
        0.75
    )
    assert [picture.shape for picture in eyes.asked[0].pictures] == [(32, 64, 3)] * 6


def test_a_vision_model_that_answers_something_else_gives_no_label():
    with pytest.raises(NoScore, match="neither A nor B"):
        VisionJudge(Eyes(0.01, 0.01)).first_is_better(clip_of(0), clip_of(1))


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 30), st.integers(0, 5))
def test_candidates_are_different_pairs_of_one_goal(clips, count, seed):
    goals = {f"{n:06d}": "one" if n % 2 else "other" for n in range(clips)}
    known = candidate_pairs(goals, 2, np.random.default_rng(seed))
    pairs = candidate_pairs(goals, count, np.random.default_rng(seed), without=known)
    assert len({pair.key for pair in pairs}) == len(pairs) <= count
    assert all(goals[pair.first] == goals[pair.second] == pair.goal for pair in pairs)
    assert not {pair.key for pair in pairs} & {pair.key for pair in known}


def test_pairs_on_which_members_differ_are_the_most_disputed():
    odds = np.array([[0.9, 0.9, 0.5], [0.9, 0.1, 0.6]])
    assert disagreement(odds).argmax() == 1


@pytest.mark.parametrize(
    ("said", "members", "asked"),
    [
        ([comparison(0.9, "first")], [0.8, 0.7], False),
        ([comparison(0.9, "first")], [0.8, 0.3], True),
        ([comparison(0.9, "first")], [0.2, 0.3], True),
        ([comparison(0.55, "tie")], [0.8, 0.7], True),
        ([comparison(0.1, "second")], [], False),
        ([comparison(0.9, "first"), comparison(0.1, "second")], [], True),
        ([], [], True),
    ],
)
def test_a_person_is_asked_only_where_models_disagree(said, members, asked):
    assert needs_person(said, np.array(members)) is asked
