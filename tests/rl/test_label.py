from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarder.reward import NoScore, Score, clip_of
from rl.label import label, load_score, save_score
from robot.sealed import Damaged
from tests.rl.practice import fake_episode

STEPS = 8
LOOKED = STEPS + 3
"""Observations: a look before, nine around eight steps, a look after."""


def episode_of(task="lift", steps=STEPS):
    episode = fake_episode(steps=steps)
    state = {"joint_pos": np.arange(steps + 1, dtype=np.float32)[:, None]}
    return replace(episode, info=replace(episode.info, task=task), state=state)


def score_of(*, shows=(), blind=(), look=False, steps=STEPS):
    """Success after the steps in `shows` (and in the look after), no judgement after `blind`."""
    success, valid = np.zeros(steps + 3, bool), np.ones(steps + 3, bool)
    success[[step + 2 for step in shows]] = True
    valid[[step + 2 for step in blind]] = False
    success[-1] = look
    progress = np.linspace(0.0, 1.0, steps + 3)
    return Score(success=success, progress=progress, valid=valid, model="fake/1")


def ends(transitions):
    last = transitions[-1]
    return len(transitions), last.terminated, last.truncated


def test_a_step_earns_the_progress_seen_after_it_less_one():
    score = score_of()
    rewards = [step.reward for step in label(episode_of(), score)]
    np.testing.assert_allclose(rewards, score.progress[2:10] - 1.0)


def test_a_step_tells_what_its_start_would_have_earned():
    score = score_of()
    before = [step.reward_before for step in label(episode_of(), score)]
    np.testing.assert_allclose(before, score.progress[1:9] - 1.0)


def test_a_start_that_was_not_judged_is_worth_what_was_judged_last():
    score = score_of(blind=[3, 4])
    steps = {int(step.state["joint_pos"][0]): step for step in label(episode_of(), score)}
    assert steps[5].reward_before == steps[2].reward
    unseen = replace(score, valid=np.arange(LOOKED) >= 3)
    first = label(episode_of(), unseen)[0]
    assert (first.state["joint_pos"][0], first.reward_before) == (1.0, first.reward)


def test_a_step_goes_from_what_was_seen_before_it_to_what_was_seen_after_it():
    step = label(episode_of(), score_of())[3]
    assert (step.state["joint_pos"][0], step.next_state["joint_pos"][0]) == (3.0, 4.0)


def test_running_out_of_time_is_a_truncation_of_the_last_step_alone():
    transitions = label(episode_of(), score_of())
    assert ends(transitions) == (STEPS, False, True)
    assert not any(step.truncated or step.terminated for step in transitions[:-1])


def test_success_that_holds_ends_the_episode_at_no_cost_and_drops_the_rest():
    transitions = label(episode_of(), score_of(shows=[1, 2, 3, 4, 5, 6], look=True))
    assert ends(transitions) == (5, True, False)
    assert transitions[-1].reward == 0.0


def test_one_miss_in_five_does_not_interrupt_a_success():
    transitions = label(episode_of(), score_of(shows=[1, 2, 4, 5], look=True))
    assert ends(transitions) == (6, True, False)


def test_a_flicker_of_success_is_none():
    assert ends(label(episode_of(), score_of(shows=[1, 2, 3]))) == (STEPS, False, True)


def test_observations_that_were_not_judged_do_not_interrupt_a_success():
    transitions = label(episode_of(), score_of(shows=[1, 2, 5, 6], blind=[3, 4], look=True))
    assert ends(transitions) == (5, True, False)


def test_a_step_whose_outcome_was_not_judged_is_left_out_and_nothing_counts_across_it():
    transitions = label(episode_of(), score_of(blind=[3]))
    states = [step.state["joint_pos"][0] for step in transitions]
    assert states == [0, 1, 2, 4, 5, 6, 7]
    assert [step.truncated for step in transitions] == [False, False, True] + [False] * 3 + [True]


def test_the_look_after_confirms_a_success_that_had_only_begun():
    transitions = label(episode_of("place"), score_of(shows=[7], look=True))
    assert ends(transitions) == (STEPS, True, False)
    assert transitions[-1].reward == 0.0


def test_the_look_after_alone_is_no_success_of_the_steps():
    assert ends(label(episode_of(), score_of(look=True))) == (STEPS, False, True)


@pytest.mark.parametrize("task", ["place", "stack", "push"])
def test_the_look_after_denies_a_success_that_it_does_not_see(task):
    transitions = label(episode_of(task), score_of(shows=[1, 2, 3, 4]))
    assert ends(transitions) == (STEPS, False, True)


def test_the_veto_can_be_switched_off():
    score = score_of(shows=[1, 2, 3, 4])
    assert ends(label(episode_of("place"), score, veto_with_last_look=False)) == (5, True, False)


@pytest.mark.parametrize("task", ["reach", "lift"])
def test_what_the_retreat_may_undo_is_not_denied_by_the_look_after(task):
    assert ends(label(episode_of(task), score_of(shows=[1, 2, 3, 4]))) == (5, True, False)


def test_a_look_after_that_was_not_judged_denies_nothing():
    score = score_of(shows=[1, 2, 3, 4], blind=[STEPS])
    assert ends(label(episode_of("place"), score)) == (5, True, False)


def test_how_long_success_must_hold_can_be_set():
    score = score_of(shows=[3])
    assert ends(label(episode_of(), score, holds=(1, 1))) == (4, True, False)


def test_an_episode_that_could_not_be_judged_has_no_label():
    with pytest.raises(NoScore, match="no step"):
        label(episode_of(), score_of(blind=range(STEPS)))


@pytest.mark.parametrize(
    "change",
    [
        {"success": np.zeros(3, bool)},
        {"valid": np.ones(LOOKED, int)},
        {"progress": np.full(LOOKED, np.nan)},
        {"progress": np.full(LOOKED, 1.5)},
    ],
)
def test_a_score_that_makes_no_sense_is_no_label(change):
    with pytest.raises(NoScore):
        label(episode_of(), replace(score_of(), **change))


@given(
    seen=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=30),
    task=st.sampled_from(["lift", "place"]),
)
def test_labels_keep_their_promises(seen, task):
    steps = len(seen) - 3
    success, valid = (np.array(column) for column in zip(*seen, strict=True))
    score = replace(score_of(steps=steps), success=success, valid=valid)
    try:
        transitions = label(episode_of(task, steps), score)
    except NoScore:
        assert not valid[2:-1].any()
        return
    taken = [int(step.state["joint_pos"][0]) for step in transitions]
    assert all(valid[2 + step] for step in taken)
    assert all(-1.0 <= step.reward <= 0.0 for step in transitions)
    assert [step.terminated for step in transitions[:-1]] == [False] * (len(taken) - 1)
    assert transitions[-1].terminated != transitions[-1].truncated
    gaps = [after - before > 1 for before, after in pairwise(taken)]
    assert [step.truncated for step in transitions[:-1]] == gaps


def test_a_clip_shows_both_looks():
    episode = episode_of()
    clip = clip_of(episode)
    assert (len(clip), len(clip.frames["front"]), clip.goal) == (LOOKED, LOOKED, episode.info.goal)


def test_a_kept_score_comes_back_and_a_later_one_replaces_it(tmp_path):
    save_score(tmp_path / "labels", "000001-0a1b2c3d", score_of())
    fresh = replace(
        score_of(shows=[1]),
        model="vlm/7",
        evidence={"height": 0.05},
        notes={"calib_id": "a1"},
        logit=np.arange(len(score_of().valid), dtype=float),
    )
    save_score(tmp_path / "labels", "000001-0a1b2c3d", fresh)
    found = load_score(tmp_path / "labels", "000001-0a1b2c3d")
    assert (found.model, found.evidence) == ("vlm/7", {"height": 0.05})
    assert found.notes == {"calib_id": "a1"}
    for name in ("success", "progress", "valid", "logit"):
        np.testing.assert_array_equal(getattr(found, name), getattr(fresh, name), strict=True)


def test_a_score_that_is_damaged_or_absent_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_score(tmp_path, "000001-0a1b2c3d")
    path = save_score(tmp_path, "000001-0a1b2c3d", score_of())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Damaged, match="delete the file"):
        load_score(tmp_path, "000001-0a1b2c3d")
