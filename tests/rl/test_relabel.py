import json
from dataclasses import replace

import numpy as np
import pytest

from rl.intake import Intake
from rl.label import load_score
from rl.labeller import Labeller
from rl.relabel import relabel
from rl.run_folder import EPISODES, RunFolder
from rl.run_record import BadRun
from robot.journal import Journal
from tests.rl.practice import FakeReward, fake_episode


class Generous(FakeReward):
    def score(self, clip):
        fair = super().score(clip)
        return replace(fair, success=np.ones(len(clip), bool), model="generous/1")


@pytest.fixture
def run(tmp_path):
    """Two arms with two labelled episodes each, and one that could not be judged."""
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    for arm in ("arm01", "arm02"):
        journal = Journal(folder.journal(arm))
        for number in (0, 1):
            path = journal.seal(fake_episode(arm, number))
            told = {"transitions": 5, "reason": None, "return": -2.5, "rewarded_success": False}
            folder.append(EPISODES, {"file": folder.relative(path), "arm": arm, **told})
    path = journal.seal(fake_episode(arm, 2))
    told = {"transitions": 0, "reason": "too dark", "return": None, "rewarded_success": False}
    folder.append(EPISODES, {"file": folder.relative(path), "arm": arm, **told})
    yield folder
    folder.close()


def test_every_episode_gets_the_new_reward(run):
    result = relabel(run, Generous())
    assert (result.episodes, result.relabelled, result.changed, result.unscored) == (5, 5, 5, 0)
    assert {load_score(run.labels, path.stem).model for path in run.episodes()} == {"generous/1"}


def test_successes_are_counted_before_and_after(run):
    result = relabel(run, Generous())
    assert (result.successes_before, result.successes_after) == (0, 5)
    assert str(result).endswith("0 successes became 5")


def test_only_what_the_label_says_changes_in_the_runs_own_account(run):
    before = list(run.lines(EPISODES))
    relabel(run, Generous())
    after = list(run.lines(EPISODES))
    assert [line["file"] for line in after] == [line["file"] for line in before]
    assert {(line["rewarded_success"], line["reason"]) for line in after} == {(True, None)}


def test_the_same_reward_changes_only_what_had_no_label(run):
    assert relabel(run, FakeReward()).changed == 1


def test_a_resumed_run_learns_from_the_new_labels(run):
    relabel(run, Generous())
    labeller = Labeller(FakeReward(), run.labels)
    recalled = list(Intake([], labeller, run).recall())
    labeller.close()
    assert [fate.transitions[-1].terminated for fate in recalled] == [True] * 5


def test_an_episode_that_the_model_cannot_judge_keeps_its_label(run):
    relabel(run, Generous())
    refusing = FakeReward()
    refusing.refuses = True
    before = (run.path / EPISODES).read_bytes()
    result = relabel(run, refusing)
    assert (result.relabelled, result.unscored) == (0, 5)
    assert (run.path / EPISODES).read_bytes() == before
    assert {load_score(run.labels, path.stem).model for path in run.episodes()} == {"generous/1"}


def test_a_damaged_episode_is_left_out(run):
    run.episodes()[0].write_bytes(b"PK")
    assert relabel(run, Generous()).relabelled == 4


def test_a_model_that_stays_away_ends_it_with_what_to_do(run):
    away, time = FakeReward(), iter(range(1000))
    away.away = True
    with pytest.raises(BadRun, match="does not answer; 0 of 5 episodes"):
        relabel(run, away, patience_s=5.0, wait=lambda _: None, now=lambda: next(time))
    assert json.loads((run.path / EPISODES).read_text().splitlines()[0])["return"] == -2.5
