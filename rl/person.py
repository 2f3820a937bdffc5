"""A person at the bench as the judge of trials, who is not told which policy acted."""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.arm_env import ArmEnv
from rl.run_record import BadRun
from robot.scene import Layout, Truth


class PersonJudge:
    """Say where the things belong before each trial, and ask afterwards how it went."""

    def __init__(
        self,
        *,
        total: int,
        ask: Callable[[str], str] = input,
        terminal: Callable[[], bool] = sys.stdin.isatty,
    ) -> None:
        if not terminal():
            raise BadRun(
                "judge=person asks questions, and there is no terminal; use judge=truth", code=2
            )
        self._total, self._ask = total, ask
        self._number = 0

    def begin(self, env: ArmEnv) -> None:
        """Tell the person where to put the things and wait until they lie there."""
        self._number += 1
        order = placing(env.goal.layout, env.scene.truth())
        self._ask(f"Trial {self._number} of {self._total}: {order} Press Enter when it is done. ")

    def done(self) -> bool:
        """Leave the trial running to its end: a person judges then."""
        return False

    def success(self) -> bool:
        """Return the person's answer."""
        while True:
            answer = self._ask("Was it a success at the end? [y/n] ").strip().lower()
            if answer in {"y", "yes", "n", "no"}:
                return answer.startswith("y")


def placing(layout: Layout, truth: Truth) -> str:
    """Return a sentence that says where the things of a scene belong."""
    order = f"put the {layout.thing} {_spot(truth.thing_start)}"
    if layout.place is None or truth.place is None:
        return f"{order}."
    return f"{order} and the {layout.place} {_spot(truth.place)}."


def _spot(position: NDArray[np.float64]) -> str:
    x, y = 1000 * position[:2]
    side = "left" if y >= 0 else "right"
    return f"{x:.0f} mm ahead of the base and {abs(y):.0f} mm to its {side}"
