"""From how likely a model's next words are to log-odds, shares and progress."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

type LogProbs = NDArray[np.float64]

MOST_LOG_ODDS = 20.0
"""What certainty counts as: an answer that was never seen is unlikely, not impossible."""


def log_sum(log_probs: LogProbs) -> float:
    """Return the logarithm of a sum of probabilities; -inf for none or for zeros alone."""
    return float(np.logaddexp.reduce(log_probs, initial=-np.inf))


def over_spellings(log_probs: LogProbs, spellings: Sequence[Sequence[int]]) -> LogProbs:
    """Return the log-probability of each answer, summed over the tokens that spell it.

    `log_probs` has shape (tokens,); the result has shape (answers,).
    """
    return np.array([log_sum(log_probs[list(tokens)]) for tokens in spellings])


def shares(log_probs: LogProbs) -> NDArray[np.float64]:
    """Return how the mass of the answers is spread over them, shape (answers,), with a sum of 1.

    NaN throughout where none of them was ever seen.
    """
    whole = log_sum(log_probs)
    if not np.isfinite(whole):
        return np.full(len(log_probs), np.nan)
    return np.exp(log_probs - whole)


def log_odds(log_probs: LogProbs) -> float:
    """Return the log-odds of the first answer over the second, at most `MOST_LOG_ODDS` either way.

    NaN where neither was seen.
    """
    first, second = (float(value) for value in log_probs)
    if np.isneginf(first) and np.isneginf(second):
        return float("nan")
    return float(np.clip(first - second, -MOST_LOG_ODDS, MOST_LOG_ODDS))


def expectation(log_probs: LogProbs) -> float:
    """Return the mean of marks evenly spaced from 0, the first answer, to 1, the last.

    NaN where none was seen. Of the scales that a model can be asked for, this mean says most
    (arXiv 2607.05391).
    """
    marks = np.linspace(0.0, 1.0, len(log_probs))
    return float(np.clip(shares(log_probs) @ marks, 0.0, 1.0))


def first_share(log_probs: LogProbs) -> float:
    """Return the share of the first answer, such as P(True); NaN where none was seen."""
    return float(shares(log_probs)[0])
