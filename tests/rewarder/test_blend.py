from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarder.blend import MOST, Blend
from rewarder.reward import NoScore, Score
from rewarder.smooth import Smooth, averaged, held

YES, NO = np.array([True]), np.array([False])


@dataclass
class Says:
    """A model that gives one score, or none."""

    success: object
    progress: object = 0.5
    logit: object = None
    valid: object = True
    fails: NoScore | None = None

    def score(self, clip):
        if self.fails:
            raise self.fails
        success = np.atleast_1d(self.success).astype(bool)
        return Score(
            success=success,
            progress=np.broadcast_to(np.asarray(self.progress, float), success.shape).copy(),
            valid=np.broadcast_to(self.valid, success.shape).copy(),
            model="fake/1",
            logit=None if self.logit is None else np.atleast_1d(np.asarray(self.logit, float)),
            evidence={"height_m": 0.1},
            notes={"why": "so"},
        )


def blended(clip, parts, **how):
    return Blend(parts, **({"weights": dict.fromkeys(parts, 1.0)} | how)).score(clip)


@pytest.fixture
def short(clip):
    from dataclasses import replace  # noqa: PLC0415

    return replace(clip, stamps=clip.stamps[:1])


def test_log_odds_are_averaged_by_weight(short):
    parts = {"a": Says(YES, logit=2.0), "b": Says(NO, logit=-1.0)}
    score = blended(short, parts, weights={"a": 3.0, "b": 1.0})
    assert score.logit.tolist() == [1.25]
    assert score.success.tolist() == [True]


def test_no_part_outvotes_the_others_by_being_certain(short):
    parts = {"a": Says(YES, logit=1e9), "b": Says(NO, logit=-4.0), "c": Says(NO, logit=-4.0)}
    score = blended(short, parts)
    assert score.logit[0] == pytest.approx((MOST - 8.0) / 3)
    assert not score.success[0]


def test_a_success_that_a_veto_denies_is_none_and_pays_no_more_than_the_veto_says(short):
    parts = {"eyes": Says(YES, 0.9, logit=5.0), "geometry": Says(NO, 0.2)}
    score = blended(short, parts, weights={"eyes": 1.0}, vetoes=["geometry"])
    assert not score.success[0]
    assert score.progress.tolist() == [0.2]
    assert score.evidence["vetoed_share"] == 1.0
    assert score.evidence["disagreement"] == 1.0


def test_a_veto_alone_makes_no_success(short):
    parts = {"eyes": Says(NO, logit=-1.0), "geometry": Says(YES)}
    assert not blended(short, parts, weights={"eyes": 1.0}, vetoes=["geometry"]).success[0]


def test_where_a_needed_part_cannot_judge_nothing_is_valid(short):
    parts = {"eyes": Says(YES, logit=5.0), "geometry": Says(YES, valid=False)}
    score = blended(short, parts, weights={"eyes": 1.0}, vetoes=["geometry"])
    assert not score.valid[0]
    assert not score.success[0]
    assert np.isnan(score.logit[0])


def test_where_one_that_may_fail_cannot_judge_the_others_do(short):
    parts = {"eyes": Says(YES, 0.9, logit=5.0, valid=False), "small": Says(NO, 0.3, logit=-2.0)}
    score = blended(short, parts, may_fail=["eyes"])
    assert (score.valid[0], score.logit[0], score.progress[0]) == (True, -2.0, 0.3)


def test_progress_can_be_that_of_one_part(short):
    parts = {"eyes": Says(NO, 0.9), "geometry": Says(NO, 0.2)}
    assert blended(short, parts).progress[0] == pytest.approx(0.55)
    assert blended(short, parts, progress="geometry").progress.tolist() == [0.2]


def test_an_outage_is_no_score_and_says_whose(short):
    parts = {"eyes": Says(YES, fails=NoScore("down", retry=True)), "geometry": Says(YES)}
    with pytest.raises(NoScore, match="eyes: down") as refusal:
        blended(short, parts)
    assert refusal.value.retry


def test_an_outage_that_may_be_leaves_the_others_and_a_note(short):
    parts = {"eyes": Says(YES, fails=NoScore("down", retry=True)), "small": Says(YES, logit=2.0)}
    score = blended(short, parts, may_fail=["eyes"])
    assert (score.logit[0], score.notes["eyes.missing"]) == (2.0, "down")


def test_an_outage_of_all_that_have_a_weight_is_no_score(short):
    parts = {"eyes": Says(YES, fails=NoScore("down", retry=True)), "geometry": Says(YES)}
    with pytest.raises(NoScore, match="eyes: down"):
        blended(short, parts, weights={"eyes": 1.0}, vetoes=["geometry"], may_fail=["eyes"])


def test_figures_and_words_of_the_parts_are_kept_apart(short):
    score = blended(short, {"a": Says(YES), "b": Says(YES)})
    assert {"a.height_m", "b.height_m"} <= score.evidence.keys()
    assert score.notes == {"a.why": "so", "b.why": "so"}
    assert score.model == "blend(a=fake/1, b=fake/1)"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"weights": {"c": 1.0}}, "weights names c"),
        ({"vetoes": ["c"]}, "vetoes names c"),
        ({"progress": "c"}, "progress names c"),
        ({"weights": {"a": 0.0}}, "one above 0"),
        ({"weights": {"a": -1.0, "b": 2.0}}, "none below 0"),
        ({"vetoes": ["a"], "may_fail": ["a"]}, "a has a veto and may fail"),
    ],
)
def test_a_blend_that_makes_no_sense_is_refused(short, how, why):
    with pytest.raises(ValueError, match=why):
        blended(short, {"a": Says(YES), "b": Says(YES)}, **how)


logits = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(np.nan))


@st.composite
def said(draw):
    logit = draw(logits)
    logit = None if logit is None else np.full(3, logit)
    return Says(np.full(3, draw(st.booleans())), draw(st.floats(0, 1)), logit, draw(st.booleans()))


@given(said(), said())
def test_whatever_the_parts_say_a_success_is_valid_and_denied_by_no_veto(clip, a, b):
    score = blended(clip, {"a": a, "b": b}, vetoes=["b"], may_fail=["a"])
    assert not (score.success & ~score.valid).any()
    assert not score.success.any() or b.success.all()
    assert ((score.progress >= 0.0) & (score.progress <= 1.0)).all()


def test_a_success_that_flickers_is_believed_once_it_is_there_three_times_of_four(clip):
    shows = np.array([0, 1, 0, 1, 1, 1, 0, 1], bool)
    assert held(shows, 3, 4).tolist() == [0, 0, 0, 0, 1, 1, 0, 1]


def test_progress_is_averaged_over_time_and_what_was_not_judged_is_left_out(clip):
    assert averaged(np.array([0.0, 1.0, 1.0]), 0.5).tolist() == [0.0, 0.5, 0.75]
    valid = np.array([True, False, True])
    score = Smooth(Says(np.ones(3), np.array([0.0, 1.0, 1.0]), valid=valid)).score(clip)
    assert score.progress.tolist() == [0.0, 1.0, 0.5]
    assert not score.success[[0, 2]].any()


@pytest.mark.parametrize("how", [{"share": 0.0}, {"share": 1.5}, {"holds": (4, 3)}])
def test_a_smoothing_that_makes_no_sense_is_refused(how):
    with pytest.raises(ValueError, match="share="):
        Smooth(Says(YES), **how)
