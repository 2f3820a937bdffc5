"""How sure a share of a few is, and how far two judges agree beyond chance."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

type Verdicts = NDArray[np.bool_]


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided Wilson score interval of a success rate; (0, 1) without trials."""
    check_counts(successes, trials)
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials)) / (1 + spread)
    lower = 0.0 if successes == 0 else max(0.0, centre - half)
    upper = 1.0 if successes == trials else min(1.0, centre + half)
    return lower, upper


def check_counts(successes: int, trials: int) -> None:
    """Raise ValueError where there are more successes than trials, or fewer than none."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; expected 0 to {trials}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kappa:
    """How far two judges agree."""

    count: int
    """Of what both judged."""
    share: float | None
    """Of it that they judge alike; None of nothing."""
    kappa: float | None
    """1 for full agreement, 0 for that of chance; None where one verdict is all there is."""


def cohen_kappa(one: Verdicts, other: Verdicts) -> Kappa:
    """Return agreement beyond chance (Cohen 1960) of two rows of verdicts, shape (n,) each."""
    if one.shape != other.shape:
        raise ValueError(f"{len(one)} verdicts beside {len(other)}; expected as many")
    if not len(one):
        return Kappa(count=0, share=None, kappa=None)
    share = float(np.mean(np.equal(one, other)))
    yes, yes_too = float(np.mean(one)), float(np.mean(other))
    chance = yes * yes_too + (1 - yes) * (1 - yes_too)
    kappa = (share - chance) / (1 - chance) if chance < 1 else None
    return Kappa(count=len(one), share=share, kappa=kappa)
