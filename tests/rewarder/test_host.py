from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest

from rewarder.cache import ScoreCache, clip_sha
from rewarder.host import Host
from rewarder.metrics import Metrics
from rewarder.reward import NoScore, Score


class Counting:
    """A model that counts how often it is asked."""

    def __init__(self, *, notes=None):
        self.asked, self.notes, self.fails = 0, notes or {}, None

    def score(self, clip):
        self.asked += 1
        if self.fails:
            raise self.fails
        valid = np.ones(len(clip), bool)
        return Score(
            success=valid, progress=valid.astype(float), valid=valid,
            model=f"counting/{self.asked}", notes=self.notes,
        )  # fmt: skip


def host_of(model, *, cached=4, day=None):
    day = day or SimpleNamespace(date=date(2026, 11, 21))
    return Host(model, metrics=Metrics(), cached=cached, today=lambda: day.date)


def of_goal(clip, number):
    return replace(clip, goal=f"Goal {number}.")


def test_a_clip_that_comes_again_is_not_scored_again(clip):
    model = Counting()
    host = host_of(model)
    first, again = (host.judge(clip, clip_sha(clip)) for _ in range(2))
    assert (first.cached, again.cached, model.asked) == (False, True, 1)
    assert again.score is first.score
    counted = host.metrics.registry.get_sample_value
    assert counted("rewarder_cache_total", {"outcome": "hit"}) == 1
    assert counted("rewarder_cache_total", {"outcome": "miss"}) == 1


def test_an_outage_is_never_kept(clip):
    model = Counting()
    host = host_of(model)
    model.fails = NoScore("away", retry=True)
    with pytest.raises(NoScore):
        host.score(clip)
    model.fails = None
    assert host.score(clip).model == "counting/2"


def test_a_score_while_a_part_was_away_is_never_kept(clip):
    model = Counting(notes={"eyes.missing": "away"})
    host = host_of(model)
    host.score(clip)
    host.score(clip)
    assert model.asked == 2


def test_with_the_day_all_is_asked_anew_for_a_calibration_expires(clip):
    model, day = Counting(), SimpleNamespace(date=date(2026, 11, 21))
    host = host_of(model, day=day)
    host.score(clip)
    day.date = date(2026, 11, 22)
    host.score(clip)
    assert model.asked == 2


def test_the_cache_is_bounded_and_forgets_what_was_asked_for_longest_ago(clip):
    model = Counting()
    host = host_of(model, cached=2)
    for number in (1, 2, 1, 3, 1, 2):
        host.score(of_goal(clip, number))
    assert model.asked == 4


def test_a_cache_of_no_entries_keeps_nothing(clip):
    model = Counting()
    host = host_of(model, cached=0)
    host.score(clip)
    host.score(clip)
    assert model.asked == 2


def test_a_cache_of_fewer_than_none_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        ScoreCache(-1)


def changes(clip, cameras):
    front = list(clip.frames["front"])
    swapped = dict(zip(clip.frames, reversed(list(clip.frames.values())), strict=True))
    yield {"goal": clip.goal + " "}
    yield {"stamps": clip.stamps + 1e-6}
    yield {"joint_pos": clip.joint_pos + 1e-9}
    yield {"joint_target": clip.joint_target + 1e-9}
    yield {"frames": {**clip.frames, "front": [front[1], front[0], front[2]]}}
    yield {"frames": {**clip.frames, "front": [front[0][:-1], front[0][-1:] + front[1], front[2]]}}
    yield {"frames": swapped}
    yield {"cameras": cameras}
    yield {"cameras": {n: replace(c, pos=c.pos + 1e-9) for n, c in cameras.items()}}
    yield {"cameras": {}}


def test_whatever_a_model_can_see_is_in_the_hash(clip, cameras):
    hashes = [clip_sha(replace(clip, **change)) for change in changes(clip, cameras)]
    assert len({clip_sha(clip), *hashes}) == 1 + len(hashes)


def test_the_order_of_cameras_is_not(clip):
    turned = dict(reversed(clip.frames.items()))
    assert clip_sha(replace(clip, frames=turned)) == clip_sha(clip)
