import json
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarder.calibration import (
    Calibrated,
    Calibration,
    Key,
    choose_threshold,
    load_calibration,
)
from rewarder.curves import BadCalibration, Isotonic, Platt
from rewarder.reward import Clip, NoScore, Score
from rewarder.statistics import wilson

KEY = Key(
    model="tiny/1",
    engine="",
    dtype="",
    prompt_sha="abc",
    roi="",
    cameras=("front", "side"),
    tasks=("lift", "place"),
)
MADE = Calibration(
    key=KEY,
    curve=Platt(1.0, 0.0),
    threshold=0.5,
    precision_bound=0.9,
    recall=0.8,
    clips=50,
    fitted_on="twin50",
    expires=date(2026, 12, 31),
)
LOGITS = np.array([-3.0, -0.05, 0.05, 3.0, np.nan])


class Fixed:
    """A model that says the same of every clip."""

    def __init__(self, logit=LOGITS, model="tiny/1", **notes):
        self.logit, self.model = logit, model
        self.notes = {"prompt_sha": "abc", **notes}

    def score(self, clip):
        count = 5
        return Score(
            success=np.ones(count, bool),
            progress=np.linspace(0, 1, count),
            valid=np.ones(count, bool),
            model=self.model,
            logit=self.logit,
            notes=self.notes,
        )


def clip(goal="Lift the red cube.", cameras=("front", "side")):
    return Clip(
        goal=goal,
        stamps=np.arange(5.0),
        frames={name: [b""] * 5 for name in cameras},
        joint_pos=np.zeros((5, 6)),
        joint_target=np.zeros((5, 6)),
    )


@pytest.fixture
def file(tmp_path):
    MADE.save(tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def on(day):
    return lambda: day


@pytest.mark.parametrize("curve", [Platt(0.3, -1.0), Isotonic((-1.0, 2.5), (0.1, 0.9))])
def test_a_calibration_comes_back_from_its_file_as_it_was(tmp_path, curve):
    made = replace(MADE, curve=curve)
    made.save(tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json") == made


def test_success_is_above_the_threshold_and_nothing_is_valid_near_it(file):
    score = Calibrated(Fixed(), file, today=on(date(2026, 12, 31))).score(clip())
    assert score.valid.tolist() == [True, False, False, True, False]
    assert score.success.tolist() == [False, False, False, True, False]
    assert score.notes["calib_id"] == MADE.calib_id
    np.testing.assert_array_equal(score.logit, LOGITS)


def test_the_probability_of_the_last_moment_is_evidence(file):
    score = Calibrated(Fixed(np.full(5, 2.0)), file, today=on(date(2026, 1, 1))).score(clip())
    assert score.evidence["p_success"] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_an_expired_calibration_gives_no_score(file):
    model = Calibrated(Fixed(), file, today=on(date(2027, 1, 1)))
    with pytest.raises(NoScore, match="expired on 2026-12-31"):
        model.score(clip())


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        (Fixed(model="tiny/2"), clip(), "model is tiny/1 or tiny/2"),
        (Fixed(prompt_sha="def"), clip(), "prompt_sha is abc or def"),
        (Fixed(dtype="bfloat16"), clip(), "dtype is  or bfloat16"),
        (Fixed(), clip(cameras=("front",)), "cameras is"),
        (Fixed(), clip("Reach for the red cube."), "it is of lift, place, the clip of reach"),
    ],
)
def test_a_calibration_for_something_else_gives_no_score(file, model, asked, said):
    with pytest.raises(NoScore, match=said):
        Calibrated(model, file, today=on(date(2026, 1, 1))).score(asked)


def test_a_model_without_log_odds_gives_no_score(file):
    with pytest.raises(NoScore, match="no log-odds"):
        Calibrated(Fixed(None), file, today=on(date(2026, 1, 1))).score(clip())


def test_without_a_calibration_scores_are_for_the_log_only():
    with pytest.raises(BadCalibration, match="there is no calibration"):
        Calibrated(Fixed())
    score = Calibrated(Fixed(), log_only=True).score(clip())
    assert not score.valid.any()
    assert "not calibrated" in score.notes["why"]


def test_a_file_that_was_changed_by_hand_is_refused(file):
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "threshold": 0.1}))
    with pytest.raises(BadCalibration, match="changed by hand"):
        load_calibration(file)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"version": 2}'])
def test_a_file_that_is_no_calibration_is_named(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(BadCalibration, match="is no calibration"):
        load_calibration(path)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(BadCalibration, match="make calibrate-reward"):
        load_calibration(tmp_path / "c.json")


def test_clips_scored_in_two_ways_are_not_calibrated_together():
    with pytest.raises(BadCalibration, match="model is"):
        Key.joined([KEY, replace(KEY, model="tiny/2")])
    reach = replace(KEY, tasks=("reach",))
    assert Key.joined([KEY, reach]).tasks == ("lift", "place", "reach")


def test_the_threshold_leaves_out_false_successes_where_precision_asks_for_it():
    p = np.concatenate([np.linspace(0.6, 0.99, 40), np.linspace(0.01, 0.7, 40)])
    label = np.arange(80) < 40
    strict = choose_threshold(p, label, precision=0.85)
    lenient = choose_threshold(p, label, precision=0.6)
    assert strict.probability > lenient.probability
    assert strict.recall < lenient.recall


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 200), precision=st.floats(0.5, 0.95))
def test_a_threshold_meets_its_target_and_no_better_one_does(seed, n, precision):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2 == 0
    p = np.round(rng.uniform(0, 1, n) * 0.6 + 0.4 * label, 2).clip(0.01, 0.99)

    def bound(least):
        said = p >= least
        return wilson(int(label[said].sum()), int(said.sum()))[0]

    try:
        found = choose_threshold(p, label, precision=precision)
    except BadCalibration:
        assert all(bound(least) < precision for least in np.unique(p))
        return
    said = p >= found.probability
    assert wilson(int(label[said].sum()), int(said.sum()))[0] == found.precision_bound >= precision
    lower = np.unique(p[p < found.probability])
    assert all(bound(least) < precision for least in lower)


def test_no_threshold_says_what_the_best_was():
    label = np.arange(20) % 2 == 0
    with pytest.raises(BadCalibration, match=r"best lower bound is 0\.\d+"):
        choose_threshold(np.full(20, 0.5), label, precision=0.8)
