"""Contrastive preference learning: a policy learns from pairs which of two episodes went better.

No reward is learnt in between. Hejna et al. (2023, arXiv 2310.13639) read a policy's log-density as
the advantage of each step, so that the log-odds of a pair are a difference of discounted sums.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Torch's own types are partly unknown.

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from policy_server.backends.learned import LearnedPolicy
from policy_server.backends.network import LOG_STD, Encoder, encoding_of, tensors_of
from policy_server.policy import PolicySpec
from rl.adam import Adam
from rl.bc import REPORTS, SATURATED, Steps
from rl.networks import Networks

PAIRS, KEPT = 16, 256
"""Drawn for a gradient step: pairs, and steps on which the actor is kept near its start."""
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranked:
    """Episodes, and P pairs of them with the one that went better."""

    steps: Steps
    """Of all episodes, those of no pair as well, one after another."""
    better: NDArray[np.intp]
    """Numbers of episodes, as `steps.episode` has them, shape (P,)."""
    worse: NDArray[np.intp]
    """Shape (P,)."""
    weights: NDArray[np.float32]
    """How much each pair counts, shape (P,)."""

    def __len__(self) -> int:
        """Return P."""
        return len(self.weights)

    def take(self, rows: NDArray[np.intp]) -> "Ranked":
        """Return some of the pairs, of the same episodes."""
        return replace(
            self, better=self.better[rows], worse=self.worse[rows], weights=self.weights[rows]
        )

    def split(self, share: float, draws: np.random.Generator) -> tuple["Ranked", "Ranked"]:
        """Return pairs to learn from, and `share` of them held out."""
        order = draws.permutation(len(self))
        held = round(share * len(self))
        return self.take(np.sort(order[held:])), self.take(np.sort(order[:held]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What is made of a pair."""

    alpha: float = 0.1
    """Advantage of a step for each unit of log-density."""
    discount: float = 1.0
    """Weight of a step against the one before."""
    conservative: float = 0.5
    """Weight of the worse episode's sum, above 0 and up to 1: below 1, what was done counts as
    better than what never was."""
    keep: float = 0.1
    """Weight of the mean divergence from the policy that it began as."""
    relative: bool = True
    """Whether densities count against those of that policy. Without, all but the divergence is as
    published, and a long episode weighs more than one that success has cut short."""

    def __post_init__(self) -> None:
        for name in ("discount", "conservative"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected above 0 and up to 1")
        if not 0.0 < self.alpha < math.inf or not 0.0 <= self.keep < math.inf:
            raise ValueError(
                f"alpha is {self.alpha} and keep {self.keep}; expected numbers above 0, keep from 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a policy stands to pairs."""

    right: int
    """Pairs whose better episode it holds for the better one."""
    pairs: int
    margin: float
    """Mean log-odds of the better one, without the conservative weight; 0 for no pairs."""


class Pairwise:
    """Gradient steps of an actor on pairs of episodes."""

    def __init__(
        self,
        ranked: Ranked,
        spec: PolicySpec,
        networks: Networks,
        contrast: Contrast,
        *,
        draws: np.random.Generator,
    ) -> None:
        """Learn from the pairs of `ranked`, all of which are of its episodes."""
        self._ranked, self._networks = ranked, networks
        self._contrast, self._draws = contrast, draws
        self._inputs = Encoder(encoding_of(spec))(torch.from_numpy(ranked.steps.states))
        self._actions = torch.from_numpy(ranked.steps.actions)
        owners = ranked.steps.episode
        self._rows = [np.flatnonzero(owners == one) for one in range(int(owners.max()) + 1)]
        ages = np.concatenate([np.arange(len(rows)) for rows in self._rows])
        self._factor = torch.from_numpy(contrast.alpha * contrast.discount**ages).float()
        self.start = networks.values(self._inputs)[0].clone()
        """What the actor put out at first, shape (n, 2 * action_dim)."""

    def descend(self, optimizer: Adam) -> float:
        """Take one step and return the pairs' mean loss."""
        drawn = self._draws.integers(len(self._ranked), size=min(PAIRS, len(self._ranked)))
        some, kept = self._ranked.take(drawn), self._draws.integers(len(self._actions), size=KEPT)
        chosen = np.concatenate([some.better, some.worse])
        rows = np.concatenate([self._rows[episode] for episode in chosen])
        # The derivative by the weights replaces the one before: one pass for all of it.
        outputs = self._networks.trained(self._inputs[np.concatenate([rows, kept])])[0]
        better, worse = self._sums(outputs[: len(rows)], rows, chosen).split(len(some))
        wrong = functional.softplus(self._contrast.conservative * worse - better)
        weights = torch.from_numpy(some.weights)
        contrast = (weights * wrong).sum() / weights.sum()
        moved = divergence(outputs[len(rows) :], self.start[kept]).mean()
        optimizer.zero_grad()
        (contrast + self._contrast.keep * moved).backward()
        optimizer.step()
        return float(contrast.detach())

    def tensors(self) -> Mapping[str, Tensor]:
        """Return what the actor put out at first, by name and not copied."""
        return {"start": self.start}

    @torch.no_grad()
    def standing(self, ranked: Ranked) -> Standing:
        """Return how the actor stands to pairs of the same episodes."""
        outputs, episodes = self._networks.values(self._inputs)[0], np.arange(len(self._rows))
        sums = self._sums(outputs, np.arange(len(outputs)), episodes).numpy()
        odds = sums[ranked.better] - sums[ranked.worse]
        return Standing(
            right=int((odds > 0).sum()),
            pairs=len(odds),
            margin=float(odds.mean()) if len(odds) else 0.0,
        )

    @torch.no_grad()
    def moved(self) -> float:
        """Return the mean divergence from the policy that it began as, on all steps."""
        return float(divergence(self._networks.values(self._inputs)[0], self.start).mean())

    def _sums(self, outputs: Tensor, rows: NDArray[np.intp], episodes: NDArray[np.intp]) -> Tensor:
        """Return the advantage of whole episodes, which follow one another in `rows`."""
        means, spreads = outputs.chunk(2, dim=1)[0], self.start[rows].chunk(2, dim=1)[1]
        # A spread that learnt would shrink where the mean is nearer to the better of two, until
        # the worse is as good as impossible and nothing is left for the mean to learn.
        density = log_density(torch.cat([means, spreads], dim=1), self._actions[rows])
        if self._contrast.relative:
            density = density - log_density(self.start[rows], self._actions[rows])
        lengths = [len(self._rows[episode]) for episode in episodes]
        owners = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        return torch.zeros(len(lengths)).index_add(0, owners, self._factor[rows] * density)


def log_density(outputs: Tensor, actions: Tensor) -> Tensor:
    """Return the logarithm of actions' density under a tanh-Gaussian, shape (n,).

    `outputs` are a network's, shape (n, 2 * action_dim). Of an action that has all but reached its
    bound it is known only that it lies there: the probability of that counts, or rounding would
    decide.
    """
    mean, log_std = _gaussian(outputs)
    raw = actions.clamp(-SATURATED, SATURATED).atanh()
    off = (raw - mean) / log_std.exp()
    inside = -0.5 * off * off - log_std - _HALF_LOG_TAU - torch.log1p(-actions * actions)
    beyond = torch.special.log_ndtr(-actions.sign() * off)
    return torch.where(actions.abs() < SATURATED, inside, beyond).sum(dim=1)


def divergence(outputs: Tensor, start: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from a start, shape (n,); the tanh changes none."""
    mean, log_std = _gaussian(outputs)
    was, log_was = _gaussian(start)
    off = (mean - was) / log_was.exp()
    ratio = log_std - log_was
    return (0.5 * ((2 * ratio).exp() + off * off - 1.0) - ratio).sum(dim=1)


def _gaussian(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and logarithm of the standard deviation before the tanh."""
    mean, log_std = outputs.chunk(2, dim=1)
    return mean, log_std.clamp(*LOG_STD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What came of a training."""

    taught: Standing
    """To the pairs that it learnt from."""
    held: Standing
    """To those that were held out."""
    moved: float
    """Mean divergence from the policy that it began as, nats a step."""


def prefer(  # noqa: PLR0913 - the settings of one training
    networks: Networks,
    spec: PolicySpec,
    ranked: Ranked,
    contrast: Contrast,
    *,
    updates: int = 300,
    learning_rate: float = 3e-4,
    held_out: float = 0.2,
    seed: int = 0,
    report: Callable[[int, float], object] = lambda _done, _loss: None,
) -> Learnt:
    """Have an actor act as in the better episodes, and not as in the worse.

    Every twentieth of `updates` or so, `report` is told how many there were, and the last loss.
    Raise `FloatingPointError` where the actor's weights are no numbers any more.
    """
    draws = np.random.default_rng(seed)
    kept, held = ranked.split(held_out, draws)
    pairwise = Pairwise(kept, spec, networks, contrast, draws=draws)
    optimizer = Adam([networks.flat], learning_rate)
    for update in range(1, updates + 1):
        loss = pairwise.descend(optimizer)
        if not update % max(1, updates // REPORTS):
            report(update, loss)
    if not networks.flat.isfinite().all():
        raise FloatingPointError(
            "the policy's weights are no numbers any more; lower learning_rate="
        )
    return Learnt(
        taught=pairwise.standing(kept), held=pairwise.standing(held), moved=pairwise.moved()
    )


def actor_of(policy: LearnedPolicy) -> Networks:
    """Return an actor with a policy's weights that can be trained; the policy stays as it is."""
    layers = policy.layers
    networks = Networks(1, (len(layers[0].weight), *(len(layer.bias) for layer in layers)))
    theirs = tensors_of(layers)
    for name, tensor in tensors_of(networks.layers[0]).items():
        tensor.copy_(theirs[name])
    return networks
