"""What an arm is doing, and what its process says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from robot.arm import Joints
from robot.process.servos import ServoHealth

NOT_OBEYED = ("mode:", "driver:")
"""How reasons of a refusal begin that every command meets: the arm is in other hands."""


class Mode(StrEnum):
    """What the arm is doing."""

    IDLE = "IDLE"
    HOLD = "HOLD"
    RUN = "RUN"
    TAKEOVER = "TAKEOVER"
    PARK = "PARK"
    STOP = "STOP"


class Cause(StrEnum):
    """What brought an arm into its mode."""

    START = "start"
    ASKED = "asked"
    """Somebody wanted it."""
    SILENCE = "silence"
    """Whoever drove was not heard of."""
    FAULT = "fault"
    """Servos, their bus or their supply are in trouble."""
    RESET = "reset"
    PARKED = "parked"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmState:
    """What the arm's process says of itself."""

    stamp: float
    mode: Mode
    since: float
    """When it entered this mode, on the clock of `stamp`."""
    cause: Cause
    reason: str
    """Why it is in this mode, a sentence."""
    joint_pos: Joints
    joint_target: Joints
    """The last accepted goal."""
    sent: Joints
    """The last command sent to the servos."""
    health: ServoHealth | None
    faults: tuple[str, ...]
    """Sentences, the newest last."""
    events: Mapping[str, int]
    """How often each rule of the guard changed a command."""
    clients: tuple[str, ...]
    calibration: str
    """The first 12 hex digits of the calibration's SHA-256."""
    cycle_s: float
    """How long the last cycle took."""
    late_s: float
    """The greatest lateness of a cycle within the last 10 s."""
