"""Curves from a model's raw log-odds to the probability of success, and how good one is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

LEAST, LEAST_EACH = 20, 5
"""Labelled clips, and those of either kind, under which nothing is fitted."""
ISOTONIC_FROM = 200
"""Labelled clips under which a free monotone curve would follow their noise."""
FOLDS = 5
BINS = 10

type Floats = NDArray[np.float64]
type Bools = NDArray[np.bool_]


def sigmoid(score: Floats) -> Floats:
    """Return the probability of log-odds (n,), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * score))


def log_odds(probability: Floats) -> Floats:
    """Return the log-odds of probabilities (n,), none of them beyond those of one in 10^9."""
    p = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.log(p) - np.log1p(-p)


class BadCalibration(ValueError):
    """Labels that nothing can be fitted to, or a file that is no calibration."""


class Curve(Protocol):
    """What turns raw log-odds into probabilities."""

    def probability(self, logit: Floats) -> Floats:
        """Return the probability of success of each, shape (n,)."""
        ...


@dataclass(frozen=True, slots=True)
class Platt:
    """A straight line through the log-odds: p = 1 / (1 + exp(-(a · logit + b)))."""

    a: float
    b: float

    def probability(self, logit: Floats) -> Floats:
        """Return the probability of success of each, shape (n,)."""
        return sigmoid(self.a * logit + self.b)

    @classmethod
    def fit(cls, logit: Floats, label: Bools) -> "Platt":
        """Fit to raw log-odds (n,) and labels (n,) by damped Newton steps.

        Targets are Laplace-smoothed (Platt 1999), so that even separable labels have a finite
        optimum; steps are halved until the loss falls enough (Lin, Lin and Weng 2007, algorithm 1):
        without that the iteration can leave for infinity.
        """
        yes, no = int(label.sum()), int((~label).sum())
        target = np.where(label, (yes + 1) / (yes + 2), 1 / (no + 2))
        x = np.array([0.0, np.log((yes + 1) / (no + 1))])
        design = np.stack([logit, np.ones_like(logit)], axis=1)
        for _ in range(100):
            p = sigmoid(design @ x)
            gradient = design.T @ (p - target)
            if np.abs(gradient).max() < 1e-8:
                break
            weighted = design * (p * (1 - p))[:, None]
            hessian = design.T @ weighted + 1e-9 * np.eye(2)
            step: Floats = -np.asarray(np.linalg.solve(hessian, gradient), np.float64)
            length = _step_length(design, target, x, step, float(gradient @ step))
            if not length:
                break
            x = x + length * step
        return cls(float(x[0]), float(x[1]))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A monotone curve through knots: for many labels, where a straight line does not fit."""

    logits: tuple[float, ...]
    """Ascending."""
    probabilities: tuple[float, ...]

    def probability(self, logit: Floats) -> Floats:
        """Return the probability of success of each, shape (n,)."""
        return np.interp(logit, self.logits, self.probabilities)

    @classmethod
    def fit(cls, logit: Floats, label: Bools) -> "Isotonic":
        """Fit to raw log-odds (n,) and labels (n,): least squares under monotony."""
        knots, index, counts = np.unique(logit, return_inverse=True, return_counts=True)
        means = np.bincount(index, weights=label) / counts
        fitted: Floats = cast("Any", optimize).isotonic_regression(means, weights=counts).x
        # Nothing is certain after n labels: Laplace's rule of succession at both ends.
        least = 1 / (len(logit) + 2)
        probabilities = np.clip(fitted, least, 1 - least)
        return cls(tuple(knots.tolist()), tuple(probabilities.tolist()))


def check_labels(logit: Floats, label: Bools) -> None:
    """Raise `BadCalibration` where log-odds (n,) and labels (n,) are too few or not finite."""
    if logit.shape != label.shape or not np.isfinite(logit).all():
        raise BadCalibration("every label needs log-odds that are finite")
    yes, no = int(label.sum()), int((~label).sum())
    if yes + no < LEAST or min(yes, no) < LEAST_EACH:
        raise BadCalibration(
            f"{yes} successes and {no} failures have log-odds; expected {LEAST} clips or more, "
            f"{LEAST_EACH} of either kind at least: label more of them"
        )


def fit_curve(logit: Floats, label: Bools, *, seed: int = 0) -> Platt | Isotonic:
    """Return the curve for these labels: isotonic only for many, and where it predicts better.

    Raise `BadCalibration` where there are too few, or higher log-odds do not mean success.
    """
    check_labels(logit, label)
    line = Platt.fit(logit, label)
    if line.a <= 0:
        raise BadCalibration(
            "higher log-odds go with failure on these clips: this model cannot be calibrated, "
            "look at its gallery with make agreement"
        )
    if len(logit) < ISOTONIC_FROM:
        return line
    lines = out_of_fold(Platt.fit, logit, label, seed=seed)
    curves = out_of_fold(Isotonic.fit, logit, label, seed=seed)
    return Isotonic.fit(logit, label) if nll(curves, label) < nll(lines, label) else line


def out_of_fold(
    fit: Callable[[Floats, Bools], Curve], logit: Floats, label: Bools, *, seed: int = 0
) -> Floats:
    """Return for each label what a curve says that was fitted without its fold, shape (n,).

    Each fold holds as many of either kind as can be.
    """
    order = np.random.default_rng(seed).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(label), int)
    fold[order] = np.arange(len(label)) % FOLDS
    said = np.empty(len(label))
    for held_out in range(FOLDS):
        rest, these = fold != held_out, fold == held_out
        said[these] = fit(logit[rest], label[rest]).probability(logit[these])
    return said


def nll(probability: Floats, label: Bools) -> float:
    """Return the mean negative log-likelihood of labels (n,), nats."""
    p = np.clip(np.where(label, probability, 1 - probability), 1e-12, 1.0)
    return float(-np.log(p).mean())


def expected_calibration_error(probability: Floats, label: Bools) -> float:
    """Return how far probabilities (n,) are from the shares of success in ten equal bins.

    Bins count by how many probabilities lie in them (Naeini et al. 2015; Guo et al. 2017).
    """
    index = np.minimum((probability * BINS).astype(int), BINS - 1)
    sums = [
        np.bincount(index, weights=w, minlength=BINS) for w in (probability, label.astype(float))
    ]
    return float(np.abs(sums[0] - sums[1]).sum() / len(label))


def _step_length(design: Floats, target: Floats, x: Floats, step: Floats, slope: float) -> float:
    """Return the longest of 1, 1/2, 1/4 … at which the loss falls enough (Armijo); 0 for none."""
    before = _loss(design @ x, target)
    length = 1.0
    while length > 1e-10:
        if _loss(design @ (x + length * step), target) <= before + 1e-4 * length * slope:
            return length
        length /= 2
    return 0.0


def _loss(score: Floats, target: Floats) -> float:
    """Return the cross-entropy of soft targets (n,), without overflow."""
    return float((np.logaddexp(0.0, score) - target * score).sum())
