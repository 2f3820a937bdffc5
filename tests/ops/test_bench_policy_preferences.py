from dataclasses import replace

import numpy as np
import pytest

from ops.bench_policy_preferences import (
    DISCOUNT,
    Plan,
    judged,
    main,
    ranked_of,
    regress,
    returns_of,
    taught,
)
from ops.simulated_person import Answers, Played, ask
from policy_server.backends.learned import LearnedPolicy
from policy_server.backends.network import encoding_of
from rewarder.preference import FEATURES
from rl.bc import Steps
from rl.preference import Contrast, actor_of
from rl.trial import Trial
from robot.words import UsageError
from tests.rl.test_bc import SIZE, SPEC, answers
from tests.rl.test_preference import GOOD, actor, along

PLAN = Plan(contrast=Contrast(), regression_keep=0.01, updates=150, learning_rate=3e-3, seed=0)
EPISODES, STEPS = 24, 10


@pytest.fixture(scope="module")
def played():
    """Return episodes of much the same action each, which features and truth tell the worth of."""
    draws = np.random.default_rng(0)
    about = draws.uniform(-0.8, 0.8, (EPISODES, 4))
    worth = 0.5 + 0.5 * (about @ GOOD)
    actions = np.repeat(about, STEPS, axis=0) + draws.uniform(-0.1, 0.1, (EPISODES * STEPS, 4))
    rows = draws.normal(0.0, 0.1, (EPISODES, STEPS, len(FEATURES)))
    rows[:, :, 0] += worth[:, None]
    return Played(
        steps=Steps(
            # What is seen is always the same, or a value could be told from it.
            states=np.zeros((EPISODES * STEPS, SIZE), np.float32),
            actions=actions.astype(np.float32),
            episode=np.repeat(np.arange(EPISODES), STEPS),
        ),
        rows=rows,
        valid=np.ones((EPISODES, STEPS), bool),
        truth=worth,
        success=worth > 0.6,
    )


@pytest.fixture(scope="module")
def base():
    return LearnedPolicy(SPEC, encoding_of(SPEC), actor().layers[0])


def way(policy, played):
    """Return how far a policy's answers go along `GOOD`, on average."""
    return along(actor_of(policy), played.steps.states)


def test_the_person_errs_seldom_and_passes_over_what_is_alike():
    truth = np.random.default_rng(1).random(60)
    truth[:20] = 0.5
    said = ask(truth, 200, np.random.default_rng(0))
    right = truth[said.first] > truth[said.second]
    assert int((said.said != right).sum()) == said.wrong
    assert 2 <= said.wrong <= 25
    assert said.ties > 0
    assert (truth[said.first] != truth[said.second]).all()
    assert 60 < int(said.said.sum()) < 140
    with pytest.raises(UsageError, match="can be told apart"):
        ask(np.full(10, 0.5), 5, np.random.default_rng(0))


def test_the_better_of_a_pair_is_the_one_that_was_named():
    said = Answers(
        first=np.array([3, 5]),
        second=np.array([4, 6]),
        said=np.array([True, False]),
        wrong=0,
        ties=0,
    )
    played = Played(
        steps=Steps(
            states=np.zeros((1, SIZE), np.float32),
            actions=np.zeros((1, 4), np.float32),
            episode=np.zeros(1, np.int64),
        ),
        rows=np.zeros((1, 1, 10)),
        valid=np.ones((1, 1), bool),
        truth=np.zeros(1),
        success=np.zeros(1, bool),
    )
    ranked = ranked_of(played, said)
    assert (ranked.better.tolist(), ranked.worse.tolist()) == ([3, 6], [4, 5])


def test_a_return_goes_on_where_time_runs_out():
    returns = returns_of(np.full((1, 5), 0.3))
    np.testing.assert_allclose(returns, 0.3 / (1 - DISCOUNT))
    late = returns_of(np.array([[0.0, 1.0]]))
    assert late[0, 0] == pytest.approx(DISCOUNT * late[0, 1])


@pytest.mark.parametrize("how", ["cpl", "reward"])
def test_both_ways_follow_what_the_person_said(how, played, base):
    said = ask(played.truth, 100, np.random.default_rng(0))
    before = way(base, played)
    policy, told = taught(how, base, played, said, PLAN, "lift")
    contrary = replace(said, said=~said.said)
    other, told_other = taught(how, base, played, contrary, PLAN, "lift")
    assert way(policy, played) > before > way(other, played)
    assert way(policy, played) > way(other, played) + 0.05
    assert way(base, played) == before
    if how == "reward":
        assert float(str(told["agrees_with_truth"])) > 0.8
        assert float(str(told_other["agrees_with_truth"])) < -0.8


def test_without_labels_all_that_was_done_is_imitated(played):
    networks = actor()
    regress(networks, SPEC, played.steps, PLAN, returns=None)
    mean = played.steps.actions.mean(axis=0)
    now = answers(networks, played.steps.states).mean(axis=0)
    first = answers(actor(), played.steps.states).mean(axis=0)
    assert np.abs(now - mean).sum() < np.abs(first - mean).sum()


def trials(outcome):
    return [
        Trial(seed=n, success=yes == "1", time_s=1.0, end="done", gentle=True, guard_events={})
        for n, yes in enumerate(outcome)
    ]


def test_ways_are_compared_layout_by_layout():
    tried = {
        "base": trials("1100000000"),
        "cpl": trials("1111111110"),
        "reward": trials("0110000000"),
    }
    found = judged(tried)
    assert found["cpl against base"]["only_first"] == 7
    assert found["cpl against base"]["p_value"] == pytest.approx(2 / 2**7)
    assert found["reward against base"] == {"only_first": 1, "only_second": 1, "p_value": 1.0}
    assert found["cpl against reward"]["only_second"] == 0


@pytest.mark.parametrize(
    "word", ["run=nowhere", "episodes=1", "labels=many", "colour=red", "seeds=0"]
)
def test_wrong_words_end_with_2(capsys, word):
    assert main([word]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line
