"""What pulls SAC's actor beside its own learning, inside the learner."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from policy_server.backends.learned import LearnedPolicy
from policy_server.backends.network import encoding_of, tensors_of
from rl.bc import Copying, write_policy
from rl.networks import Networks
from rl.preference import Contrast, Pairwise
from rl.pulls import Pull, _copied
from rl.sac import SacLearner
from rl.transition import Transition
from robot.journal import SOURCES, read_episode
from tests.rl.prior_runs import fitting_episode, run_of
from tests.rl.test_bc import SPEC, answers
from tests.rl.test_bc import made_up as recorded
from tests.rl.test_preference import actor, along
from tests.rl.test_preference import made_up as ranked

HIDDEN = (16, 16)


def copying(networks, **settings):
    """Return a pull towards made-up recordings."""
    draws = np.random.default_rng(2)
    lesson = Copying(recorded(), SPEC, networks, draws, batch_size=64)
    return Pull("bc", lesson, networks, draws, **{"learning_rate": 3e-3, "share": 0.25, **settings})


def preferring(networks, **settings):
    """Return a pull towards the better of made-up pairs."""
    draws = np.random.default_rng(3)
    lesson = Pairwise(ranked(), SPEC, networks, Contrast(keep=0.02), draws=draws)
    named = {"learning_rate": 3e-3, "share": 0.25, **settings}
    return Pull("preferences", lesson, networks, draws, **named)


kinds = pytest.mark.parametrize("pull_of", [copying, preferring])


def test_recordings_pull_the_actor_towards_what_was_done():
    networks, fresh = actor(), recorded(100, seed=9)
    before = np.abs(answers(networks, fresh.states) - fresh.actions).mean()
    figures = copying(networks, share=1.0).step(300, 300)
    assert np.abs(answers(networks, fresh.states) - fresh.actions).mean() < 0.5 * before
    assert figures["learner/bc_loss"] < before


def test_pairs_pull_the_actor_towards_the_better_episodes():
    networks, fresh = actor(), ranked(seed=9).steps.states
    before = along(networks, fresh)
    figures = preferring(networks, share=1.0).step(200, 200)
    assert along(networks, fresh) > before + 0.2
    assert figures["learner/preferences_loss"] < np.log(2.0)


@kinds
def test_a_weight_halves_and_then_it_lets_go(pull_of):
    networks = actor()
    pull = pull_of(networks, weight=0.8, half_life=100)
    assert [pull.weight(updates) for updates in (0, 100, 200)] == [0.8, 0.4, 0.2]
    before = networks.flat.detach().clone()
    assert set(pull.step(2000, 500).values()) == {0.0}
    assert torch.equal(networks.flat, before)


@kinds
def test_a_tenth_of_the_weight_moves_the_actor_a_tenth_as_far(pull_of):
    moved: list[float] = []
    for weight in (1.0, 0.1):
        networks = actor()
        before = networks.flat.detach().clone()
        pull_of(networks, weight=weight, share=1.0, half_life=10**9).step(1, 1)
        moved.append(float((networks.flat.detach() - before).abs().sum()))
    assert moved[1] == pytest.approx(0.1 * moved[0], rel=0.02)


@kinds
def test_slices_of_any_length_take_the_same_steps(pull_of):
    ends: list[torch.Tensor] = []
    for slices in ([40], [7, 13, 1, 19]):
        networks = actor()
        pull, updates = pull_of(networks, half_life=10**12), 0
        for taken in slices:
            updates += taken
            pull.step(updates, taken)
        ends.append(networks.flat.detach())
    assert torch.allclose(ends[0], ends[1], atol=1e-6)


@kinds
def test_a_resumed_pull_goes_on_as_if_nothing_had_happened(pull_of):
    networks = actor()
    pull = pull_of(networks)
    pull.step(60, 60)
    kept = {name: tensor.clone() for name, tensor in pull.tensors().items()}
    draws, flat = pull.rng_state, networks.flat.detach().clone()
    pull.step(120, 60)
    other = actor(7)
    resumed = pull_of(other)
    other.flat.detach().copy_(flat)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(kept[name])
    resumed.rng_state = draws
    resumed.step(120, 60)
    assert torch.equal(other.flat, networks.flat)


@kinds
@pytest.mark.parametrize("wrong", [{"half_life": 0}, {"share": -1.0}, {"weight": 2.0}])
def test_settings_that_are_none_are_refused(pull_of, wrong):
    with pytest.raises(ValueError, match="expected a number"):
        pull_of(actor(), **wrong)


def truthful(number):
    """Return an episode of which the simulated arm knows whether, and when, it succeeded."""
    truth = {"success": True, "success_at_s": 0.1 * number} if number % 2 else {"success": False}
    episode = fitting_episode(number)
    actions = np.full_like(episode.actions, 0.5 if number % 2 else -0.5)
    return replace(episode, actions=actions, info=replace(episode.info, truth=truth))


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path, *map(truthful, range(8)))


def learner(run, **options):
    runs = str(run.path.parent)
    made = SacLearner(SPEC, hidden=HIDDEN, batch_size=16, capacity=100, runs=runs, **options)
    made.add(practice(run))
    return made


def practice(run):
    """Return the steps of the run's first episode."""
    episode = read_episode(run.episodes()[0])
    states = [{name: rows[i] for name, rows in episode.state.items()} for i in range(6)]
    return [
        Transition(
            state=states[i],
            action=episode.actions[i],
            reward=-1.0,
            reward_before=-1.0,
            next_state=states[i + 1],
            terminated=False,
            truncated=i == 4,
        )
        for i in range(5)
    ]


def both(run):
    return {
        "bc": {"run": run.path.name, "half_life": 50},
        "preferences": {"run": run.path.name, "pairs": "truth", "count": 12, "half_life": 50},
    }


def test_what_pulls_says_how_hard(run):
    figures = learner(run, **both(run)).update(20)
    assert figures["learner/bc_weight"] == pytest.approx(0.5 ** (20 / 50))
    assert figures["learner/preferences_weight"] == pytest.approx(0.5 ** (20 / 50))
    assert figures["learner/bc_loss"] > 0


def test_an_actor_is_pulled_to_what_was_done(run):
    state = practice(run)[0].state

    def said(**options):
        made = learner(run, learning_rate=1e-6, **options)
        made.update(200)
        made.snapshot(run.path / "policy")
        policy = LearnedPolicy.load(run.path / "policy", greedy=True)
        joined = torch.tensor(np.concatenate([state[name] for name in SPEC.state])[None])
        return float(policy._act(joined).mean())

    done = np.mean([read_episode(path).actions.mean() for path in run.episodes()])
    alone = said()
    pulled = said(bc={"run": run.path.name, "half_life": 1e6, "share": 1.0})
    assert abs(pulled - done) < abs(alone - done)


def test_a_resumed_learner_with_pulls_goes_on_as_if_nothing_had_happened(run, tmp_path):
    first = learner(run, **both(run))
    first.update(15)
    first.save(tmp_path / "kept")
    first.update(15)
    resumed = learner(run, **both(run))
    resumed.load(tmp_path / "kept")
    resumed.update(15)
    for folder, made in (("a", first), ("b", resumed)):
        made.snapshot(tmp_path / folder)
    layers = [tensors_of(LearnedPolicy.load(tmp_path / folder).layers) for folder in "ab"]
    assert all(torch.equal(layers[0][name], layers[1][name]) for name in layers[0])


def test_an_actor_begins_as_the_policy_that_it_starts_from(run, tmp_path):
    taught = Networks(1, (encoding_of(SPEC).size, *HIDDEN, 2 * SPEC.action_dim))
    write_policy(tmp_path / "taught", taught, SPEC, updates=1)
    made = learner(run, start=str(tmp_path / "taught"))
    made.snapshot(tmp_path / "now")
    mine = tensors_of(LearnedPolicy.load(tmp_path / "now").layers)
    theirs = tensors_of(LearnedPolicy.load(tmp_path / "taught").layers)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bc": {"weight": 1.0}}, "names no run"),
        ({"preferences": {"pairs": "truth"}}, "names no run"),
        ({"start": "nowhere"}, "is no policy to start from"),
    ],
)
def test_a_pull_from_nothing_is_refused(run, options, said):
    with pytest.raises(ValueError, match=said):
        learner(run, **options)


def test_preferences_that_nobody_stated_are_refused(run):
    with pytest.raises(ValueError, match="there are no pairs"):
        learner(run, preferences={"run": run.path.name, "pairs": "nowhere.jsonl"})


def test_of_a_run_with_take_overs_the_expert_s_steps_alone_are_copied(tmp_path):
    episode = fitting_episode(1)
    source = np.array([SOURCES.index(who) for who in ("policy", "human", "scripted", "random")])
    source = np.resize(source, episode.steps).astype(np.uint8)
    run = run_of(tmp_path, replace(episode, source=source))
    kept = _copied(run, SPEC, experts=True)
    assert kept.actions.tolist() == episode.actions[[1, 2]].tolist()
    assert len(_copied(run, SPEC, experts=False).actions) == episode.steps


def test_a_run_in_which_nobody_took_over_is_refused(tmp_path):
    policy = np.zeros(5, np.uint8)
    run = run_of(tmp_path, replace(fitting_episode(1), source=policy))
    with pytest.raises(ValueError, match="nobody took over"):
        learner(run, bc={"run": run.path.name, "taken_over": True})
