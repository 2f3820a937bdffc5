"""Soft actor-critic: SB3's SAC as the engine of updates, fed from our own replay and a prior."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# SB3's and safetensors' own types are partly unknown.

import json
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from policy_server.backends.learned import DESCRIPTION, WEIGHTS, describe
from policy_server.backends.network import Encoder, encoding_of, tensors_of
from policy_server.policy import PolicySpec
from rl.adam import Adam
from rl.bc import start_from
from rl.prior import prior_episodes
from rl.pulls import pulls_of
from rl.replay import Mixed, Replay
from rl.sac_policy import FastActor, FastCritic, FastPolicy
from rl.transition import Transition
from robot.sealed import make_folder, seal

CHECKPOINT = "learner.safetensors"
_FACTS = "facts"
_FIGURES = {
    "learner/critic_loss": "train/critic_loss",
    "learner/actor_loss": "train/actor_loss",
    "learner/entropy_coef": "train/ent_coef",
}
"""Our names for what SB3 logs."""


class LearnerDiverged(RuntimeError):
    """A loss is not a number any more; nothing that follows would be learning."""


class SacLearner:
    """Soft actor-critic on state vectors."""

    def __init__(  # noqa: PLR0913 - the constructor is the schema of conf/learner/sac.yaml
        self,
        spec: PolicySpec,
        *,
        capacity: int = 1_000_000,
        batch_size: int = 256,
        hidden: Sequence[int] = (256, 256),
        learning_rate: float = 5e-4,
        discount: float = 0.97,
        shaping: float = 10.0,
        target_rate: float = 0.01,
        entropy_coef: float = 0.05,
        target_entropy: float | None = None,
        critics: int = 2,
        subset: int = 2,
        prior: Sequence[str] = (),
        prior_share: float = 0.5,
        successes: bool = False,
        start: str | None = None,
        bc: Mapping[str, Any] | None = None,
        preferences: Mapping[str, Any] | None = None,
        task: str = "",
        runs: str = "runs",
        starts_at_zero: bool = False,
        seed: int = 0,
        git_revision: str = "unknown",
    ) -> None:
        """Start from random weights; `entropy_coef` is where its tuning starts.

        `target_rate` is the share of the critics that the target critics take over in an update,
        `target_entropy` is minus half the action's size where it is not given, and `shaping` is
        how much more a gain pays at once than it saves in every later step (0 for not at all). An
        actor that `starts_at_zero` does nothing on average until it has learnt better.

        The targets are the least of a `subset` of the `critics`, drawn for each batch. `prior`
        names runs of `task`, by folder or among `runs`, whose labelled steps make `prior_share` of
        each batch; with `successes` those of this run's own rewarded episodes do so, too. The actor
        begins as the policy in the folder `start`; `bc` and `preferences` are what `rl.pulls` makes
        pulls of. Raise `BadRun` or `ValueError` where one of these does not fit.
        """
        if spec.images or spec.horizon != 1:
            raise ValueError(f"SAC reads state vectors and gives one row a time, not {spec}")
        _refuse_wrong(
            shaping=shaping,
            batch_size=batch_size,
            learning_rate=learning_rate,
            discount=discount,
            target_rate=target_rate,
            entropy_coef=entropy_coef,
        )
        _refuse_wrong_prior(
            critics=critics, subset=subset, prior_share=prior_share, successes=successes
        )
        self._spec, self._hidden, self._batch_size = spec, list(hidden), batch_size
        self._discount, self._shaping = discount, shaping
        self._git_revision, self._updates = git_revision, 0
        self._replay = Replay(spec, np.random.default_rng(seed), capacity=capacity)
        self._prior = Replay(spec, np.random.default_rng([seed, 1]), capacity=capacity)
        self._keeps_successes = successes
        for episode in prior_episodes(prior, root=Path(runs), task=task, spec=spec):
            self._prior.add([self._shaped(step) for step in episode])
        encoding = encoding_of(spec)
        self._sac = engine = _engine(
            _Spaces(encoding.size, spec.action_dim),
            entropy_coef,
            hidden=self._hidden,
            critics=critics,
            subset=subset,
            learning_rate=learning_rate,
            tau=target_rate,
            gamma=discount,
            target_entropy=-spec.action_dim / 2 if target_entropy is None else target_entropy,
            seed=seed,
        )
        mixed = Mixed(self._replay, self._prior, share=prior_share)
        engine.replay_buffer = _Encoded(mixed, Encoder(encoding))
        self._actor: FastActor = engine.actor
        self._critic: FastCritic = engine.critic
        self._target: FastCritic = engine.critic_target
        actor = self._actor.networks
        self._is_taught = start is not None
        if starts_at_zero:
            actor.silence()
        if start:
            start_from(Path(start), actor, spec)
        self._pulls = pulls_of(
            spec, actor, bc=bc, preferences=preferences, runs=Path(runs), seed=seed
        )

    @property
    def is_taught(self) -> bool:
        """Return whether the actor began as an earlier policy."""
        return self._is_taught

    def add(self, transitions: Sequence[Transition]) -> None:
        """Take in one labelled episode, in order."""
        steps = [self._shaped(step) for step in transitions]
        self._replay.add(steps)
        if self._keeps_successes and steps and steps[-1].terminated:
            self._prior.add(steps)

    def update(self, steps: int) -> Mapping[str, float]:
        """Take gradient steps; raise `LearnerDiverged` where a loss is not finite."""
        with _small_numbers_and_matrices():
            self._sac.train(gradient_steps=steps, batch_size=self._batch_size)
            self._updates += steps
            pulled = [pull.step(self._updates, steps) for pull in self._pulls.values()]
        logged = self._sac.logger.name_to_value
        figures = {name: float(logged[theirs]) for name, theirs in _FIGURES.items()}
        figures["learner/q"] = float(self._critic.q.mean())
        figures["learner/entropy"] = float(self._actor.entropy)
        for named in pulled:
            figures |= named
        for name, value in figures.items():
            if not math.isfinite(value):
                raise LearnerDiverged(
                    f"{name} is {value} after {self._updates} updates; go on from an earlier "
                    "checkpoint with a smaller learner.learning_rate"
                )
        return figures

    def snapshot(self, folder: Path) -> None:
        """Write the policy as `policy.safetensors` and `policy.json`; the latter makes it whole."""
        weights = save_tensors(tensors_of(self._actor.networks.layers[0]))
        description = describe(
            self._spec,
            weights,
            hidden=self._hidden,
            version=self._updates,
            git_revision=self._git_revision,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        make_folder(folder)
        seal(folder / WEIGHTS, weights)
        seal(folder / DESCRIPTION, description.encode())

    def save(self, folder: Path) -> None:
        """Write everything but the steps of replay and prior, as one file."""
        draws = {"draws": self._replay.rng_state, "prior_draws": self._prior.rng_state}
        draws |= {f"{name}_draws": pull.rng_state for name, pull in self._pulls.items()}
        facts = {"updates": self._updates, **draws, **self._shape()}
        text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        states = {"noise": self._actor.noise.get_state(), "subset": self._target.draws.get_state()}
        tensors = {**self._tensors(), **states, _FACTS: text}
        make_folder(folder)
        seal(folder / CHECKPOINT, save_tensors(tensors))

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote; raise `ValueError` if that is damaged or another's."""
        path = folder / CHECKPOINT
        facts, tensors = _read(path)
        shape, mine = self._shape(), self._tensors()
        sizes = {name: tensors[name].shape for name in mine if name in tensors}
        fits = sizes == {name: tensor.shape for name, tensor in mine.items()}
        if {name: facts.get(name) for name in shape} != shape or not fits:
            raise ValueError(
                f"{path} is of another policy or network; go on with the options it began with"
            )
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self._actor.noise.set_state(tensors["noise"])
        self._replay.rng_state = facts["draws"]
        # A learner without a prior and with two critics needs neither, and may not have kept them.
        if "prior_draws" in facts and "subset" in tensors:
            self._prior.rng_state = facts["prior_draws"]
            self._target.draws.set_state(tensors["subset"])
        for name, pull in self._pulls.items():
            pull.rng_state = facts[f"{name}_draws"]
        self._updates = facts["updates"]

    def _shaped(self, step: Transition) -> Transition:
        """Return a step that also pays the gain of its outcome over its start.

        With the reward of arriving in a state as its potential, this changes no optimal policy
        (Ng, Harada and Russell, 1999), and shows at once what would take the critics many updates.
        An end has no potential.
        """
        after = 0.0 if step.terminated else self._discount * step.reward
        gain = after - step.reward_before
        return replace(step, reward=step.reward + self._shaping * gain)

    def _shape(self) -> dict[str, Any]:
        """Return what a checkpoint must share with this learner, as JSON gives it back."""
        shape = {
            "state": list(self._spec.state.items()),
            "action": (self._spec.action_space, self._spec.action_dim),
            "encoding": asdict(encoding_of(self._spec)),
            "hidden": self._hidden,
        }
        return json.loads(json.dumps(shape))

    def _tensors(self) -> dict[str, Tensor]:
        """Return all that updates change, by name and not copied."""
        engine = self._sac
        optimizers: dict[str, Any] = {
            "actor": self._actor.optimizer,
            "critic": self._critic.optimizer,
            "entropy": engine.ent_coef_optimizer,
        }
        pulled = [pull.tensors() for pull in self._pulls.values()]
        return {
            **dict(pair for named in pulled for pair in named.items()),
            "actor": self._actor.networks.flat.detach(),
            "critic": self._critic.networks.flat.detach(),
            "critic_target": self._target.networks.flat.detach(),
            "log_entropy_coef": engine.log_ent_coef.detach(),
        } | {
            f"{name}_adam.{moment}": tensor
            for name, optimizer in optimizers.items()
            for moment, tensor in optimizer.moments[0].named().items()
        }


class _Spaces(gymnasium.Env[Any, Any]):
    """What SB3 wants to know of an environment that it never runs."""

    def __init__(self, inputs: int, action_dim: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (inputs,))
        self.action_space = spaces.Box(-1.0, 1.0, (action_dim,))


class _Encoded:
    """A replay as SB3 samples it: with states turned into the networks' input."""

    def __init__(self, replay: Mixed, encode: Encoder) -> None:
        self._replay, self._encode = replay, encode

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        """Draw a batch."""
        batch = self._replay.sample(batch_size, env)
        return batch._replace(
            observations=self._encode(batch.observations),
            next_observations=self._encode(batch.next_observations),
        )


def _engine(
    spaces: "_Spaces",
    entropy_coef: float,
    *,
    hidden: Sequence[int],
    critics: int,
    subset: int,
    seed: int,
    **options: Any,  # noqa: ANN401 - SB3's, passed on
) -> Any:  # noqa: ANN401 - SB3's
    """Return SB3's SAC, quiet, on the CPU, and without a replay of its own."""
    engine: Any = SAC(
        FastPolicy,
        spaces,
        buffer_size=1,
        ent_coef=entropy_coef,
        device="cpu",
        policy_kwargs={"net_arch": hidden, "n_critics": critics, "optimizer_class": Adam},
        seed=seed,
        **options,
    )
    engine.set_logger(Logger(folder=None, output_formats=[]))
    # SB3 would tune the coefficient with torch's Adam; see `rl.adam`.
    engine.log_ent_coef = torch.tensor([math.log(entropy_coef)], requires_grad=True)
    engine.ent_coef_optimizer = Adam([engine.log_ent_coef], lr=options["learning_rate"])
    engine.critic.subset = engine.critic_target.subset = subset
    engine.actor.noise.manual_seed(seed)
    engine.critic_target.draws.manual_seed(seed + 1)
    return engine


def _refuse_wrong(*, shaping: object, **numbers: object) -> None:
    """Raise `ValueError` for a setting that is no number above 0; shaping may be 0."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{name} is {value!r}; expected a number above 0")
    if not isinstance(shaping, int | float) or not 0.0 <= shaping < math.inf:
        raise ValueError(f"shaping is {shaping!r}; expected a number from 0 up")


def _refuse_wrong_prior(
    *, critics: object, subset: object, prior_share: object, successes: object
) -> None:
    """Raise `ValueError` for numbers of critics, or a use of the prior, that make no sense."""
    if not isinstance(critics, int) or critics < 1:
        raise ValueError(f"critics is {critics!r}; expected a whole number from 1 up")
    if not isinstance(subset, int) or not 1 <= subset <= critics:
        raise ValueError(f"subset is {subset!r}; expected a whole number from 1 to {critics}")
    if not isinstance(prior_share, int | float) or not 0.0 <= prior_share <= 1.0:
        raise ValueError(f"prior_share is {prior_share!r}; expected a number from 0 to 1")
    if not isinstance(successes, bool):
        raise TypeError(f"successes is {successes!r}; expected true or false")


@contextmanager
def _small_numbers_and_matrices() -> Generator[None]:
    """Run torch as suits one small network in a process that has other things to do."""
    threads = torch.get_num_threads()
    # Two threads that share out so little work wait for each other longer than they work.
    torch.set_num_threads(1)
    # The moments of weights at rest decay to numbers that processors are slow with.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        tensors = load_tensors(path.read_bytes())
        facts = json.loads(bytes(tensors[_FACTS].tolist()))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); go on from an earlier checkpoint") from None
    return facts, tensors
