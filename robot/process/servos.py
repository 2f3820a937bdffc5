"""What an arm's process needs of six servos, and how they fail."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints


class LostReply(Exception):
    """One answer of the servos that is missing, damaged, or not plausible; the next may be fine."""


class ArmUnusable(Exception):
    """An arm that cannot be used as it is: what was wrong, what was expected, what mends it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServoHealth:
    """What six servos say of themselves, shape (6,) each."""

    load: NDArray[np.float64]
    """Share of the greatest torque, -1 to 1."""
    current_a: NDArray[np.float64]
    voltage_v: NDArray[np.float64]
    temperature_c: NDArray[np.float64]
    errors: tuple[int, ...] = (0,) * 6
    """The error byte of each servo's reply: 1 voltage, 4 heat, 8 current, 32 overload."""
    torque: tuple[bool, ...] = (True,) * 6
    """Whether each servo has its torque on."""


class ServoArm(Protocol):
    """Six servos on a bus, without any protection: an `Arm` that also tells how it fares."""

    def joint_pos(self) -> Joints:
        """Return the measured joint positions, shape (6,); raise `LostReply`."""
        ...

    def command(self, joint_target: Joints) -> None:
        """Send one goal to all servos, shape (6,); return at once; raise `LostReply`."""
        ...

    def health(self) -> ServoHealth | None:
        """Return what the servos last said of themselves; it costs nothing to ask again."""
        ...

    def torque(self, *, on: bool) -> None:
        """Switch the torque of all servos; raise `LostReply` where one did not obey."""
        ...

    def close(self) -> None:
        """Release the port; the servos stay as they are."""
        ...
