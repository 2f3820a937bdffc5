"""An arm that puts the thing back itself, by the scripted lift, on the twin."""

from dataclasses import replace

import numpy as np
import pytest

from envs.twin_env import make_task_env
from policy_server.backends.null import RandomPolicy
from policy_server.backends.scripted import ScriptedPolicy
from rl.put_back import FROM_PLACE, LAID, SPOTS, PutBack, put_back, sentence
from rl.run_record import BadRun
from rl.sac import SacLearner


@pytest.fixture
def practice():
    env = make_task_env("push")
    yield env
    env.close()


def lifting(env):
    return PutBack(env, ScriptedPolicy(env.policy_spec, "lift"))


def test_the_first_layout_is_somebody_elses_and_the_next_ones_the_arms(practice):
    practice.scene = scene = lifting(practice)
    practice.reset(seed=0)
    assert scene.laid_out_by == "other"
    places, things = [], []
    for seed in (1, 2, 3):
        practice.reset(seed=seed)
        assert scene.laid_out_by == "arm"
        truth = scene.truth()
        places.append(truth.place)
        things.append(truth.thing[:2])
        least, most = FROM_PLACE["push"]
        off = np.linalg.norm(truth.thing[:2] - truth.place[:2])
        assert least - LAID / 2 <= off <= most + LAID / 2
        for at, (low, high) in zip(truth.thing[:2], SPOTS, strict=True):
            assert low - LAID <= at <= high + LAID
    np.testing.assert_array_equal(places[1:], places[:-1])
    assert np.abs(np.diff(things, axis=0)).max(1).min() > 0.01


def test_a_thing_that_cannot_be_lifted_is_laid_out_by_somebody_else(practice):
    practice.scene = scene = PutBack(practice, RandomPolicy(practice.policy_spec))
    practice.reset(seed=0)
    practice.reset(seed=1)
    assert scene.laid_out_by == "other"


def test_a_thing_that_is_not_seen_is_not_groped_for(practice):
    twin, practice.scene = practice.scene, lifting(practice)
    practice.reset(seed=0)
    twin.put(thing=np.array([-0.4, -0.4, 0.02]))
    begun = practice.arm.clock.now()
    assert not practice.scene._lifts(1)
    assert practice.arm.clock.now() - begun < 5.0


def test_a_policy_of_another_arm_puts_nothing_back(practice, tmp_path):
    SacLearner(replace(practice.policy_spec, hz=5.0), hidden=(8, 8)).snapshot(tmp_path)
    with pytest.raises(BadRun, match="the arm gives"):
        put_back(practice, tmp_path)


def test_a_run_says_how_often_it_needed_somebody():
    said = sentence([{"laid_out_by": "other"}, {"laid_out_by": "arm"}, {"laid_out_by": "arm"}])
    assert "2 of 3 episodes" in said
    assert said.endswith(": 1")
