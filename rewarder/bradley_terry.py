"""Train an ensemble of rewards on pairs by the loss of Bradley and Terry."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rewarder.preference import About, Ensemble, Rows, chances, squash

type Layers = list[Rows]
"""w1, b1, w2, b2, w3 of `Ensemble`."""

HIDDEN = 16
STEPS = 200
RATE, DECAY, BETAS = 1e-2, 3.0, (0.9, 0.999)
PERSON_WEIGHT = 5.0
"""A person's word counts for so many of a model's."""
ENDS = (2.0, 98.0)
"""Percentiles of the rewards of training moments that become progress 0 and 1."""
FEWEST = 10
"""Labels of either kind that a threshold needs."""
PRECISION = 0.95
"""Share of the clips above a threshold that must have been successes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSet:
    """N labelled pairs of C clips, as the nets see them."""

    clips: Rows
    """Moments of each clip, as `rewarder.preference.spread` gives them, shape (C, 16, D)."""
    first: NDArray[np.intp]
    """Which clips are the first ones, shape (N,)."""
    second: NDArray[np.intp]
    """Shape (N,)."""
    targets: Rows
    """Share of the first: 1, 0, or one half for a tie, shape (N,)."""
    weights: Rows
    """Shape (N,)."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[np.intp]) -> "PairSet":
        """Return some of the pairs."""
        return replace(
            self,
            first=self.first[rows],
            second=self.second[rows],
            targets=self.targets[rows],
            weights=self.weights[rows],
        )


def fit(
    pairs: PairSet,
    *,
    seed: int,
    members: int = 5,
    steps: int = STEPS,
    show: Callable[[int], None] = lambda _step: None,
) -> Ensemble:
    """Return an ensemble trained on pairs; `show` is told of each step.

    Each member starts elsewhere and weighs the pairs otherwise (Bayesian bootstrap, Rubin 1981),
    so that they differ where the pairs leave it open.
    """
    if not len(pairs):
        raise ValueError("there are no pairs to train on")
    used = np.unique(np.concatenate([pairs.first, pairs.second]))
    moments = pairs.clips[used].reshape(-1, pairs.clips.shape[-1])
    mean, std = moments.mean(axis=0), moments.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)
    clips = (pairs.clips[used] - mean) / std
    sides = [np.searchsorted(used, side) for side in (pairs.first, pairs.second)]
    rng = np.random.default_rng(seed)
    drawn = rng.exponential(size=(members, len(pairs))) * pairs.weights
    weights = drawn / drawn.sum(axis=1, keepdims=True)
    layers = _layers(members, clips.shape[-1], rng)
    adam = _Adam(layers)
    for step in range(steps):
        sums, slopes = forward(layers, clips)
        chance = chances(sums[:, sides[0]], sums[:, sides[1]])
        # The derivative of cross-entropy by the log-odds.
        wrong = weights * (chance - pairs.targets)
        by_clip = np.zeros_like(sums)
        for side, sign in zip(sides, (1.0, -1.0), strict=True):
            np.add.at(by_clip.T, side, sign * wrong.T)
        adam.step(slopes(by_clip))
        show(step)
    return _normalised(layers, mean, std, moments)


def accuracy(ensemble: Ensemble, pairs: PairSet) -> tuple[int, int]:
    """Return how many pairs the members' mean orders as labelled, and of how many; no ties."""
    decided = pairs.take(np.flatnonzero(pairs.targets != 0.5))
    if not len(decided):
        return 0, 0
    sums = ensemble.sums(pairs.clips)
    better = chances(sums[:, decided.first], sums[:, decided.second]).mean(axis=0) > 0.5
    return int((better == (decided.targets > 0.5)).sum()), len(decided)


def ends_of(ensemble: Ensemble, moments: Rows, k: float) -> tuple[float, float]:
    """Return the rewards that become progress 0 and 1, from training moments (T, D)."""
    rewards = ensemble.rewards(moments)
    paid: Rows = rewards.mean(axis=0) - k * rewards.std(axis=0)
    low, high = (float(np.percentile(paid, end)) for end in ENDS)
    return low, max(high, low + 1e-6)


def threshold_of(progress: Rows, success: NDArray[np.bool_]) -> float | None:
    """Return the lowest progress from which clips were successes with `PRECISION`, or None.

    `progress` is that of the last moment of labelled clips, shape (N,). At least `FEWEST` of the
    successes must lie above, and there must be as many failures.
    """
    if int((~success).sum()) < FEWEST:
        return None
    for level in np.unique(progress):
        over = success[progress >= level]
        if int(over.sum()) >= FEWEST and over.mean() >= PRECISION:
            return float(level)
    return None


def progress_of(ensemble: Ensemble, about: About, rows: Rows) -> Rows:
    """Return the progress of features (T, D), shape (T,)."""
    rewards = ensemble.rewards(rows)
    return squash(rewards.mean(axis=0) - about.k * rewards.std(axis=0), about)


def forward(layers: Layers, clips: Rows) -> tuple[Rows, Callable[[Rows], Layers]]:
    """Return each member's sums of rewards, shape (M, C), of clips (C, 16, D), and their slopes.

    The slopes make of derivatives by the sums, shape (M, C), those by each layer.
    """
    w1, b1, w2, b2, w3 = layers
    x = clips.reshape(-1, clips.shape[-1])
    one = np.tanh(x @ w1 + b1)
    two = np.tanh(one @ w2 + b2)
    sums = (two @ w3).reshape(len(w1), *clips.shape[:2]).sum(axis=2)

    def slopes(by_sum: Rows) -> Layers:
        by_reward = np.repeat(by_sum, clips.shape[1], axis=1)[..., None]
        by_two = by_reward @ w3.swapaxes(1, 2) * (1.0 - two * two)
        by_one = by_two @ w2.swapaxes(1, 2) * (1.0 - one * one)
        return [
            x.T @ by_one,
            by_one.sum(axis=1, keepdims=True),
            one.swapaxes(1, 2) @ by_two,
            by_two.sum(axis=1, keepdims=True),
            two.swapaxes(1, 2) @ by_reward,
        ]

    return sums, slopes


class _Adam:
    """Adam with decoupled weight decay (arXiv 1711.05101); it writes into the layers."""

    def __init__(self, layers: Layers) -> None:
        self._layers, self._steps = layers, 0
        self._first = [np.zeros_like(layer) for layer in layers]
        self._second = [np.zeros_like(layer) for layer in layers]

    def step(self, slopes: Layers) -> None:
        self._steps += 1
        fix = [1.0 - beta**self._steps for beta in BETAS]
        for i, slope in enumerate(slopes):
            self._first[i] += (1.0 - BETAS[0]) * (slope - self._first[i])
            self._second[i] += (1.0 - BETAS[1]) * (slope * slope - self._second[i])
            move = (self._first[i] / fix[0]) / (np.sqrt(self._second[i] / fix[1]) + 1e-8)
            self._layers[i] *= 1.0 - RATE * DECAY
            self._layers[i] -= RATE * move


def _layers(members: int, inputs: int, rng: np.random.Generator) -> Layers:
    shapes = [(inputs, HIDDEN), (1, HIDDEN), (HIDDEN, HIDDEN), (1, HIDDEN), (HIDDEN, 1)]
    scales = [inputs**-0.5, 0.0, HIDDEN**-0.5, 0.0, 0.1 * HIDDEN**-0.5]
    return [
        scale * rng.standard_normal((members, *shape))
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def _normalised(layers: Layers, mean: Rows, std: Rows, moments: Rows) -> Ensemble:
    """Return an ensemble whose members share one scale."""
    w1, b1, w2, b2, w3 = layers
    one, zero = np.ones((len(w1), 1)), np.zeros((len(w1), 1))
    plain = Ensemble(mean=mean, std=std, w1=w1, b1=b1, w2=w2, b2=b2, w3=w3, shift=zero, scale=one)
    raw = plain.raw(moments)
    spread = np.maximum(raw.std(axis=1, keepdims=True), 1e-9)
    return replace(plain, shift=raw.mean(axis=1, keepdims=True), scale=spread)
