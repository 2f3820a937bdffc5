import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rl.alarm import UNFROZEN, Alarm
from rl.audit import AUDITS, Audit, Rules
from rl.fleet import LocalFleet
from rl.intake import Intake
from rl.labeller import Labeller
from rl.loop import Schedule, Training
from rl.run_folder import RunFolder
from tests.rl.practice import STEPS, FakeLearner, FakeReward, FakeWorker

SCHEDULE = Schedule(steps=60, warmup_steps=10, updates_per_step=0.5, publish_s=0.0)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    yield folder
    folder.close()


def training(
    folder, *, schedule=SCHEDULE, reward=None, arms=("arm01", "arm02"), is_taught=False, **more
):
    fleet = LocalFleet()
    fleet.start({arm: partial(FakeWorker, folder.journal(arm), arm) for arm in arms})
    labeller = Labeller(reward or FakeReward(), folder.labels, first_wait_s=0.01)
    learner = FakeLearner()
    learner.is_taught = is_taught
    intake = Intake([fleet], labeller, folder)
    run = Training(learner=learner, intake=intake, folder=folder, schedule=schedule, **more)
    return run, learner, labeller


def test_a_run_takes_its_steps_and_the_updates_they_are_worth(folder):
    run, learner, labeller = training(folder)
    run.run()
    labeller.close()
    assert run.counters.env_steps == 60
    assert learner.updates == run.counters.updates == run.counters.transitions // 2


def test_arms_follow_the_newest_policy(folder):
    run, _, labeller = training(folder)
    run.run()
    labeller.close()
    policies = [line["policy"] for line in folder.lines("episodes.jsonl")]
    assert policies[0] == "random"
    assert policies[-1].startswith("learned/")


def test_a_policy_that_was_taught_acts_from_the_first(folder):
    schedule = Schedule(steps=60, warmup_steps=60, publish_s=0.0)
    run, _, labeller = training(folder, schedule=schedule, is_taught=True)
    run.run()
    labeller.close()
    policies = {line["policy"] for line in list(folder.lines("episodes.jsonl"))[2:]}
    assert policies == {"learned/000000"}


def test_a_resumed_run_goes_on_from_the_same_step(folder):
    run, _, labeller = training(folder)
    run.run()
    labeller.close()
    again, learner, labeller = training(folder)
    again.restore()
    labeller.close()
    assert (again.counters.env_steps, again.counters.transitions, again.counters.updates) == (
        run.counters.env_steps,
        run.counters.transitions,
        run.counters.updates,
    )
    assert learner.transitions == run.counters.transitions
    assert again.counters.wall_s == pytest.approx(run.counters.wall_s, abs=1.0)


def test_an_episode_sealed_but_not_counted_before_a_crash_is_counted_after_it(folder):
    FakeWorker(folder.journal("arm01"), "arm01").run_episode(None)
    run, _, labeller = training(folder)
    run.restore()
    run.run()
    labeller.close()
    assert run.counters.env_steps == 60
    assert len(folder.episodes()) == 60 // STEPS


def test_episodes_wait_in_the_journal_while_the_rewarder_is_away(folder):
    reward = FakeReward()
    reward.away = True

    class Watcher:
        def __init__(self):
            self.sentences = []

        def show(self, figures):
            self.sentences += figures.troubles
            if figures.troubles and figures.pending >= 60 // STEPS:
                reward.away = False

    view = Watcher()
    run, _, labeller = training(folder, reward=reward, view=view)
    run.run()
    labeller.close()
    assert "the rewarder does not answer" in view.sentences
    assert (run.counters.env_steps, run.counters.unlabelled) == (60, 0)


def test_arms_wait_for_a_learner_that_is_behind(folder):
    told = []

    class Fleet(LocalFleet):
        def hold(self, *, held):
            super().hold(held=held)
            told.append(held)

    fleet = Fleet()
    fleet.start({"arm01": partial(FakeWorker, folder.journal("arm01"), "arm01")})
    labeller = Labeller(FakeReward(), folder.labels)
    schedule = Schedule(steps=60, warmup_steps=10, updates_per_step=20, max_debt=1)
    run = Training(
        learner=FakeLearner(),
        intake=Intake([fleet], labeller, folder),
        folder=folder,
        schedule=schedule,
    )
    run.run()
    labeller.close()
    assert True in told
    assert run.counters.updates == 20 * run.counters.transitions


def test_a_stopped_run_leaves_a_checkpoint(folder):
    run, _, labeller = training(folder)
    run.stopping.set()
    run.run()
    labeller.close()
    assert folder.newest_checkpoint() is not None


def test_a_run_ends_after_its_minutes(folder):
    run, _, labeller = training(folder, schedule=Schedule(steps=10**9, minutes=0.01))
    run.run()
    labeller.close()
    assert run.counters.wall_s < 5


def test_metrics_and_state_are_there_to_read(folder):
    run, _, labeller = training(folder)
    run.run()
    labeller.close()
    assert json.loads((folder.path / "state.json").read_text())["updates"] == run.counters.updates
    assert next(folder.lines("metrics.jsonl"))["env_steps"] > 0


class Gullible(FakeReward):
    """Calls everything a success."""

    def score(self, clip):
        fair = super().score(clip)
        return replace(fair, success=np.ones(len(clip), bool))


class Watcher:
    """Hands a run's figures to a function."""

    def __init__(self, look):
        self.show = look


def audited(folder, judge, look=lambda figures: None, *, patience_s=0.5):
    """Return a run with a gullible reward, every success of which is audited."""
    audit = Audit(judge, folder, Rules(every=1))
    schedule = Schedule(steps=200, warmup_steps=10, publish_s=0.0, patience_s=patience_s)
    run, learner, labeller = training(
        folder, schedule=schedule, reward=Gullible(), audit=audit, view=Watcher(look)
    )
    run.restore()
    run.run()
    labeller.close()
    audit.close()
    return run, learner


def test_a_fooled_reward_freezes_updates_and_holds_the_arms(folder):
    run, learner = audited(folder, FakeReward())
    event = Alarm(folder.path).frozen
    assert "confirms 0 of the newest" in event.why
    assert run.counters.env_steps < 200
    assert learner.updates == run.counters.updates == event.updates
    assert f"make unfreeze RUN={folder.path.name}" in run.frozen
    newest = list(folder.lines("metrics.jsonl"))[-1]
    assert (newest["audit/frozen"], newest["audit/precision"]) == (1.0, 0.0)


def test_a_frozen_run_stays_frozen_when_it_goes_on(folder):
    first, _ = audited(folder, FakeReward())
    again, learner = audited(folder, FakeReward(), patience_s=0.0)
    assert again.frozen
    assert again.counters.updates == first.counters.updates == learner.updates


def test_a_frozen_run_goes_on_once_a_person_says_so(folder):
    told = []

    def look(figures):
        if figures.audited.frozen and not told:
            told.append(figures.troubles[0])
            known = sum(1 for _ in folder.lines("episodes.jsonl"))
            Alarm(folder.path).add(UNFROZEN, why="the lamp is fixed", episodes=known)

    judge = FakeReward()
    run, learner = audited(folder, Turncoat(judge, told), look, patience_s=60.0)
    assert "updates are frozen: the judge confirms" in told[0]
    assert (run.frozen, run.counters.env_steps) == (None, 200)
    assert learner.updates > Alarm(folder.path).events[0].updates


class Turncoat:
    """Denies every success until somebody is told of it, and confirms every one after that."""

    def __init__(self, denies, told):
        self.denies, self.told, self.confirms = denies, told, Gullible()

    def score(self, clip):
        return (self.confirms if self.told else self.denies).score(clip)


def test_a_run_whose_successes_are_confirmed_goes_to_its_end(folder):
    run, learner = audited(folder, Gullible())
    assert (run.frozen, run.counters.env_steps) == (None, 200)
    assert learner.updates == run.counters.transitions // 2
    assert all(line["right"] for line in folder.lines(AUDITS))


def test_a_judge_that_is_away_holds_nobody_up(folder):
    judge = FakeReward()
    judge.away = True
    words = []
    run, _ = audited(folder, judge, lambda figures: words.extend(figures.troubles))
    assert (run.frozen, run.counters.env_steps) == (None, 200)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": "many"}, {"steps": 9, "max_debt": 0}])
def test_an_impossible_schedule_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a whole number"):
        Schedule(**wrong)
