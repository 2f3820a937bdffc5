"""Steps to learn from: a ring of the newest, and a ring beside it that takes a share of a batch."""

import json
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from policy_server.policy import PolicySpec
from rl.transition import State, Transition


class Replay:
    """A ring of steps with flat states, in the form that SB3's algorithms sample."""

    def __init__(
        self, spec: PolicySpec, generator: np.random.Generator, *, capacity: int = 1_000_000
    ) -> None:
        """Hold `capacity` steps of what `spec` reads and writes; memory is taken as they come."""
        if capacity < 1:
            raise ValueError(f"a replay of {capacity} steps holds nothing; give at least 1")
        self._spec, self._generator = spec, generator
        state, action = sum(spec.state.values()), spec.action_dim
        self._ends = np.cumsum([state, state, action, 1, 1]).tolist()
        # One row a step (state, next state, action, reward, terminated): a batch is one gather.
        self._rows = np.empty((capacity, self._ends[-1]), np.float32)
        self._added = 0

    def __len__(self) -> int:
        """Return how many steps can be drawn."""
        return min(self._added, len(self._rows))

    @property
    def added(self) -> int:
        """Return how many steps have been taken in, those that were overwritten included."""
        return self._added

    @property
    def rng_state(self) -> str:
        """Return, as JSON, where the generator of the draws stands."""
        return json.dumps(self._generator.bit_generator.state)

    @rng_state.setter
    def rng_state(self, state: str) -> None:
        self._generator.bit_generator.state = json.loads(state)

    def add(self, transitions: Sequence[Transition]) -> None:
        """Take in steps, in order; all of them or, where one does not fit the spec, none."""
        rows = [self._row(transition) for transition in transitions]
        for row in rows:
            self._rows[self._added % len(self._rows)] = row
            self._added += 1

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        """Draw steps evenly, with replacement; `env` is what SB3 passes and is not needed.

        `dones` are terminations only: running out of time does not make a state worthless.
        """
        del env
        if not self._added:
            raise ValueError("the replay is empty; add steps before sampling")
        drawn = self._generator.integers(len(self), size=batch_size)
        rows = torch.as_tensor(self._rows.take(drawn, axis=0))
        a, b, c, d, e = self._ends
        return ReplayBufferSamples(
            observations=rows[:, :a],
            next_observations=rows[:, a:b],
            actions=rows[:, b:c],
            rewards=rows[:, c:d],
            dones=rows[:, d:e],
        )

    def _row(self, transition: Transition) -> NDArray[np.float32]:
        action = transition.action
        if action.shape != (self._spec.action_dim,):
            raise ValueError(
                f"an action has shape {action.shape}, the policy's {(self._spec.action_dim,)}"
            )
        row = np.concatenate(
            [
                *self._vectors(transition.state),
                *self._vectors(transition.next_state),
                action,
                [transition.reward, transition.terminated],
            ],
            dtype=np.float32,
        )
        if not np.isfinite(row).all():
            raise ValueError("a step holds a value that is not finite and cannot be learnt from")
        return row

    def _vectors(self, state: State) -> list[NDArray[np.float32]]:
        """Return the vectors that the policy reads, in its order."""
        for name, size in self._spec.state.items():
            if name not in state or state[name].shape != (size,):
                shape = state[name].shape if name in state else "missing"
                raise ValueError(f"the vector {name!r} is {shape}, the policy expects {(size,)}")
        return [state[name] for name in self._spec.state]


class Mixed:
    """A replay and a prior that are sampled as one: each batch has its share of the prior."""

    def __init__(self, own: Replay, prior: Replay, *, share: float) -> None:
        """Draw `share` of each batch, 0 to 1, from `prior` once that has steps.

        Half and half is what RLPD does (Ball et al., 2023).
        """
        self._own, self._prior, self._share = own, prior, share

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        """Draw a batch, the prior's steps last; all of it from one where the other is empty."""
        theirs = round(self._share * batch_size) if len(self._prior) else 0
        if len(self._prior) and not len(self._own):
            theirs = batch_size
        if not theirs:
            return self._own.sample(batch_size, env)
        if theirs == batch_size:
            return self._prior.sample(batch_size, env)
        return _joined(self._own.sample(batch_size - theirs, env), self._prior.sample(theirs, env))


def _joined(a: ReplayBufferSamples, b: ReplayBufferSamples) -> ReplayBufferSamples:
    return ReplayBufferSamples(
        observations=torch.cat([a.observations, b.observations]),
        next_observations=torch.cat([a.next_observations, b.next_observations]),
        actions=torch.cat([a.actions, b.actions]),
        rewards=torch.cat([a.rewards, b.rewards]),
        dones=torch.cat([a.dones, b.dones]),
    )
