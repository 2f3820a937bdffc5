import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarder.reward import NoScore, Score
from rl.alarm import ALARM, UNFROZEN, Alarm
from rl.audit import AUDITS, MOST_PENDING, Audit, Rules, Seen, misgiving, verdicts
from rl.labeller import Labelled
from rl.run_folder import EPISODES, Counters, RunFolder
from rl.run_record import BadRun
from rl.transition import Transition
from robot.journal import Journal
from tests.rl.practice import fake_episode

RULES = Rules()
COUNTERS = Counters(env_steps=500, updates=250)


class Judge:
    """Says of every clip what it is told to say."""

    def __init__(self, *, success=True):
        self.success, self.silent, self.asked = success, False, 0

    def score(self, clip):
        self.asked += 1
        if self.silent:
            raise NoScore("the picture is black")
        size = len(clip)
        return Score(
            success=np.full(size, self.success),
            progress=np.full(size, 0.5),
            valid=np.ones(size, bool),
            model="judge/1",
        )


def earned(*, success):
    """Return a step that ends in success or not."""
    return Transition(
        state={},
        action=np.zeros(4, np.float32),
        reward=-0.5,
        reward_before=-0.5,
        next_state={},
        terminated=success,
        truncated=not success,
    )


@dataclass
class Bench:
    """A run whose episodes are rewarded as it is told."""

    folder: RunFolder
    judge: Judge
    audit: Audit | None = None

    def open(self, **rules):
        self.audit = Audit(self.judge, self.folder, Rules(**rules))
        return self.audit

    def reward(self, *, success=True, policy="learned/000001"):
        journal = Journal(self.folder.journal("arm01"))
        number = len(journal.episodes())
        episode = fake_episode(number=number, policy=policy)
        path = journal.seal(episode)
        step = earned(success=success)
        labelled = Labelled(path=path, episode=episode, transitions=[step])
        self.folder.append(EPISODES, {"file": self.folder.relative(path)})
        self.audit.see(labelled)
        return labelled

    def settle(self):
        """Wait until the judge has answered, and look."""
        for future in self.audit._judge._futures:
            future.result(timeout=20)
        self.audit.look(COUNTERS)
        return self.audit.figures()


@pytest.fixture
def bench(tmp_path):
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    bench = Bench(folder, Judge())
    bench.open()
    yield bench
    bench.audit.close()
    folder.close()


def seen(*rights, rewarded=True):
    return [Seen(rewarded=rewarded, right=right) for right in rights]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_audits_that_confirm_every_success_never_freeze(history):
    episodes = [Seen(rewarded=r, right=True if r and audited else None) for r, audited in history]
    assert misgiving(episodes, RULES) is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_one_wrong_audit_never_freezes(before, after):
    assert misgiving(seen(*[True] * before, False, *[True] * after), RULES) is None


@given(st.integers(0, 150))
@settings(deadline=None)
def test_a_reward_that_begins_to_lie_is_frozen_within_sixteen_audits(before):
    history = [True] * before + [False] * 16
    assert any(misgiving(seen(*history[:end]), RULES) for end in range(len(history) + 1))


@pytest.mark.parametrize(
    ("rights", "freezes"),
    [
        ([False] * 4, False),
        ([False] * 5, True),
        ([True, True, False, False, False], True),
        ([True, True, True, False, False], False),
        ([True, False] * 4, True),
        ([True] * 46 + [False] * 4, False),
        ([True] * 45 + [False] * 5, True),
        ([True] * 88 + [False] * 12, False),
        ([True] * 87 + [False] * 13, True),
    ],
)
def test_freezing_follows_the_bounds_of_precision(rights, freezes):
    assert (misgiving(seen(*rights), RULES) is not None) is freezes


def test_what_lies_before_the_window_counts_no_more():
    assert verdicts(seen(*[False] * 10, *[True] * 100), 100) == (100, 100)


def test_episodes_without_an_audit_are_no_verdicts():
    assert verdicts(seen(None, True, None, False), 100) == (1, 2)


def stretch(rewarded, right, wrong, size=40):
    """Return `size` episodes: `rewarded` of them successes, of which some are audited."""
    audited = [True] * right + [False] * wrong
    successes = [*audited, *[None] * (rewarded - len(audited))]
    return seen(*successes) + seen(*[None] * (size - rewarded), rewarded=False)


def test_judges_that_diverge_freeze_although_the_bounds_do_not():
    before, newest = stretch(10, 9, 1), stretch(30, 9, 6)
    assert misgiving(before, RULES) is None
    assert misgiving(newest, Rules(few=20)) is None
    assert misgiving([*before, *newest], RULES) is None
    newest = stretch(36, 6, 4)
    assert "while the judge's went" not in str(misgiving([*before, *newest], RULES))
    calm = Rules(precision=0.1)
    assert "from 0.25 to 0.90" in str(misgiving([*before, *stretch(36, 2, 8)], calm))


def test_success_that_rises_for_both_judges_does_not_freeze():
    assert misgiving([*stretch(8, 6, 2), *stretch(36, 18, 4)], Rules(precision=0.1)) is None


def test_success_that_falls_is_no_divergence():
    assert misgiving([*stretch(36, 9, 1), *stretch(8, 5, 2)], Rules(precision=0.1)) is None


def test_too_few_audits_are_no_divergence():
    calm = Rules(precision=0.1)
    assert misgiving([*stretch(10, 4, 0), *stretch(36, 0, 4)], calm) is None


def test_the_first_success_of_each_policy_and_one_in_so_many_are_audited(bench):
    bench.open(every=3)
    for policy in "aaaaabb":
        bench.reward(success=False, policy=policy)
        bench.reward(policy=policy)
        bench.settle()
    audited = [line["number"] for line in bench.folder.lines(AUDITS)]
    assert audited == [1, 5, 11]


def test_five_wrong_audits_freeze_and_say_when(bench):
    bench.judge.success = False
    for number in range(5):
        assert bench.audit.frozen is None
        bench.reward(policy=f"learned/{number}")
        bench.settle()
    event = bench.audit.frozen
    assert (event.episodes, event.env_steps, event.updates) == (5, 500, 250)
    assert "confirms 0 of the newest 5" in event.why
    assert bench.audit.figures().metrics()["audit/frozen"] == 1.0


def test_a_judge_without_a_score_makes_no_audit(bench):
    bench.judge.silent = True
    for number in range(20):
        bench.reward(policy=f"learned/{number}")
        figures = bench.settle()
    assert (figures.audits, figures.missed, figures.frozen) == (0, 20, None)
    assert "audit/precision" not in figures.metrics()


def test_a_judge_that_does_not_answer_holds_nobody_up(bench):
    bench.judge.score = lambda clip: (_ for _ in ()).throw(NoScore("away", retry=True))
    for number in range(MOST_PENDING + 5):
        bench.reward(policy=f"learned/{number}")
        bench.audit.look(COUNTERS)
    figures = bench.audit.figures()
    assert (figures.pending, figures.missed) == (MOST_PENDING, 5)


def again(bench):
    """Open the run in another process, so to speak."""
    episodes = list(bench.folder.lines(EPISODES))
    bench.audit.close()
    audit = bench.open()
    for line in episodes:
        path = bench.folder.path / line["file"]
        step = earned(success=True)
        audit.see(Labelled(path=path, episode=None, transitions=[step]))
    return audit


def test_audits_and_the_freeze_survive_a_restart(bench):
    bench.judge.success = False
    for number in range(5):
        bench.reward(policy=f"learned/{number}")
    before = bench.settle()
    asked = bench.judge.asked
    after = again(bench).figures()
    assert after.frozen == before.frozen
    assert (after.right, after.audits, bench.judge.asked) == (0, 5, asked)


def test_after_an_unfreezing_the_window_begins_anew(bench):
    bench.judge.success = False
    for number in range(5):
        bench.reward(policy=f"learned/{number}")
    bench.settle()
    Alarm(bench.folder.path).add(UNFROZEN, why="the lamp is fixed", episodes=5)
    figures = bench.settle()
    assert (figures.frozen, figures.audits) == (None, 0)
    assert len(list(bench.folder.lines(AUDITS))) == 5
    assert again(bench).figures().audits == 0
    for number in range(5):
        bench.reward(policy=f"learned/1{number}")
    assert bench.settle().frozen is not None
    assert [event.event for event in Alarm(bench.folder.path).events] == [
        "frozen",
        "unfrozen",
        "frozen",
    ]


def test_without_a_judge_nothing_is_audited(bench):
    bench.judge = None
    audit = bench.open()
    bench.reward()
    audit.look(COUNTERS)
    assert audit.figures().metrics() == {"audit/frozen": 0.0}


def test_a_damaged_alarm_is_no_reason_to_go_on(bench):
    (bench.folder.path / ALARM).write_text(json.dumps({"events": [{"event": "frozen"}]}))
    with pytest.raises(BadRun, match="nobody knows whether updates are frozen"):
        bench.open()


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": "all"}, {"precision": 1.5}])
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a"):
        Rules(**wrong)
