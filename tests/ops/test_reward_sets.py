from collections import Counter

import pytest

from ops import reward_sets
from ops.reward_films import DARK, film
from ops.reward_sets import MISSED, REACHED, main, script_of, simulated, slots
from rewarder.clip_set import Label, open_set
from rewarder.goal import parse_goal
from robot.camera import decode_jpeg


def test_half_of_a_set_is_goals_reached():
    for count in (2, 50, 200):
        kinds = Counter(kind == "done" for _, kind, _ in slots(count))
        assert kinds == {True: count // 2, False: count // 2}


@pytest.mark.parametrize("slot", sorted({*MISSED, *REACHED}))
def test_every_script_asks_for_a_goal_that_is_understood(slot):
    for seed in range(12):
        script = script_of(slot, seed)
        named = parse_goal(script.goal)
        assert named.task == slot[0]
        acted_on = (script.thing, script.other if named.place else None)
        is_it = (named.thing.colour, named.place.colour if named.place else None) == acted_on
        assert is_it == (slot[1] != "wrong")


def test_the_simulated_rater_errs_at_its_stated_rate_at_both_looks():
    truth = [Label(clip=f"{n:016x}", success=n % 2 == 0) for n in range(200)]
    said = list(simulated(truth, seed=3))
    facts = {label.clip: label.success for label in truth}
    wrong = Counter(label.pass_number for label in said if label.success != facts[label.clip])
    assert Counter(label.pass_number for label in said) == {1: 200, 2: 40}
    assert wrong == {1: 6, 2: 2}
    assert said == list(simulated(truth, seed=3))


def test_a_set_is_made_labelled_and_frozen(tmp_path, monkeypatch):
    monkeypatch.setattr(reward_sets, "MISSED", (("reach", "near", ""), ("reach", "hover", "dark")))
    monkeypatch.setattr(reward_sets, "REACHED", (("reach", "done", ""),))
    assert main([f"out={tmp_path / 'four'}", "n=4", "seed=5900000"]) == 0
    found = open_set(tmp_path / "four")
    assert found.frozen
    assert sorted(found.truth().values()) == [False, False, True, True]
    assert {len(item.clip) for item in found.clips.values()} == {4}
    brightness = {
        item.kind: decode_jpeg(item.clip.frames["front"][-1]).mean()
        for item in found.clips.values()
    }
    assert brightness["hover_dark"] < (DARK + 0.2) * brightness["near"]


def test_the_same_seed_films_the_same_clip():
    script = script_of(("reach", "near", "shifted"), 5_900_100)
    first, again = film(script), film(script)
    assert first is not None
    assert again is not None
    assert first[0].clip.frames == again[0].clip.frames
    assert first[1] is False


@pytest.mark.parametrize("words", [["n=50"], ["out=x", "n=3"], ["out=x", "seed=7"], ["x=1"]])
def test_words_that_make_no_set_end_with_2(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())
