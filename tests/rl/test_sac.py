from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from ops.bench_learner import SPEC, random_steps, stock_sac
from policy_server.backends.learned import LearnedPolicy
from policy_server.backends.network import Layer, tensors_of
from policy_server.policy import PolicyRequest, PolicySpec
from rl.adam import Adam
from rl.sac import LearnerDiverged, SacLearner, _small_numbers_and_matrices
from rl.transition import Transition
from tests.rl.prior_runs import fitting_episode, run_of

HIDDEN = (32, 32)
EPISODE = random_steps(20, np.random.default_rng(3))


def learner(seed: int = 0, **options: object) -> SacLearner:
    made = SacLearner(SPEC, hidden=HIDDEN, batch_size=32, seed=seed, capacity=500, **options)
    made.add(random_steps(200, np.random.default_rng(7)))
    return made


@pytest.fixture
def rlpd(tmp_path):
    """Options of a learner with an ensemble and with a run of two episodes as its prior."""
    run = run_of(tmp_path, *map(fitting_episode, range(2)))
    return {
        "critics": 5,
        "subset": 2,
        "prior": [run.path.name],
        "successes": True,
        "task": "lift",
        "runs": str(tmp_path),
    }


def success(number: int = 11) -> list[Transition]:
    """Return an episode that was rewarded as a success."""
    steps = random_steps(6, np.random.default_rng(number))
    return [replace(step, terminated=step is steps[-1]) for step in steps]


def request() -> PolicyRequest:
    state = random_steps(1, np.random.default_rng(8))[0].state
    return PolicyRequest(state=state, goal="", observed_at=1.5)


def weights(made: SacLearner, folder: Path) -> Mapping[str, torch.Tensor]:
    made.snapshot(folder)
    return tensors_of(LearnedPolicy.load(folder).layers)


def test_an_update_reports_finite_figures_under_their_names():
    figures = learner().update(3)
    assert set(figures) == {
        "learner/critic_loss",
        "learner/actor_loss",
        "learner/entropy_coef",
        "learner/q",
        "learner/entropy",
    }
    assert all(np.isfinite(value) for value in figures.values())


def test_updates_are_those_of_stock_sac_with_the_same_networks(monkeypatch):
    ours, stock = learner()._sac, stock_with_adam(HIDDEN)
    copy_weights(ours, stock)
    batch = ours.replay_buffer.sample(32)
    for model in (ours, stock):
        monkeypatch.setattr(model, "replay_buffer", Always(batch))
        monkeypatch.setattr(model.actor, "noise", torch.default_generator, raising=False)
        torch.manual_seed(5)
        with _small_numbers_and_matrices():
            model.train(20, 32)
    (actor,) = ours.actor.networks.layers
    assert_near(actor[1].weight, stock.actor.latent_pi[3].weight)
    for layers, plain in zip(ours.critic.networks.layers, stock.critic.q_networks, strict=True):
        assert_near(layers[1].weight, plain[3].weight)
    (_, second), plain = ours.critic_target.networks.layers, stock.critic_target.q_networks[1]
    assert_near(second[0].weight, plain[0].weight)
    assert_near(ours.log_ent_coef, stock.log_ent_coef)


def assert_near(a: torch.Tensor, b: torch.Tensor) -> None:
    """Twenty steps have moved a weight by up to 0.01."""
    torch.testing.assert_close(a.detach(), b.detach().t(), rtol=0, atol=1e-4)


def stock_with_adam(hidden: tuple[int, ...]) -> SAC:
    """Torch's own Adam imports its compiler, for seconds; `test_adam` compares the two."""
    model = stock_sac(
        hidden, ent_coef=0.05, policy_kwargs={"net_arch": list(hidden), "optimizer_class": Adam}
    )
    model.log_ent_coef = torch.tensor([np.log(0.05)], dtype=torch.float32, requires_grad=True)
    model.ent_coef_optimizer = Adam([model.log_ent_coef], lr=5e-4)
    return model


class Always:
    def __init__(self, batch: ReplayBufferSamples) -> None:
        self._batch = batch

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        return self._batch


def copy_weights(ours: SAC, stock: SAC) -> None:
    (actor,) = ours.actor.networks.layers
    copy_layers(actor[:-1], stock.actor.latent_pi)
    for name in ("weight", "bias"):
        mean, log_std = getattr(actor[-1], name).chunk(2, dim=-1)
        getattr(stock.actor.mu, name).data.copy_(mean.t())
        getattr(stock.actor.log_std, name).data.copy_(log_std.t())
    for critics in (stock.critic, stock.critic_target):
        for layers, plain in zip(ours.critic.networks.layers, critics.q_networks, strict=True):
            copy_layers(layers, plain)


def copy_layers(layers: Sequence[Layer], plain: torch.nn.Module) -> None:
    for mine, theirs in zip(tensors_of(layers).values(), plain.parameters(), strict=True):
        theirs.data.copy_(mine.t())


def shaped(*, reward, before, terminated=False, **options):
    made = SacLearner(SPEC, hidden=HIDDEN, **options)
    (step,) = random_steps(1, np.random.default_rng(0))
    made.add([replace(step, reward=reward, reward_before=before, terminated=terminated)])
    return float(made._replay.sample(1).rewards)


def test_a_gain_pays_at_once():
    assert shaped(reward=-0.4, before=-0.5, discount=0.9, shaping=10.0) == pytest.approx(1.0)
    assert shaped(reward=-0.4, before=-0.5, discount=0.9, shaping=0.0) == pytest.approx(-0.4)


def test_an_end_pays_all_that_was_left_to_do():
    assert shaped(reward=0.0, before=-0.3, terminated=True, shaping=10.0) == pytest.approx(3.0)


@settings(deadline=None)  # of wall time, which a busy machine does not keep
@given(progress=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20), by=st.floats(0.0, 30.0))
def test_over_an_episode_the_gains_sum_up_to_what_its_start_decides(progress, by):
    made = SacLearner(SPEC, hidden=HIDDEN, discount=0.97, shaping=by)
    arrived = [*progress[1:], 1.0]
    steps = [
        replace(step, reward=after - 1.0, reward_before=before - 1.0, terminated=False)
        for step, before, after in zip(EPISODE, progress, arrived, strict=False)
    ]
    steps[-1] = replace(steps[-1], terminated=True)
    weights = 0.97 ** np.arange(len(steps))
    plain = weights @ [step.reward for step in steps]
    paid = weights @ [made._shaped(step).reward for step in steps]
    assert paid == pytest.approx(plain + by * (1.0 - progress[0]), abs=1e-6)


def test_a_shaping_that_is_none_is_refused():
    with pytest.raises(ValueError, match="shaping is -1"):
        SacLearner(SPEC, shaping=-1)


def test_a_learner_learns_which_action_pays():
    spec = PolicySpec(action_space="ee_delta", action_dim=1, state={"here": 1})
    random = np.random.default_rng(0)
    here = {"here": np.zeros(1, np.float32)}
    pupil = SacLearner(spec, hidden=HIDDEN, batch_size=64, learning_rate=3e-3)
    for action in random.uniform(-1, 1, (300, 1)).astype(np.float32):
        reward = -float(abs(action[0] - 0.5))
        pupil.add(
            [
                Transition(
                    state=here,
                    action=action,
                    reward=reward,
                    reward_before=-1.0,
                    next_state=here,
                    terminated=True,
                    truncated=False,
                )
            ]
        )
    pupil.update(400)
    mean = torch.tanh(pupil._actor.networks.values(torch.zeros(1, 1))[0][0, 0])
    assert abs(float(mean) - 0.5) < 0.15


def test_a_snapshot_acts_as_the_sb3_actor_does(tmp_path):
    made = learner()
    made.update(5)
    made.snapshot(tmp_path)
    asked = request()
    encoded = made._sac.replay_buffer._encode(
        torch.from_numpy(np.concatenate([asked.state[name] for name in SPEC.state]))[None]
    )
    expected = made._sac.policy.predict(encoded.numpy(), deterministic=True)[0]
    (chunk,) = LearnedPolicy.load(tmp_path, greedy=True).infer_batch([asked])
    np.testing.assert_allclose(chunk.actions, expected, atol=1e-6)


def test_a_resumed_learner_acts_and_learns_as_if_never_stopped(tmp_path):
    straight = learner()
    straight.update(5)
    straight.save(tmp_path / "checkpoint")
    resumed = learner(seed=99)
    resumed.load(tmp_path / "checkpoint")
    (tmp_path / "a").mkdir()
    assert equal(weights(straight, tmp_path / "a"), weights(resumed, tmp_path / "b"))
    assert straight.update(5) == resumed.update(5)
    assert equal(weights(straight, tmp_path / "a"), weights(resumed, tmp_path / "b"))


def test_a_resumed_learner_with_a_prior_draws_from_it_as_if_never_stopped(tmp_path, rlpd):
    straight, resumed = learner(**rlpd), learner(seed=99, **rlpd)
    for made in (straight, resumed):
        made.add(success())
    straight.update(5)
    straight.save(tmp_path / "checkpoint")
    resumed.load(tmp_path / "checkpoint")
    assert equal(weights(straight, tmp_path / "a"), weights(resumed, tmp_path / "b"))
    assert straight.update(5) == resumed.update(5)
    assert equal(weights(straight, tmp_path / "a"), weights(resumed, tmp_path / "b"))


@pytest.mark.parametrize("kept", ["prior_draws", "subset"])
def test_the_draws_of_prior_and_subset_are_each_part_of_a_checkpoint(tmp_path, rlpd, kept):
    straight, other = learner(**rlpd), learner(**rlpd)
    straight.save(tmp_path)
    other.load(tmp_path)
    if kept == "subset":
        other._target.draws.manual_seed(99)
    else:
        other._prior.sample(1)
    assert straight.update(5) != other.update(5)


def test_with_two_critics_and_no_prior_a_learner_is_the_plain_one(tmp_path):
    plain, spelt = learner(), learner(critics=2, subset=2, prior=(), prior_share=0.5, task="lift")
    assert plain.update(5) == spelt.update(5)
    assert equal(weights(plain, tmp_path / "a"), weights(spelt, tmp_path / "b"))


def test_each_batchs_targets_come_from_a_subset_of_its_own():
    target, steps = learner(critics=5, subset=2)._target, torch.randn(3, 49 + 4)
    inputs = steps[:, : target.networks.layers[0][0].weight.shape[0] - 4], steps[:, -4:]
    with torch.no_grad():
        asked = torch.cat(inputs, dim=1)
        everyone = [value[0].item() for value in target.networks.values(asked)]
        answers = [[value[0].item() for value in target(*inputs)] for _ in range(40)]
    chosen = [frozenset(everyone.index(value) for value in answer) for answer in answers]
    assert {len(pair) for pair in chosen} == {2}
    assert frozenset.union(*chosen) == frozenset(range(5))


def test_with_a_subset_the_actor_follows_the_mean_of_all_critics():
    critic = learner(critics=5, subset=2)._critic
    inputs = critic.networks.layers[0][0].weight.shape[0]
    seen, action = torch.randn(3, inputs - 4), torch.rand(3, 4).requires_grad_()
    (followed,) = critic(seen, action)
    everyone = critic.networks.values(torch.cat([seen, action.detach()], dim=1))
    torch.testing.assert_close(followed, torch.stack(everyone).mean(dim=0))


def test_the_prior_is_shaped_as_own_steps_are(rlpd):
    made = learner(**rlpd, shaping=10.0, discount=0.9)
    paid = made._prior.sample(64).rewards.flatten()
    # Half done all along: a step pays -0.5 and its gain -0.45 - -0.5; the last pays what was left.
    assert {round(float(reward), 3) for reward in paid} == {0.0, 5.0}


def test_only_rewarded_successes_join_the_prior(rlpd):
    made, before = learner(**rlpd), len(learner(**rlpd)._prior)
    made.add([replace(step, terminated=False) for step in success()])
    assert len(made._prior) == before
    made.add(success())
    assert len(made._prior) == before + 6


def test_successes_are_no_prior_unless_that_is_asked_for():
    made = learner()
    made.add(success())
    assert len(made._prior) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"critics": 0}, "critics is 0"),
        ({"critics": 3, "subset": 4}, "subset is 4; expected a whole number from 1 to 3"),
        ({"prior_share": 1.5}, "prior_share is 1.5"),
        ({"successes": "many"}, "successes is 'many'; expected true or false"),
    ],
)
def test_numbers_that_are_none_are_refused(options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        SacLearner(SPEC, hidden=HIDDEN, **options)


def test_a_checkpoint_of_more_critics_is_refused(tmp_path):
    learner(critics=3).save(tmp_path)
    with pytest.raises(ValueError, match="another policy or network"):
        learner().load(tmp_path)


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_before_the_first_update_can_be_gone_on_from(tmp_path):
    straight, resumed = learner(), learner(seed=99)
    straight.save(tmp_path)
    resumed.load(tmp_path)
    assert straight.update(2) == resumed.update(2)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    learner().save(tmp_path)
    with pytest.raises(ValueError, match="another policy or network"):
        SacLearner(SPEC, hidden=(16, 16)).load(tmp_path)


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    learner().save(tmp_path)
    path = tmp_path / "learner.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged") as caught:
        learner().load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_a_number_stops_the_learner():
    made = learner()
    with torch.no_grad():
        made._critic.networks.flat[0] = torch.nan
    with pytest.raises(LearnerDiverged, match="is nan after 1 updates"):
        made.update(1)


def test_cameras_are_refused():
    spec = PolicySpec(action_space="ee_delta", action_dim=4, state={"jaw": 3}, images=("front",))
    with pytest.raises(ValueError, match="reads state vectors"):
        SacLearner(spec)
