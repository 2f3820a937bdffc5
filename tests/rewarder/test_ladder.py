from dataclasses import dataclass, field

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from rewarder.ladder import Ladder
from rewarder.pair_judges import ScoreJudge
from rewarder.reward import NoScore, Score, lacks_a_part
from rewarder.server import CONF


@dataclass
class Rung:
    """A model that gives a score, or fails."""

    name: str
    fails: NoScore | None = None
    valid: bool = True
    asked: int = field(default=0, init=False)

    def score(self, clip):
        self.asked += 1
        if self.fails:
            raise self.fails
        valid = np.full(len(clip), self.valid)
        return Score(success=valid, progress=valid.astype(float), valid=valid, model=self.name)


DOWN = NoScore("connection refused", retry=True)


def test_the_first_rung_judges_and_the_others_are_not_asked(clip):
    second = Rung("small/1")
    score = Ladder({"vlm": Rung("large/1"), "embedded": second}).score(clip)
    assert (score.model, score.notes) == ("large/1", {"rung": "vlm"})
    assert second.asked == 0
    assert not lacks_a_part(score)


def test_an_outage_goes_one_rung_down_and_the_answer_says_so(clip):
    score = Ladder({"vlm": Rung("large/1", DOWN), "embedded": Rung("small/1")}).score(clip)
    assert score.model == "small/1"
    assert score.notes == {"rung": "embedded", "vlm.missing": "connection refused"}
    assert lacks_a_part(score)


def test_below_the_last_rung_there_is_no_label(clip):
    ladder = Ladder({"vlm": Rung("large/1", DOWN), "embedded": Rung("small/1", DOWN)})
    with pytest.raises(NoScore, match=r"vlm: connection refused; embedded: conn") as refusal:
        ladder.score(clip)
    assert refusal.value.retry


def test_what_a_rung_refuses_no_lesser_one_is_asked_about(clip):
    second = Rung("small/1")
    with pytest.raises(NoScore, match="vlm: two goals in one") as refusal:
        Ladder({"vlm": Rung("large/1", NoScore("two goals in one")), "small": second}).score(clip)
    assert (refusal.value.retry, second.asked) == (False, 0)


def test_what_a_rung_cannot_see_stays_unjudged(clip):
    ladder = Ladder({"vlm": Rung("large/1", valid=False), "embedded": Rung("small/1")})
    assert not ladder.score(clip).valid.any()


def test_two_clips_judged_on_different_rungs_are_not_compared(clip):
    vlm = Rung("large/1")

    class Dies:
        def score(self, clip):
            score = vlm.score(clip)
            vlm.fails = DOWN
            return score

    judge = ScoreJudge(Ladder({"vlm": Dies(), "embedded": Rung("small/1")}))
    with pytest.raises(NoScore, match="large/1 judged one clip and small/1 the other") as refusal:
        judge.first_is_better(clip, clip)
    assert refusal.value.retry


def test_a_ladder_without_rungs_is_refused():
    with pytest.raises(ValueError, match="no rungs"):
        Ladder({})


def test_the_configured_ladder_asks_the_served_model_first_and_keeps_the_veto():
    with initialize_config_dir(version_base=None, config_dir=str(CONF)):
        reward = compose("rewarder", overrides=["reward=ladder"]).reward
    assert list(reward.rungs) == ["vlm", "embedded"]
    assert reward.rungs.vlm.model._target_ == "rewarder.openai.OpenAiVL"
    assert reward.rungs.embedded.vetoes == ["geometry"]
