import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl.ab import compare, decided, paired, schedule, table, verdict
from rl.run_record import BadRun, RunRecord
from rl.trial import Trial
from rl.trial_pool import Conditions

WON = Trial(seed=0, success=True, time_s=2.0, end="done", gentle=True, guard_events={})
LOST = replace(WON, success=False, time_s=6.0, end="time_limit")
RUN = RunRecord(
    folder=Path("runs/a"),
    task="lift",
    goal="Lift the red cube.",
    preset="stiff",
    seed=0,
    actors=4,
    reward="heuristic",
    git_revision="abc",
    env_steps=1,
    updates=1,
    wall_s=1.0,
    cpu_s=1.0,
)


@pytest.fixture
def runs(tmp_path):
    runs = [replace(RUN, folder=tmp_path / name) for name in "ab"]
    for run in runs:
        run.policy.mkdir(parents=True)
        (run.policy / "policy.json").write_text("{}")
    return runs


def test_both_play_every_layout(runs):
    jobs = schedule(runs, range(5, 25), "stiff")
    plays = {(contender.policy.parent.name, seed) for contender, seed in jobs}
    assert plays == {(name, seed) for name in "ab" for seed in range(5, 25)}


def test_who_comes_first_cannot_be_known(runs):
    firsts = {contender.policy.parent.name for contender, _ in schedule(runs, range(20), "")[::2]}
    assert firsts == {"a", "b"}


def test_pairs_are_of_one_seed_and_in_order_whatever_ends_first(runs):
    jobs = schedule(runs, range(30), "stiff")
    ended = [
        (index, replace(WON, seed=seed, success=contender.policy.parent.name == "a"))
        for index, (contender, seed) in enumerate(jobs)
    ]
    shuffled = [ended[i] for i in np.random.default_rng(1).permutation(len(ended))]
    pairs = list(paired(shuffled, jobs, runs))
    assert [a.seed for a, _ in pairs] == [b.seed for _, b in pairs] == list(range(30))
    assert all(a.success and not b.success for a, b in pairs)


def test_a_sequential_test_stops_once_the_difference_is_certain():
    pairs = [(WON, LOST)] * 50
    assert len(list(decided(pairs, test_after_each=True))) == 8
    assert len(list(decided(pairs, test_after_each=False))) == 50


def test_equal_runs_are_tried_to_the_end():
    pairs = [(WON, LOST), (LOST, WON)] * 25
    assert len(list(decided(pairs, test_after_each=True))) == 50


def test_the_better_run_is_named(runs):
    result = verdict(runs, [(LOST, WON)] * 9 + [(WON, WON)] * 5, sequential=False)
    assert (result["better"], result["only_b"], result["difference"]) == ("B", 9, -0.6429)
    assert result["p_value"] == pytest.approx(2 / 2**9)


def test_a_small_difference_names_nobody(runs):
    result = verdict(runs, [(LOST, WON)] * 4 + [(WON, WON)] * 5, sequential=False)
    assert result["better"] is None
    assert "not certain" in table(result)


def test_stopping_early_uses_a_p_value_that_allows_it(runs):
    pairs = [(WON, LOST)] * 9
    early, fixed = (verdict(runs, pairs, sequential=is_early) for is_early in (True, False))
    assert fixed["p_value"] < early["p_value"] <= 0.05


def test_the_table_shows_both_runs(runs):
    text = table(verdict(runs, [(WON, LOST), (WON, WON)], sequential=False))
    assert "A  2/2" in text
    assert "B  1/2" in text


def test_runs_of_two_goals_cannot_be_compared(tmp_path):
    for name, goal in (("a", "Lift the red cube."), ("b", "Lift the blue cube.")):
        (tmp_path / name).mkdir()
        facts = {"version": 1, "task": "lift", "goal": goal, "preset": "stiff", "seed": 0}
        facts |= {"actors": 4, "reward": "heuristic", "git_revision": "abc"}
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
        state = {"env_steps": 1, "updates": 1, "wall_s": 1.0, "cpu_s": 1.0}
        (tmp_path / name / "state.json").write_text(json.dumps(state))
    with pytest.raises(BadRun, match="two runs of one goal"):
        compare(
            tmp_path / "a",
            tmp_path / "b",
            Conditions(),
            sequential=False,
            out=tmp_path / "ab.jsonl",
        )
