"""Corrections of a served policy: over real sockets, into the journal, and back to the arm."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from envs.twin_env import make_twin_env
from policy_server.backends.foresight import ForesightPolicy
from policy_server.backends.learned import LearnedPolicy
from policy_server.policy import PolicyRequest
from rewarder.goal import task_goal
from rewarder.reward import Score
from rl.actor import Worker
from rl.fleet import Snapshot
from rl.label import label
from rl.remote_policy import base_at_hand, base_name, fit_to_policy, policy_maker, recipe_of
from rl.residual import residual_learner
from rl.residual_base import Recipe, check_recipe
from rl.run_record import BadRun
from rl.train import make_learner
from rl.trial import TruthJudge, play_trial
from rl.trial_pool import Contender, load
from robot.journal import Journal, read_episode
from tests.policy_server.served import served

CONF = str(Path(__file__).parents[2] / "conf")
ALPHA, SHARE = 0.5, 0.2
RECIPE = Recipe(
    base="ws://host:1", own=False, checkpoint="abc", settings={"alpha": 0.5, "realtime": False}
)


def configured(*words):
    with initialize_config_dir(CONF, version_base=None):
        return compose("train", ["learner=residual", "task=reach", *words])


@pytest.fixture(scope="module")
def spec():
    env = make_twin_env(task_goal("reach"))
    yield env.policy_spec
    env.close()


@pytest.fixture(scope="module")
def learner(spec):
    return residual_learner(spec, hidden=[8], batch_size=4)


def worker_on(address, journal, **settings):
    cfg = configured(f"policy.url=ws://{address}")
    fit_to_policy(cfg)
    return Worker(
        arm="arm01",
        make_env=partial(make_twin_env, task_goal("reach"), hz=cfg.arm.hz),
        journal=journal,
        seed=0,
        git_revision="",
        config={},
        make_policy=policy_maker(cfg.policy),
        **settings,
    )


def newest(journal):
    return read_episode(Journal(journal).episodes()[-1])


@pytest.fixture(scope="module")
def practised(tmp_path_factory):
    """Return an episode of a base at 10 Hz with corrections at random."""
    journal = tmp_path_factory.mktemp("journal")
    with served(ForesightPolicy("reach", hz=10.0)) as address:
        worker = worker_on(address, journal)
        worker.run_episode(None)
        worker.close()
    return newest(journal)


def test_what_the_arm_did_is_the_base_s_row_and_the_kept_correction(practised):
    base, done = practised.state["base_action"][:-1], practised.state["action"][1:]
    corrections = practised.actions
    assert 0.5 * SHARE < np.abs(corrections).max() <= SHARE
    np.testing.assert_allclose(done, np.clip(base + ALPHA * corrections, -1, 1), atol=1e-6)


def test_an_episode_of_corrections_says_so_and_names_its_base(practised):
    info = practised.info
    assert (info.action_space, info.policy, info.greedy) == (
        "residual:ee_delta",
        "residual/000000",
        False,
    )
    assert info.config["base"]["checkpoint"] == "scripted"
    assert info.config["streaming"]["starved_steps"] == 0


def test_while_the_simulated_arm_waits_every_chunk_is_one_step_late(practised):
    used, late = practised.state["chunk"].T
    assert len(used) == practised.steps + 1
    assert used.max() > 0.4
    assert set(np.round(late * 16)) == {0.0, 1.0}


def test_a_learner_takes_the_steps_in_and_improves_on_no_correction_at_first(
    practised, learner, tmp_path
):
    seen = len(practised.stamps)
    score = Score(
        success=np.zeros(seen, bool),
        progress=np.linspace(0, 1, seen),
        valid=np.ones(seen, bool),
        model="fake",
    )
    learner.snapshot(tmp_path)
    policy = LearnedPolicy.load(tmp_path, greedy=True)
    state = {name: values[0] for name, values in practised.state.items()}
    asked = PolicyRequest(state=state, goal="", observed_at=0.0)
    np.testing.assert_array_equal(policy.infer_batch([asked])[0].actions, np.zeros((1, 4)))
    learner.add(label(practised, score))
    learner.update(3)
    learner.snapshot(tmp_path)
    policy = LearnedPolicy.load(tmp_path, greedy=True)
    assert np.abs(policy.infer_batch([asked])[0].actions).max() > 0.0


def test_a_base_that_dies_ends_the_episode_as_a_lost_link_and_its_steps_are_kept(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("policy_server.client.AWAY_S", 0.2)
    stack = ExitStack()
    address = stack.enter_context(served(ForesightPolicy("reach", hz=10.0)))
    steps = iter(range(99))

    def fourth_step_ends_the_server():
        if next(steps) == 3:
            stack.close()
        return False

    worker = worker_on(address, tmp_path, stop=fourth_step_ends_the_server)
    worker.run_episode(None)
    worker.close()
    episode = newest(tmp_path)
    assert episode.info.end == "lost_link"
    assert episode.steps >= 4
    assert len(episode.state["base_action"]) == episode.steps + 1


@pytest.fixture
def stored(tmp_path, learner):
    """Return the folder of a run that has learnt to correct the expert, a little."""
    policy = tmp_path / "policy"
    learner.snapshot(policy)
    with served(ForesightPolicy("reach", hz=10.0)) as address:
        cfg = configured(f"policy.url=ws://{address}")
        with base_at_hand(cfg):
            recipe = fit_to_policy(cfg)
    assert recipe is not None
    recipe.keep(policy)
    return policy


def contender(policy, address):
    return Contender(
        policy=policy,
        goal=str(task_goal("reach")),
        preset="stiff",
        base=f"ws://{address}",
    )


def test_a_trial_is_of_base_and_correction_together(stored):
    with served(ForesightPolicy("reach", hz=10.0)) as address:
        env, policy = load(contender(stored, address))
        trial = play_trial(env, policy, seed=1_000_000, judge=TruthJudge())
        about = policy.about()
        policy.close()
        env.close()
    assert trial.success
    assert about["base"]["share"] == pytest.approx(SHARE, abs=0.01)
    assert about["streaming"]["steps"] > 5


def test_another_base_than_the_one_that_was_corrected_is_refused(stored):
    with (
        served(ForesightPolicy("reach", hz=10.0, noise=0.1)) as address,
        pytest.raises(BadRun, match="serve the base it began with"),
    ):
        load(contender(stored, address))


def test_a_base_of_another_pace_is_refused_by_the_handshake(stored):
    with (
        served(ForesightPolicy("reach", hz=20.0)) as address,
        pytest.raises(BadRun, match=r"hz is 20.0, the arm's 10.0") as caught,
    ):
        load(contender(stored, address))
    assert caught.value.code == 3


def test_a_snapshot_is_acted_by_and_named_in_the_episode(tmp_path, learner):
    learner.snapshot(tmp_path / "policy")
    snapshot = Snapshot.read(tmp_path / "policy", 500)
    steps = iter(range(99))
    with served(ForesightPolicy("reach", hz=10.0)) as address:
        worker = worker_on(address, tmp_path, greedy_every=1, stop=lambda: next(steps) == 1)
        worker.run_episode(snapshot)
        worker.close()
    info = newest(tmp_path).info
    assert (info.policy, info.greedy) == ("residual/000500", True)
    assert info.config["base"]["share"] == pytest.approx(0.4)


def test_the_base_of_a_run_cannot_be_exchanged(tmp_path):
    RECIPE.keep(tmp_path)
    RECIPE.keep(tmp_path)
    other = Recipe(base="ws://host:2", own=False, checkpoint="def", settings=RECIPE.settings)
    with pytest.raises(BadRun, match=r"corrects ws://host:1 \(abc\), not ws://host:2 \(def\)"):
        other.keep(tmp_path)
    assert Recipe.read(tmp_path) == RECIPE


@pytest.mark.parametrize(
    ("kept", "acting", "advice"),
    [
        (RECIPE, None, "add policy=residual"),
        (None, RECIPE, "leave policy=residual out"),
        (
            RECIPE,
            Recipe(base="", own=False, checkpoint="abc", settings={"alpha": 0.1}),
            "policy.alpha=0.5, not 0.1",
        ),
    ],
)
def test_a_stored_policy_that_is_not_for_what_acts_is_refused(tmp_path, kept, acting, advice):
    if kept:
        kept.keep(tmp_path)
    with pytest.raises(BadRun, match=advice):
        check_recipe(tmp_path, acting)


def test_a_recipe_that_is_damaged_is_named(tmp_path):
    (tmp_path / "residual.json").write_text('{"base": "x"')
    with pytest.raises(BadRun, match=r"residual\.json cannot be read"):
        Recipe.read(tmp_path)


def test_what_is_kept_of_the_settings_is_what_trials_need():
    cfg = configured("policy.url=ws://h:1", "policy.noise=0.3", "policy.delay_s=0.1")
    cfg.policy.base = "scripted:reach"
    recipe = recipe_of(cfg.policy, "abc")
    assert (recipe.base, recipe.own, recipe.checkpoint) == ("scripted:reach", True, "abc")
    assert recipe.settings["delay_s"] == 0.1
    assert not recipe.settings.keys() & {"url", "noise", "_target_"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"base": "scripted", "noise": 0.25}, "scripted:place?noise=0.25&hz=10"),
        ({"base": "lerobot:somewhere", "noise": 0.0}, "lerobot:somewhere"),
    ],
)
def test_the_base_of_a_run_s_own_has_a_name_that_a_server_knows(settings, name):
    assert base_name(OmegaConf.create(settings), "place") == name


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"base": "null", "noise": 0.25}, "leave it out"),
        ({"base": None, "noise": 0.0}, "policy.url="),
        ({"base": "scripted", "noise": "much"}, "a number from 0 up"),
    ],
)
def test_a_base_that_makes_no_sense_is_a_usage_error(settings, advice):
    with pytest.raises(BadRun, match=advice) as caught:
        base_name(OmegaConf.create(settings), "place")
    assert caught.value.code == 2


@pytest.mark.parametrize("word", ["policy.alpha=9", "policy.first=null", "policy.updates=-1"])
def test_a_growth_that_is_none_is_refused_before_anything_is_started(word):
    with (
        pytest.raises(BadRun, match=r"^policy: ") as caught,
        base_at_hand(configured(word)),
    ):
        pytest.fail("it was let pass")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("learner=residual", "policy=own"),
        ("learner=residual", "policy=remote"),
        ("learner=sac", "policy=residual"),
        ("learner=none", "policy=residual"),
    ],
)
def test_learner_and_policy_of_corrections_go_together(words):
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("train", list(words))
    with pytest.raises(BadRun, match="give both") as caught:
        make_learner(cfg)
    assert caught.value.code == 2
