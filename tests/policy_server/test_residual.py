"""A base policy's rows with corrections: what is done, what is kept of it, and how it grows."""

import numpy as np
import pytest

from policy_server.backends.residual import Growth, ResidualPolicy, corrections_of
from policy_server.load import load_policy
from policy_server.policy import (
    ActionChunk,
    Correction,
    PolicyRequest,
    PolicySpec,
    PolicyUnavailable,
    no_chunk,
)
from policy_server.streaming import Streaming

ARM = PolicySpec(action_space="joint_pos", action_dim=2, state={"here": 1, "there": 1}, hz=20.0)
BOUNDS = (np.array([-100.0, 0.0], np.float32), np.array([100.0, 50.0], np.float32))


class Base:
    """Gives the rows that it was told, one a step; None is a step without a row."""

    spec = PolicySpec(
        action_space="joint_pos", action_dim=2, state={"here": 1}, horizon=4, checkpoint="abc"
    )

    def __init__(self, *rows):
        self.rows, self.asked, self.streaming = list(rows), [], Streaming()

    def infer_batch(self, requests):
        self.asked += requests
        row = self.rows.pop(0)
        if row is None:
            return [no_chunk(requests[0], self.spec, "no rows have come")]
        return [ActionChunk(actions=np.array([row], np.float32), observed_at=0.0)]


class Always:
    """Corrects by the same numbers, and remembers what it read."""

    spec = corrections_of(ARM)

    def __init__(self, *action):
        self.action, self.asked = np.array([action], np.float32), []

    def infer_batch(self, requests):
        self.asked += requests
        return [ActionChunk(actions=self.action, observed_at=0.0)]


def policy(base, **growth):
    return ResidualPolicy(base, arm=ARM, bounds=BOUNDS, growth=Growth(**growth))


def ask():
    state = {"here": np.ones(1, np.float32), "there": np.zeros(1, np.float32)}
    return PolicyRequest(state=state, goal="Lift.", observed_at=0.0)


def test_a_row_is_moved_by_so_large_a_share_of_half_the_range_and_stays_within_it():
    acting = policy(Base([0.0, 25.0], [95.0, 25.0]), alpha=0.2, first=1.0)
    acting.correct(Always(1.0, -0.5), version=0)
    done = [acting.infer_batch([ask()])[0].actions for _ in range(2)]
    np.testing.assert_allclose(done[0], [[20.0, 22.5]])
    np.testing.assert_allclose(done[1], [[100.0, 22.5]])


def test_nothing_is_corrected_before_anything_was_learnt():
    [chunk] = policy(Base([10.0, 20.0])).infer_batch([ask()])
    np.testing.assert_array_equal(chunk.actions, [[10.0, 20.0]])
    np.testing.assert_array_equal(chunk.correction.action, [0.0, 0.0])


def test_corrections_grow_with_the_learner_s_updates_and_are_kept_as_they_were_done():
    acting = policy(Base([0.0, 25.0], [0.0, 25.0]), alpha=0.5, first=0.2, updates=100)
    kept = []
    for version in (0, 50):
        acting.correct(Always(1.0, 1.0), version=version)
        [chunk] = acting.infer_batch([ask()])
        kept.append(chunk.correction.action[0])
        np.testing.assert_allclose(chunk.actions[0, 0], 50.0 * kept[-1], rtol=1e-6)
    np.testing.assert_allclose(kept, [0.2, 0.6])


@pytest.mark.parametrize(("version", "share"), [(0, 0.25), (40, 0.625), (80, 1.0), (10**9, 1.0)])
def test_the_share_grows_evenly_and_then_stays(version, share):
    assert Growth(first=0.25, updates=80).share(version) == pytest.approx(share)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 3.0}, {"first": 1.5}, {"updates": -1}])
def test_a_growth_that_is_none_is_refused_with_its_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Growth(**wrong)


def test_what_corrects_reads_the_arm_s_state_the_row_and_where_in_its_chunk_that_is():
    base, learnt = Base([50.0, 0.0]), Always(0.0, 0.0)
    base.streaming.queue, base.streaming.delays = [4, 3], [2]
    acting = policy(base)
    acting.correct(learnt, version=0)
    acting.infer_batch([ask()])
    read = learnt.asked[0].state
    assert {name: len(vector) for name, vector in read.items()} == learnt.spec.state
    np.testing.assert_allclose(read["base_action"], [0.5, -1.0])
    np.testing.assert_allclose(read["chunk"], [0.25, 0.5])
    assert base.asked[0].state.keys() == {"here"}


def test_without_a_row_of_the_base_there_is_none_and_nothing_is_corrected():
    base, learnt = Base([50.0, 25.0], None), Always(1.0, 1.0)
    acting = policy(base)
    acting.correct(learnt, version=0)
    acting.infer_batch([ask()])
    base.streaming.queue = [0]
    [chunk] = acting.infer_batch([ask()])
    assert len(chunk.actions) == 0
    np.testing.assert_array_equal(chunk.correction.action, [0.0, 0.0])
    assert chunk.correction.state["chunk"][0] == 1.0


def test_an_episode_keeps_which_base_it_was():
    acting = policy(Base(), alpha=0.3)
    assert acting.about()["base"]["checkpoint"] == "abc"
    assert acting.about()["base"]["alpha"] == 0.3


def test_what_a_person_did_is_kept_as_the_nearest_correction():
    two = np.array([2.0, 2.0], np.float32)
    correction = Correction(action=0 * two, state={}, base=two, reach=two)
    np.testing.assert_array_equal(correction.nearest(np.float32([3.0, 9.0])), [0.5, 1.0])


def test_a_server_refuses_a_correction_and_says_how_it_can_be_used(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    (tmp_path / "policy" / "residual.json").write_text("{}")
    with pytest.raises(PolicyUnavailable, match=r"make run-arm .* policy=residual"):
        load_policy(str(tmp_path))


def test_noise_weakens_the_scripted_expert_by_its_standard_deviation():
    plain, noisy = (load_policy(f"scripted:place?hz=10{more}") for more in ("", "&noise=0.2"))
    state = {name: np.zeros(size, np.float32) for name, size in plain.spec.state.items()}
    asked = PolicyRequest(state=state, goal="", observed_at=0.0)
    rows, weakened = (
        np.concatenate([one.infer_batch([asked])[0].actions for _ in range(60)])
        for one in (plain, noisy)
    )
    inside = np.abs(rows) < 0.3
    assert (plain.spec.hz, plain.spec.horizon) == (10.0, 16)
    assert np.std((weakened - rows)[inside]) == pytest.approx(0.2, rel=0.1)
    assert plain.spec.checkpoint != noisy.spec.checkpoint


@pytest.mark.parametrize("words", ["noise=much", "speed=2", "noise=-1", "hz=0"])
def test_an_option_that_is_none_is_refused_with_what_was_expected(words):
    with pytest.raises(PolicyUnavailable, match="expected"):
        load_policy(f"scripted:place?{words}")
