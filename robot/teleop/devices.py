"""How a person moves an arm: devices become joint targets, and a key may have to be held."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints, Observation
from robot.kinematics import inverse, tool_position
from robot.limits import SafetyLimits
from robot.teleop.keys import HANGUP, Keys

type Request = Literal["takeover", "hand_back", "stop", "start", "abort", "quit", "state"]
REQUESTS: tuple[Request, ...] = get_args(Request.__value__)

REQUEST_KEYS: dict[str, Request] = {
    " ": "stop",
    "t": "takeover",
    "h": "hand_back",
    "s": "start",
    "a": "abort",
    "q": "quit",
    "?": "state",
    HANGUP: "quit",
}
TOOL_KEYS: dict[str, tuple[float, float, float]] = {
    "up": (1.0, 0.0, 0.0),
    "down": (-1.0, 0.0, 0.0),
    "left": (0.0, 1.0, 0.0),
    "right": (0.0, -1.0, 0.0),
    "u": (0.0, 0.0, 1.0),
    "j": (0.0, 0.0, -1.0),
}
"""Which way a key moves the tool, base frame: forwards, to the left, upwards."""
GRIPPER_KEYS = {"o": 1.0, "c": -1.0}
JOG_KEYS = {"+": 1.0, "=": 1.0, "-": -1.0}
KEYS_HELP = (
    "arrows, u and j move the tool; o and c open and close; 1-6 choose a joint, + and - move it; "
    "t takes over, h hands back, space stops, ? says what goes on, q quits"
)
TOOL_STEP_M, JOINT_STEP, GRIPPER_STEP = 0.004, 1.5, 4.0
"""What one press moves: a key that is held repeats about thirty times a second."""
HOLD_S = 0.7
"""A held key counts as held this long after it was last seen: terminals begin to repeat late."""
APPROACH_SPEED, CAUGHT = 30.0, 3.0
"""How fast an arm comes to where its leader is, a second, and when it is there; degrees."""


def requests_in(pressed: Sequence[str]) -> list[Request]:
    """Return what keys ask for; the others ask for nothing."""
    return [REQUEST_KEYS[key] for key in pressed if key in REQUEST_KEYS]


class DeviceMissing(Exception):
    """A device that is not there or cannot be used; the program's exit code is 3."""


class Teleop(Protocol):
    """A device by which a person, or a program in their place, moves an arm."""

    def poll(self) -> Sequence[Request]:
        """Return what was asked for since the last call."""
        ...

    def read(self, observation: Observation) -> Joints | None:
        """Return where the joints shall be, shape (6,); None while no motion is wanted."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


class Keyboard:
    """Moves the tool or one joint by a step for every key."""

    def __init__(self, keys: Keys, limits: SafetyLimits) -> None:
        """Read `keys`; targets stay within the joints' ranges."""
        self._keys, self._limits = keys, limits
        self._pressed: list[str] = []
        self._joint = 0

    def poll(self) -> list[Request]:
        """Return what was asked for; keys that move are kept for `read`."""
        pressed = self._keys.read()
        self._pressed = [key for key in pressed if key not in REQUEST_KEYS]
        return requests_in(pressed)

    def read(self, observation: Observation) -> Joints | None:
        """Return the last command moved by the keys since the last poll."""
        target = observation.joint_target
        for key in self._pressed:
            target = self._moved(target, key)
        moved = target is not observation.joint_target
        self._pressed = []
        return target if moved else None

    def close(self) -> None:
        """Do nothing: whoever opened the keys closes them."""

    def _moved(self, target: Joints, key: str) -> Joints:
        if key in TOOL_KEYS:
            return self._tool(target, TOOL_STEP_M * np.array(TOOL_KEYS[key]))
        if key in GRIPPER_KEYS:
            return self._jog(target, 5, GRIPPER_KEYS[key] * GRIPPER_STEP)
        if key in JOG_KEYS:
            step = GRIPPER_STEP if self._joint == 5 else JOINT_STEP
            return self._jog(target, self._joint, JOG_KEYS[key] * step)
        if key in "123456":
            self._joint = int(key) - 1
        return target

    def _tool(self, target: Joints, step: NDArray[np.float64]) -> Joints:
        limits = self._limits
        return inverse(
            tool_position(target) + step,
            start=target,
            lower=limits.joint_lower,
            upper=limits.joint_upper,
            roll=target[4],
        )

    def _jog(self, target: Joints, joint: int, step: float) -> Joints:
        moved = target.copy()
        moved[joint] += step
        return np.clip(moved, self._limits.joint_lower, self._limits.joint_upper)


class WithKeys:
    """A device without keys of its own, beside a keyboard for what a person asks for.

    With a `dead_man` key nothing moves unless that key is held.
    """

    def __init__(
        self, device: Teleop, keys: Keys, now: Callable[[], float], *, dead_man: str | None = None
    ) -> None:
        """Join `device` and `keys`; `now` is a monotonic clock, seconds."""
        if dead_man in REQUEST_KEYS:
            raise ValueError(
                f"dead_man={dead_man!r} already asks for {REQUEST_KEYS[dead_man]}; choose another"
            )
        self._device, self._keys, self._now = device, keys, now
        self._dead_man, self._seen = dead_man, -np.inf

    def poll(self) -> list[Request]:
        """Return what was asked for by a key or on the device."""
        pressed = self._keys.read()
        if self._dead_man in pressed:
            self._seen = self._now()
        return [*requests_in(pressed), *self._device.poll()]

    def read(self, observation: Observation) -> Joints | None:
        """Return the device's target; None where the dead-man key is not held."""
        target = self._device.read(observation)
        held = self._dead_man is None or self._now() - self._seen <= HOLD_S
        return target if held else None

    def close(self) -> None:
        """Release the device."""
        self._device.close()


class Approach:
    """Brings the arm slowly to where an absolute device is, and follows it from there.

    It begins anew after every moment in which the device wanted no motion.
    """

    def __init__(self, device: Teleop) -> None:
        """Follow `device`, whose targets are poses of its own, such as a leader arm's."""
        self._device = device
        self._caught, self._stamp = False, -np.inf

    def poll(self) -> Sequence[Request]:
        """Return what was asked for; taking over and handing back begin the approach anew."""
        asked = self._device.poll()
        if {"takeover", "hand_back", "stop"} & set(asked):
            self._caught = False
        return asked

    def read(self, observation: Observation) -> Joints | None:
        """Return the device's target, or a small step towards it."""
        goal = self._device.read(observation)
        dt, self._stamp = observation.stamp - self._stamp, observation.stamp
        if goal is None:
            self._caught = False
            return None
        gap = goal - observation.joint_target
        if self._caught or float(np.abs(gap).max()) <= CAUGHT:
            self._caught = True
            return goal
        step = APPROACH_SPEED * min(dt, 0.1)
        return observation.joint_target + np.clip(gap, -step, step)

    def close(self) -> None:
        """Release the device."""
        self._device.close()
