"""What a servo's registers mean: ticks as joint positions, and how the servo fares."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints, frozen
from robot.process.servos import ArmUnusable, ServoHealth

RESOLUTION: Final = 4095
"""Ticks of a whole turn, as LeRobot counts them."""
_AMPERES = 0.0065
_GRIPPER = JOINTS.index("gripper")

type Replies = NDArray[np.uint8]
"""The bytes that six servos answered, shape (6, n)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoders:
    """An arm's calibration: where the middle and the ends of its joints are, ticks."""

    low: Joints
    """Shape (6,)."""
    high: Joints
    """Shape (6,)."""
    fingerprint: str
    """The first 12 hex digits of the calibration file's SHA-256."""

    @classmethod
    def load(cls, file: Path, arm_id: str) -> Self:
        """Read LeRobot's calibration file; raise `ArmUnusable`."""
        mend = f"`make calibrate ARM_ID={arm_id}`"
        try:
            data = file.read_bytes()
            content = cast("Mapping[str, Mapping[str, int]]", json.loads(data))
            low = frozen([content[joint]["range_min"] for joint in JOINTS])
            high = frozen([content[joint]["range_max"] for joint in JOINTS])
        except OSError as error:
            raise ArmUnusable(f"{file}: {error.strerror}; {mend}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ArmUnusable(f"{file} calibrates no six joints ({error!r}); {mend}") from error
        for joint, least, most in zip(JOINTS, low, high, strict=True):
            if not 0 <= least < most <= RESOLUTION:
                raise ArmUnusable(f"{file}: {joint} has {least:g} to {most:g} ticks; {mend}")
        return cls(low=low, high=high, fingerprint=hashlib.sha256(data).hexdigest()[:12])

    def joints(self, ticks: NDArray[np.float64]) -> Joints:
        """Return the joint positions of encoder ticks, shape (6,), as LeRobot does."""
        pose = (ticks - (self.low + self.high) / 2) * (360 / RESOLUTION)
        share = (ticks - self.low) / (self.high - self.low)
        pose[_GRIPPER] = 100.0 * min(max(share[_GRIPPER], 0.0), 1.0)
        return pose

    def ticks(self, joints: Joints) -> list[int]:
        """Return the nearest ticks of joint positions, shape (6,), within the encoder's turn.

        LeRobot cuts off what is behind the point, by which every goal is half a tick low.
        """
        ticks = joints * (RESOLUTION / 360) + (self.low + self.high) / 2
        share = joints[_GRIPPER] / 100.0
        low, high = self.low[_GRIPPER], self.high[_GRIPPER]
        ticks[_GRIPPER] = min(max(low + share * (high - low), low), high)
        return [min(max(round(tick), 0), RESOLUTION) for tick in ticks.tolist()]


def positions(replies: Replies) -> NDArray[np.int64]:
    """Return the ticks of the servos' two position bytes, shape (6, 2)."""
    return _words(replies, 0, sign_bit=15)


def stored_calibration(eeprom: Replies) -> NDArray[np.int64]:
    """Return homing offset, least and greatest position of each servo, ticks, shape (6, 3)."""
    offset = _words(eeprom, 31, sign_bit=11)
    return np.stack([offset, _words(eeprom, 9, sign_bit=15), _words(eeprom, 11, sign_bit=15)], 1)


def servo_health(state: Replies, errors: tuple[int, ...]) -> ServoHealth:
    """Return what registers 40 to 70, shape (6, 31), and the error bytes say."""
    return ServoHealth(
        load=_words(state, 20, sign_bit=10) / 1000,
        current_a=np.abs(_words(state, 29, sign_bit=15)) * _AMPERES,
        voltage_v=state[:, 22] / 10,
        temperature_c=state[:, 23].astype(np.float64),
        errors=errors,
        torque=tuple(bool(on) for on in state[:, 0].tolist()),
    )


def _words(replies: Replies, at: int, *, sign_bit: int) -> NDArray[np.int64]:
    """Return two bytes of each servo as sign and magnitude, shape (6,)."""
    words = replies[:, at].astype(np.int64) | replies[:, at + 1].astype(np.int64) << 8
    sizes = words & ((1 << sign_bit) - 1)
    return np.where(words >> sign_bit & 1, -sizes, sizes)
