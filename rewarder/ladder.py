"""Reward models by preference: where one cannot be had, the next one judges."""

from collections.abc import Mapping
from dataclasses import replace

from rewarder.reward import MISSING, Clip, NoScore, RewardModel, Score

RUNG = "rung"
"""The note that names the rung that judged."""


class Ladder:
    """Asks the first of its rungs, and goes one down for every outage; below the last is no label.

    Only an outage goes down. What a rung refuses, or cannot see, no lesser one is asked about: else
    what the better eyes would not judge would be paid by the worse.
    """

    def __init__(self, rungs: Mapping[str, RewardModel]) -> None:
        """Ask `rungs` in their order."""
        if not rungs:
            raise ValueError("a ladder has no rungs; give one, such as rungs.vlm")
        self._rungs = dict(rungs)

    def score(self, clip: Clip) -> Score:
        """Return the score of the highest rung that gives one, and its name as a note.

        Raise `NoScore` where none does.
        """
        missing: dict[str, str] = {}
        for name, model in self._rungs.items():
            try:
                score = model.score(clip)
            except NoScore as error:
                if not error.retry:
                    raise NoScore(f"{name}: {error}") from error
                missing[name] = str(error)
            else:
                outages = {f"{rung}.{MISSING}": why for rung, why in missing.items()}
                return replace(score, notes={**score.notes, **outages, RUNG: name})
        raise NoScore("; ".join(f"{name}: {why}" for name, why in missing.items()), retry=True)
