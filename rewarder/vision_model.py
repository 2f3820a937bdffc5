"""The seam to models that look at pictures and answer with a word."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rewarder.prompts import Prompt
from robot.vision import Image


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """One prompt about one goal and some pictures."""

    pictures: Sequence[Image]
    """RGB, in order of time; the views of one moment stand side by side in one picture."""
    goal: str
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """How a model spreads its next word over the answers of the prompt."""

    log_probs: NDArray[np.float64]
    """Of each answer, summed over its spellings, shape (answers,); -inf where never seen."""

    @property
    def mass(self) -> float:
        """Return how probable it is that the model says any of the answers."""
        return float(np.exp(self.log_probs).sum())


class VisionModel(Protocol):
    """A vision-language model, here or elsewhere."""

    @property
    def name(self) -> str:
        """Return name, engine and version: what a calibration belongs to."""
        ...

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return an answer to each; raise `NoScore` where there is none."""
        ...
