"""A real table, which only a person can put in order."""

import sys
from collections.abc import Callable

from rewarder.goal import Goal
from robot.scene import Truth

MOVES_THE_THING = ("push", "place", "stack")
"""Tasks after whose success the thing lies where the next attempt cannot begin."""


class Bench:
    """Asks whoever is there to lay things out anew, where the task makes that necessary."""

    def __init__(
        self,
        goal: Goal,
        *,
        ask: Callable[[str], str] = input,
        terminal: Callable[[], bool] = sys.stdin.isatty,
    ) -> None:
        """Ask at a terminal; without one practice goes on with the table as it is."""
        self._goal, self._ask, self._terminal = goal, ask, terminal
        self._begun = False

    def reset(self, seed: int) -> None:  # noqa: ARG002 - a person lays out as they like
        """Ask for another layout: before the first episode, later where the task moves things."""
        needed = not self._begun or self._goal.task in MOVES_THE_THING
        self._begun = True
        if needed and self._terminal():
            layout = self._goal.layout
            what = f"{layout.thing} and {layout.place}" if layout.place else f"{layout.thing}"
            self._ask(f"Lay out anew: {what}. Keep hands off, then press Enter. ")

    def truth(self) -> Truth:
        """Raise `NotImplementedError`: only a judge at the bench could tell."""
        raise NotImplementedError("a real table does not say where its things are")
