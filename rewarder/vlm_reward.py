"""Success and progress from what a vision-language model says of the pictures of a clip."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rewarder.answers import expectation, first_share, log_odds
from rewarder.goal import UnknownGoal, parse_goal
from rewarder.prompts import LETTER, TRUE, YES_NO, BadGoal, Prompt, clean_goal
from rewarder.reward import Clip, NoScore, Score
from rewarder.vision_model import Answer, Question, VisionModel
from robot.vision import Image

type _Pictures = Mapping[int, Sequence[Image]]

PROGRESS = {"letter": (LETTER, expectation), "true": (TRUE, first_share)}
"""Ways to ask for progress, and how the answers are read."""


class Look(Protocol):
    """What a model gets to see of a clip."""

    def moment(self, clip: Clip, t: int) -> Image | None:
        """Return the views of observation `t` as one RGB picture, None where one is missing."""
        ...

    def faults(self, clip: Clip) -> list[str | None]:
        """Return why the pictures of each observation cannot be trusted, None where they can."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Which observations a model is asked about, and what it is shown of each."""

    every: int
    """Observations from one question to the next, counted back from the last."""
    frames: int
    """Pictures of a question: the observation's own and those asked about before it."""
    progress: Literal["letter", "true"]
    """By letters from A to T, or as the probability of True."""
    success_from: float
    """Progress from which success is asked for too; at the end of a clip it always is."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.frames < 1:
            raise ValueError(f"every={self.every} and frames={self.frames} must be at least 1")
        if self.progress not in PROGRESS:
            raise ValueError(f"progress={self.progress!r}; expected {' or '.join(PROGRESS)}")

    def moments(self, stretch: range) -> list[int]:
        """Return which observations of a stretch are asked about: first, last and some between."""
        return sorted({stretch[0], *stretch[:: -self.every]})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What a model said of a clip, by observation."""

    asked: Sequence[Sequence[int]]
    """Observations that it was to be asked about, stretch by stretch."""
    progress: Mapping[int, Answer]
    success: Mapping[int, Answer] = field(default_factory=dict[int, Answer])
    model_ms: float = 0.0

    @property
    def masses(self) -> list[float]:
        """Return the mass of every answer."""
        return [answer.mass for answer in (*self.progress.values(), *self.success.values())]


class VlmReward:
    """Scores clips by the words of a vision-language model.

    Between two observations that it was asked about progress runs straight, and success holds where
    both show it. What lies beside a faulty picture or an answer that is none is not judged.
    """

    def __init__(
        self,
        model: VisionModel,
        look: Look,
        *,
        asking: Asking,
        closed: bool = False,
        min_mass: float = 0.5,
        success_above: float = 0.0,
    ) -> None:
        """Ask `model` about the pictures that `look` gives it.

        A `closed` model knows the goals of `rewarder.goal` alone: any other is not judged. An
        answer counts if its mass is at least `min_mass`, and is a success if its log-odds are above
        `success_above`.
        """
        self._model, self._look, self._asking = model, look, asking
        self._closed, self._min_mass, self._above = closed, min_mass, success_above
        self._prompt, self._read = PROGRESS[asking.progress]

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` for a goal that no model should be given."""
        try:
            goal = self._goal(clip.goal)
        except UnknownGoal as error:
            return self._unjudged(len(clip), str(error))
        faults = self._look.faults(clip)
        asked = [self._asking.moments(stretch) for stretch in _stretches(faults)]
        shown = self._shown(clip, asked)
        if not shown:
            return self._unjudged(len(clip), _commonest(faults))
        return self._judged(len(clip), self._hear(goal, asked, shown))

    def _goal(self, sentence: str) -> str:
        """Return the goal as the model is told it; raise `UnknownGoal` or `NoScore`."""
        try:
            words = clean_goal(sentence)
        except BadGoal as error:
            raise NoScore(str(error)) from error
        return str(parse_goal(words)) if self._closed else words

    def _shown(self, clip: Clip, asked: Sequence[Sequence[int]]) -> _Pictures:
        """Return the pictures of each question, oldest first, by observation."""
        shown: dict[int, Sequence[Image]] = {}
        for moments in asked:
            recent: list[Image] = []
            for t in moments:
                picture = self._look.moment(clip, t)
                if picture is not None:
                    recent = [*recent, picture][-self._asking.frames :]
                    shown[t] = recent
        return shown

    def _hear(self, goal: str, asked: Sequence[Sequence[int]], shown: _Pictures) -> _Heard:
        """Ask for progress, then for success where the progress makes it worth the time."""
        started = time.perf_counter()
        progress = self._ask(goal, self._prompt, shown)
        last, bound = max(shown), self._asking.success_from
        worth = {
            t: shown[t]
            for t, said in progress.items()
            if self._is_answer(said) and (t == last or self._read(said.log_probs) >= bound)
        }
        success = self._ask(goal, YES_NO, worth)
        elapsed_ms = 1000.0 * (time.perf_counter() - started)
        return _Heard(asked=asked, progress=progress, success=success, model_ms=elapsed_ms)

    def _ask(self, goal: str, prompt: Prompt, shown: _Pictures) -> dict[int, Answer]:
        if not shown:
            return {}
        questions = [Question(pictures=p, goal=goal, prompt=prompt) for p in shown.values()]
        return dict(zip(shown, self._model.ask(questions), strict=True))

    def _is_answer(self, answer: Answer) -> bool:
        return answer.mass > 0.0 and answer.mass >= self._min_mass

    def _judged(self, count: int, heard: _Heard) -> Score:
        progress, logit = np.full(count, np.nan), np.full(count, np.nan)
        for t, said in heard.progress.items():
            progress[t] = self._read(said.log_probs) if self._is_answer(said) else np.nan
        for t, said in heard.success.items():
            logit[t] = log_odds(said.log_probs)
            progress[t] = progress[t] if self._is_answer(said) else np.nan
        success, valid = logit > self._above, np.isfinite(progress)
        for moments in heard.asked:
            for before, after in pairwise(moments):
                _fill(before, after, success=success, progress=progress, valid=valid)
        return Score(
            success=success & valid,
            progress=np.where(valid, progress, 0.0),
            valid=valid,
            model=self._model.name,
            logit=logit,
            evidence=_evidence(heard, valid),
            notes=self._notes if valid.any() else self._notes | {"why": self._no_answer(heard)},
        )

    def _no_answer(self, heard: _Heard) -> str:
        most = max(heard.masses)
        return f"the answers' mass is {most:.3g} at most; expected {self._min_mass:g} or more"

    @property
    def _notes(self) -> dict[str, str]:
        return {"prompt_sha": f"{self._prompt.sha} {YES_NO.sha}"}

    def _unjudged(self, count: int, why: str) -> Score:
        return Score(
            success=np.zeros(count, bool),
            progress=np.zeros(count),
            valid=np.zeros(count, bool),
            model=self._model.name,
            logit=np.full(count, np.nan),
            notes=self._notes | {"why": why},
        )


def _stretches(faults: Sequence[str | None]) -> list[range]:
    """Return the observations between faulty ones, run by run."""
    sound = np.array([fault is None for fault in faults], bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sound, [False]]).astype(int)))
    return [range(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def _commonest(faults: Sequence[str | None]) -> str:
    counted = Counter(fault for fault in faults if fault is not None)
    return counted.most_common(1)[0][0] if counted else "a camera's picture is missing or broken"


def _fill(
    before: int,
    after: int,
    *,
    success: NDArray[np.bool_],
    progress: NDArray[np.float64],
    valid: NDArray[np.bool_],
) -> None:
    """Write what holds between two observations that were asked about, where both were judged."""
    between = slice(before + 1, after)
    if valid[before] and valid[after]:
        progress[between] = np.linspace(progress[before], progress[after], after - before + 1)[1:-1]
        success[between], valid[between] = success[before] and success[after], True


def _evidence(heard: _Heard, valid: NDArray[np.bool_]) -> dict[str, float]:
    return {
        "valid_share": float(valid.mean()),
        "asked_progress": float(len(heard.progress)),
        "asked_success": float(len(heard.success)),
        "mass_min": min(heard.masses),
        "mass_mean": float(np.mean(heard.masses)),
        "model_ms": heard.model_ms,
    }
