"""Models that compare two clips: by the score of each, or by one look at both."""

import numpy as np

from rewarder.prompts import BadGoal, Prompt
from rewarder.reward import Clip, NoScore, RewardModel, Score
from rewarder.vision_model import Question, VisionModel
from robot.pictures import any_picture
from robot.vision import Image

WHICH = Prompt(
    "Goal: {goal}\nThe first half of the pictures shows attempt A in order of time, the second "
    "half attempt B. Which attempt came nearer to the goal? Answer A or B.",
    (("A", " A"), ("B", " B")),
)
"""Preference: the log-odds of A over B."""
LEAST_MASS = 0.05
"""A model that says neither A nor B more often than this gave no answer."""
GAIN = 8.0
"""Log-odds for a whole difference of value: 0.1 apart is 69 %, 0.3 apart 92 %."""
LATE = 0.2
"""Share of a clip's moments, at its end, that count as how it came out."""


class ScoreJudge:
    """Compares clips by what a reward model says of each alone; no order can sway it."""

    def __init__(self, model: RewardModel) -> None:
        """Ask `model`."""
        self._model = model
        self.name = f"score of {type(model).__name__}"

    def first_is_better(self, first: Clip, second: Clip) -> float:
        """Return the probability that the first went better; raise `NoScore`."""
        one, other = self._model.score(first), self._model.score(second)
        if one.model != other.model:
            raise NoScore(
                f"{one.model} judged one clip and {other.model} the other; ask again", retry=True
            )
        self.name = f"score of {one.model}"
        return better(one, other)


class VisionJudge:
    """Shows a vision-language model some pictures of both clips and asks which went better."""

    def __init__(self, model: VisionModel, *, moments: int = 3) -> None:
        """Show so many moments of each clip, the last one among them."""
        self._model, self._moments = model, moments
        self.name = f"{model.name}, {WHICH.sha}"

    def first_is_better(self, first: Clip, second: Clip) -> float:
        """Return P(A) / (P(A) + P(B)) with the first as A; raise `NoScore`."""
        pictures = [*self._pictures(first), *self._pictures(second)]
        try:
            WHICH.about(first.goal)
        except BadGoal as error:
            raise NoScore(str(error)) from error
        [answer] = self._model.ask([Question(pictures=pictures, goal=first.goal, prompt=WHICH)])
        if answer.mass < LEAST_MASS:
            raise NoScore(f"{self.name} answers neither A nor B: their mass is {answer.mass:.3f}")
        a, b = np.exp(answer.log_probs)
        return float(a / (a + b))

    def _pictures(self, clip: Clip) -> list[Image]:
        """Return the moments, the views of each side by side."""
        chosen = np.linspace(0, len(clip) - 1, self._moments).round().astype(int)
        return [_side_by_side(clip, int(t)) for t in np.unique(chosen)]


def better(one: Score, other: Score) -> float:
    """Return the probability that the clip with the first score went better; raise `NoScore`."""
    return float(1.0 / (1.0 + np.exp(-GAIN * (value(one) - value(other)))))


def value(score: Score) -> float:
    """Return from 0 to 1 how well a clip went: half how it came out, half how it got there.

    Raise `NoScore` where nothing could be judged.
    """
    progress = score.progress[score.valid]
    if not len(progress):
        raise NoScore(f"{score.model} could judge no moment of a clip")
    late = progress[-max(1, round(LATE * len(progress))) :]
    return float(late.mean() + progress.mean()) / 2


def _side_by_side(clip: Clip, t: int) -> Image:
    views = [any_picture(pictures[t]) for pictures in clip.frames.values()]
    found = [view for view in views if view is not None]
    if len(found) != len(views) or len({view.shape[0] for view in found}) != 1:
        raise NoScore(f"the pictures of moment {t} are missing, broken, or of several heights")
    return np.hstack(found)
