"""How smooth, how quick to answer and how often commanded an arm was over a number of trials."""

from collections.abc import Sequence

import numpy as np

from rl.statistics import quantile_at_most
from rl.trial import Trial


def pace(trials: Sequence[Trial]) -> dict[str, object]:
    """Return the median jerk, degrees/s^3, and where clocks run, `loop_hz` and `latency_ms`."""
    jerks = [trial.jerk for trial in trials if trial.jerk is not None]
    timed = [trial for trial in trials if trial.answer_ms and trial.time_s > 0]
    answers = [age for trial in timed for age in trial.answer_ms]
    return {
        "jerk_rms": round(float(np.median(jerks)), 1) if jerks else None,
        "loop_hz": _loop_hz(timed) if timed else None,
        "latency_ms": _latency(answers) if answers else None,
    }


def _loop_hz(trials: Sequence[Trial]) -> dict[str, float]:
    """Return commands a second, of all trials and of the slowest."""
    commands, seconds = sum(t.commands for t in trials), sum(t.time_s for t in trials)
    slowest = min(trial.commands / trial.time_s for trial in trials)
    return {"mean": round(commands / seconds, 2), "slowest": round(slowest, 2), "n": commands}


def _latency(answers: Sequence[float]) -> dict[str, float | None]:
    """Return quantiles of the time from an observation to its action, ms.

    `p99_at_most` is the 95 % upper bound of the 99th percentile; None of fewer than 299 answers.
    """
    p50, p99 = (round(float(value), 1) for value in np.percentile(answers, [50, 99]))
    at_most = quantile_at_most(answers, 0.99)
    return {"p50": p50, "p99": p99, "p99_at_most": at_most, "n": len(answers)}
