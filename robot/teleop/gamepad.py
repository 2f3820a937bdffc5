"""A gamepad as a device: the sticks move the tool while the left shoulder button is held."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints, Observation
from robot.kinematics import inverse, tool_position
from robot.limits import SafetyLimits
from robot.teleop.devices import DeviceMissing, Request

TOOL_SPEED, ROLL_SPEED, GRIPPER_SPEED = 0.15, 60.0, 100.0
"""At full stick, a second: metres, degrees, hundredths."""
DEAD_ZONE = 0.12
LONGEST_S = 0.1
STICK_X, STICK_Y, STICK_ROLL, STICK_Z = 1, 0, 3, 4
"""Axes as SDL counts them on an Xbox pad: left stick, then right stick."""
CLOSE, STOP, OPEN, DEAD_MAN, HAND_BACK, TAKE_OVER = 0, 1, 3, 4, 6, 7
"""Buttons likewise: A, B, Y, left shoulder, back, start."""
_REQUESTS: Mapping[int, Request] = {STOP: "stop", HAND_BACK: "hand_back", TAKE_OVER: "takeover"}


class Pad(Protocol):
    """What is needed of a pygame joystick."""

    def get_axis(self, axis: int) -> float:
        """Return a stick's deflection, -1 to 1."""
        ...

    def get_button(self, button: int) -> bool:
        """Return whether a button is down."""
        ...


class Gamepad:
    """Moves the tool with the sticks and the gripper with two buttons, under a dead-man button."""

    def __init__(
        self, pad: Pad, limits: SafetyLimits, *, pump: Callable[[], object] = lambda: None
    ) -> None:
        """Read `pad`, which knows what happened up to the last `pump()`."""
        self._pad, self._limits, self._pump = pad, limits, pump
        self._down: set[int] = set()
        self._stamp = -np.inf

    def poll(self) -> list[Request]:
        """Return what was asked for by buttons that went down."""
        self._pump()
        before, self._down = self._down, {b for b in _REQUESTS if self._pad.get_button(b)}
        return [_REQUESTS[button] for button in sorted(self._down - before)]

    def read(self, observation: Observation) -> Joints | None:
        """Return the last command moved by the sticks; None without the dead-man button."""
        dt = min(observation.stamp - self._stamp, LONGEST_S)
        self._stamp = observation.stamp
        if not self._pad.get_button(DEAD_MAN):
            return None
        last, limits = observation.joint_target, self._limits
        target = inverse(
            tool_position(last) + dt * TOOL_SPEED * self._direction(),
            start=last,
            lower=limits.joint_lower,
            upper=limits.joint_upper,
            roll=last[4] + dt * ROLL_SPEED * self._stick(STICK_ROLL),
        )
        grip = self._pad.get_button(OPEN) - self._pad.get_button(CLOSE)
        target[5] = np.clip(last[5] + dt * GRIPPER_SPEED * grip, 0.0, 100.0)
        return target

    def close(self) -> None:
        """Do nothing: pygame frees the pad when the program ends."""

    def _direction(self) -> NDArray[np.float64]:
        # Pushed away a stick says -1; pushed to the right 1, which is -y.
        axes = (STICK_X, STICK_Y, STICK_Z)
        return -np.array([self._stick(axis) for axis in axes])

    def _stick(self, axis: int) -> float:
        value = self._pad.get_axis(axis)
        return value if abs(value) > DEAD_ZONE else 0.0


def open_gamepad(limits: SafetyLimits) -> Gamepad:
    """Return the first gamepad; raise `DeviceMissing`."""
    # Optional, and it greets everybody who imports it.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        import pygame  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DeviceMissing(
            "device=gamepad needs pygame: .venv/bin/python -m pip install 'pygame>=2.5,<2.7', "
            "or take device=keyboard"
        ) from None
    game: Any = pygame
    game.init()
    if not game.joystick.get_count():
        raise DeviceMissing("no gamepad is connected; plug one in, or take device=keyboard")
    return Gamepad(game.joystick.Joystick(0), limits, pump=game.event.pump)
