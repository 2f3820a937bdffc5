"""Scores that do not flicker: a reward model's progress averaged, its success held back."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rewarder.reward import Clip, RewardModel, Score


class Smooth:
    """Averages the progress of another model, and believes a success once it has been seen often.

    Only what was judged counts: a moment that was not is left as it is.
    """

    def __init__(
        self, model: RewardModel, *, share: float = 0.5, holds: tuple[int, int] = (3, 4)
    ) -> None:
        """Count the newest progress with `share`; success needs `holds` = (n, m): n of the last m.

        A share of 1 averages nothing, holds of (1, 1) hold nothing back.
        """
        needed, window = holds
        if not (0.0 < share <= 1.0 and 1 <= needed <= window):
            raise ValueError(f"share={share} must be above 0 to 1, holds={holds} n of m, n <= m")
        self._model, self._share, self._holds = model, share, (needed, window)

    def score(self, clip: Clip) -> Score:
        """Return the smoothed score of a clip; raise `NoScore` as the other model does."""
        score = self._model.score(clip)
        at = np.flatnonzero(score.valid)
        progress, success = score.progress.copy(), score.success.copy()
        progress[at] = averaged(score.progress[at], self._share)
        success[at] = held(score.success[at], *self._holds)
        return replace(score, progress=progress, success=success)


def averaged(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the exponential moving average of values (n,), which begins at the first."""
    found = values.copy()
    for t in range(1, len(found)):
        found[t] = share * values[t] + (1.0 - share) * found[t - 1]
    return found


def held(shows: NDArray[np.bool_], needed: int, window: int) -> NDArray[np.bool_]:
    """Return where something shows, and did in `needed` of the last `window`, shape (n,)."""
    recent = np.convolve(shows, np.ones(window, int))[: len(shows)]
    return shows & (recent >= needed)
