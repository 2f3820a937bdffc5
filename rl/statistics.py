"""What a number of trials can tell: intervals, medians under censoring, paired comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from rewarder.statistics import check_counts, wilson

__all__ = [
    "PairedTest",
    "betting_wealth",
    "clopper_pearson_lower",
    "kaplan_meier_median",
    "mcnemar_exact",
    "paired_difference",
    "quantile_at_most",
    "wilson",
]


def clopper_pearson_lower(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """Return the exact one-sided lower bound of a success rate: what a gate may promise."""
    check_counts(successes, trials)
    lower, upper = 0.0, 1.0
    # The rate at which so many successes or more would be a surprise; 50 halvings are exact enough.
    for _ in range(50):
        rate = (lower + upper) / 2
        surprising = _at_least(successes, trials, rate) < 1 - confidence
        lower, upper = (rate, upper) if surprising else (lower, rate)
    return lower


def kaplan_meier_median(times: Sequence[float], reached: Sequence[bool]) -> float | None:
    """Return the median time to success; a trial that did not reach it is censored at its time.

    None where fewer than half would have succeeded within the longest trial.
    """
    if len(times) != len(reached):
        raise ValueError(f"{len(times)} times for {len(reached)} outcomes; expected as many")
    surviving = 1.0
    at_risk = len(times)
    # At a tie the successes count first: who was censored then was still at risk.
    for time, success in sorted(zip(times, reached, strict=True), key=lambda p: (p[0], not p[1])):
        if success:
            surviving *= 1 - 1 / at_risk
            if surviving <= 0.5 + 1e-12:
                return time
        at_risk -= 1
    return None


def quantile_at_most(
    values: Sequence[float], share: float, *, confidence: float = 0.95
) -> float | None:
    """Return the one-sided upper bound of a quantile; None of too few values for one.

    The k-th smallest of n values lies below the quantile only where k or more of them do, and so
    many do with a binomial chance, whatever the distribution (Wilks 1941).
    """
    bound = None
    for below, value in enumerate(sorted(values, reverse=True)):
        if _at_least(len(values) - below, len(values), share) > 1 - confidence:
            break
        bound = value
    return bound


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p-value of McNemar's test from the counts of discordant pairs."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, count) for count in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def paired_difference(only_a: int, only_b: int, pairs: int) -> tuple[float, float, float]:
    """Return by how much A succeeds more often than B, and the 95 % interval of that.

    The interval adds one to each count of discordant pairs (Bonett and Price 2012), so that it has
    a width where no pair differs.
    """
    if min(only_a, only_b) < 0 or only_a + only_b > pairs or pairs < 1:
        raise ValueError(f"{only_a} and {only_b} of {pairs} pairs differ; expected counts of them")
    a, b = (only_a + 1) / (pairs + 2), (only_b + 1) / (pairs + 2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((a + b - (a - b) ** 2) / (pairs + 2))
    return (only_a - only_b) / pairs, max(-1.0, a - b - half), min(1.0, a - b + half)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A paired test that may be looked at after every pair without losing its error rate.

    Under the hypothesis of equal policies every discordant pair is a fair coin, whatever happened
    before. Betting on A's share of them with a uniform prior makes the wealth after `a` pairs won
    by A alone and `b` by B alone

        E = 2^(a+b) · ∫₀¹ θ^a (1-θ)^b dθ = 2^(a+b) · a! b! / (a+b+1)!

    a non-negative martingale that starts at 1, so that it ever reaches 1/p with a probability of at
    most p (Ville 1939; Robbins 1970). Concordant pairs leave it alone.
    """

    only_a: int = 0
    only_b: int = 0
    largest: float = 1.0
    """The largest wealth so far."""

    def after(self, *, a: bool, b: bool) -> "PairedTest":
        """Return the test after one more pair of trials."""
        only_a, only_b = self.only_a + (a and not b), self.only_b + (b and not a)
        wealth = betting_wealth(only_a, only_b)
        return PairedTest(only_a, only_b, max(self.largest, wealth))

    @property
    def p_value(self) -> float:
        """Return a p-value that holds at any moment of stopping."""
        return min(1.0, 1 / self.largest)


def betting_wealth(only_a: int, only_b: int) -> float:
    """Return the wealth of a uniform bet on the discordant pairs, as `PairedTest` defines it."""
    pairs = only_a + only_b
    log_integral = math.lgamma(only_a + 1) + math.lgamma(only_b + 1) - math.lgamma(pairs + 2)
    return math.exp(min(700.0, pairs * math.log(2) + log_integral))


def _at_least(successes: int, trials: int, rate: float) -> float:
    """Return the chance of so many successes or more."""
    log_odds = math.log(rate), math.log1p(-rate)
    return sum(
        math.exp(_log_comb(trials, k) + k * log_odds[0] + (trials - k) * log_odds[1])
        for k in range(successes, trials + 1)
    )


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
