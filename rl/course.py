"""What a trial leaves of its arm's path and pace: how smooth, how late, how often commanded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.arm_env import Info
from robot.arm import Joints
from robot.clock import Clock

REVOLUTE = 5
"""Joints in degrees; the gripper, which has other units, is left out of the jerk."""


class Course:
    """The moments of one trial, as they go by."""

    def __init__(self) -> None:
        self.commands = 0
        self.answer_ms: list[float] = []
        self._stamps: list[float] = []
        self._joint_pos: list[Joints] = []

    def see(self, info: Info) -> None:
        """Keep one moment; a step that was cut short shows the moment before it once more."""
        sensed = info["sensed"]
        seen = sensed.observation
        self.commands += len(sensed.commands)
        if not self._stamps or seen.stamp > self._stamps[-1]:
            self._stamps.append(seen.stamp)
            self._joint_pos.append(seen.joint_pos)

    def answered(self, info: Info, clock: Clock) -> None:
        """Keep how old an observation is now that its action goes out.

        On a clock that stands still while a policy thinks there is nothing to keep.
        """
        age_s = clock.now() - info["sensed"].observation.stamp
        if age_s > 0:
            self.answer_ms.append(round(1e3 * age_s, 2))

    @property
    def jerk(self) -> float | None:
        """Return the RMS jerk of the path, degrees/s^3; None of fewer than four moments."""
        return rms_jerk(self._stamps, self._joint_pos)


def rms_jerk(stamps: Sequence[float], joint_pos: Sequence[Joints]) -> float | None:
    """Return the root of the mean squared jerk of the revolute joints together, degrees/s^3.

    `stamps` (T,) are seconds, which may lie unevenly; `joint_pos` are (6,) each. The third
    derivative is 3! times the third divided difference. RMS jerk and not the log dimensionless jerk
    (Hogan and Sternad 2009): that one grows with the cube of a movement's duration, so that a trial
    which runs into its limit, or takes several movements, would count as rough. The price is that
    only paths that were sampled at one rate compare. The encoder's steps of 0.09 degrees alone make
    about 250 at 10 Hz.
    """
    if len(stamps) < 4:
        return None
    times = np.asarray(stamps, np.float64)
    values: NDArray[np.float64] = np.asarray(joint_pos, np.float64)[:, :REVOLUTE]  # (T, 5)
    for order in (1, 2, 3):
        values = np.diff(values, axis=0) / (times[order:] - times[:-order])[:, None]
    jerk = 6.0 * values  # (T - 3, 5)
    return round(float(np.linalg.norm(jerk) / np.sqrt(len(jerk))), 1)
