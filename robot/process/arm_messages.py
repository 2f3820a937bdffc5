"""What an arm's process and its clients say to each other, as plain maps for `robot.wire`."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import cast

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints, frozen
from robot.guard import Command, GuardEvent
from robot.limits import Box, LimitsError, SafetyLimits
from robot.process.arm_state import ArmState, Cause, Mode
from robot.process.servos import ServoHealth

VERSION = 1
BEAT_PERIOD_S = 0.05
"""How often a client's own thread says that it lives."""
ACTIVE = (Mode.RUN, Mode.TAKEOVER)


class MessageError(ValueError):
    """A message that is not what was expected."""


def limits_message(limits: SafetyLimits) -> dict[str, object]:
    """Return limits as arrays and numbers."""
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return {
        name: {"lower": value.lower, "upper": value.upper} if isinstance(value, Box) else value
        for name, value in values.items()
    }


def limits_of(message: object) -> SafetyLimits:
    """Return the limits of a message; raise `MessageError` if it holds none."""
    given = mapping(message, "limits")
    arguments: dict[str, object] = {}
    for field in fields(SafetyLimits):
        value = given.get(field.name)
        if field.type is Box:
            sides = mapping(value, field.name)
            arguments[field.name] = Box(
                lower=numbers(sides, "lower", 3), upper=numbers(sides, "upper", 3)
            )
        elif field.type is float:
            arguments[field.name] = number(given, field.name)
        else:
            arguments[field.name] = numbers(given, field.name, len(JOINTS))
    try:
        return SafetyLimits(**arguments)  # pyright: ignore[reportArgumentType]
    except LimitsError as error:
        raise MessageError(f"limits: {error}") from error


def command_message(command: Command) -> dict[str, object]:
    """Return what became of a proposal."""
    return {
        "joint_target": command.joint_target,
        "events": [[event.rule, event.detail] for event in command.events],
        "human": command.human,
    }


def command_of(message: Mapping[str, object]) -> Command:
    """Return the command of a message; raise `MessageError` if it holds none."""
    events: list[GuardEvent] = []
    for event in _list(message.get("events"), "events"):
        parts = _list(event, "events")
        if len(parts) != 2 or not isinstance(parts[0], str):
            raise MessageError(f"an event is {event!r}; expected a rule and a detail")
        events.append(GuardEvent(parts[0], None if parts[1] is None else str(parts[1])))
    return Command(
        joint_target=joints(message, "joint_target"),
        events=tuple(events),
        human=message.get("human") is True,
    )


def state_message(state: ArmState) -> dict[str, object]:
    """Return what an arm's process says of itself."""
    message = {field.name: getattr(state, field.name) for field in fields(state)}
    message |= {
        "mode": state.mode.value,
        "cause": state.cause.value,
        "events": dict(state.events),
        "health": None,
    }
    message |= {"faults": list(state.faults), "clients": list(state.clients)}
    if state.health is not None:
        health = state.health
        message["health"] = {field.name: getattr(health, field.name) for field in fields(health)}
    return message


def state_of(message: Mapping[str, object]) -> ArmState:
    """Return the state of a message; raise `MessageError` if it holds none."""
    health = message.get("health")
    return ArmState(
        stamp=number(message, "stamp"),
        mode=mode_of(message.get("mode")),
        since=number(message, "since"),
        cause=_cause(message.get("cause")),
        reason=text(message, "reason"),
        joint_pos=joints(message, "joint_pos"),
        joint_target=joints(message, "joint_target"),
        sent=joints(message, "sent"),
        health=None if health is None else _health(mapping(health, "health")),
        faults=tuple(str(fault) for fault in _list(message.get("faults"), "faults")),
        events={
            rule: count
            for rule, count in mapping(message.get("events"), "events").items()
            if isinstance(count, int)
        },
        clients=tuple(str(client) for client in _list(message.get("clients"), "clients")),
        calibration=text(message, "calibration"),
        cycle_s=number(message, "cycle_s"),
        late_s=number(message, "late_s"),
    )


def plain(value: object) -> object:
    """Return a message as JSON has it: lists for arrays, None for what is no finite number."""
    if isinstance(value, np.ndarray):
        return plain(cast("NDArray[np.generic]", value).tolist())
    if isinstance(value, Mapping):
        return {str(n): plain(v) for n, v in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("list[object]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def mode_of(value: object) -> Mode:
    """Return a mode by its name; raise `MessageError` for another one."""
    if not isinstance(value, str) or value not in Mode.__members__:
        raise MessageError(f"mode is {value!r}; expected {', '.join(Mode.__members__)}"[:200])
    return Mode[value]


def mapping(value: object, name: str) -> Mapping[str, object]:
    """Return a map; raise `MessageError` if it is none."""
    if not isinstance(value, dict):
        raise MessageError(f"{name} is a {type(value).__name__}; expected a map")
    return cast("Mapping[str, object]", value)


def number(message: Mapping[str, object], name: str) -> float:
    """Return a finite number of a message; raise `MessageError` if it is none."""
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MessageError(f"{name} is {str(value)[:40]!r}; expected a finite number")
    return float(value)


def text(message: Mapping[str, object], name: str) -> str:
    """Return a text of a message, without control characters; raise `MessageError` if none."""
    value = message.get(name)
    if not isinstance(value, str):
        raise MessageError(f"{name} is a {type(value).__name__}; expected text")
    return "".join(character for character in value if character.isprintable())


def joints(message: Mapping[str, object], name: str) -> Joints:
    """Return six joint values of a message; raise `MessageError` if they are none."""
    return numbers(message, name, len(JOINTS))


def numbers(message: Mapping[str, object], name: str, count: int) -> NDArray[np.float64]:
    """Return an array of `count` numbers; raise `MessageError` if it is none."""
    value = message.get(name)
    if not isinstance(value, np.ndarray):
        raise MessageError(f"{name} is a {type(value).__name__}; expected an array")
    array = cast("NDArray[np.generic]", value)
    if array.shape != (count,) or array.dtype.kind not in "fi":
        raise MessageError(f"{name} has shape {array.shape}; expected ({count},)")
    return frozen(array)


def _health(message: Mapping[str, object]) -> ServoHealth:
    values = [joints(message, name) for name in ("load", "current_a", "voltage_v", "temperature_c")]
    errors = [error for error in _list(message.get("errors"), "errors") if isinstance(error, int)]
    torque = [on is True for on in _list(message.get("torque"), "torque")]
    return ServoHealth(
        load=values[0],
        current_a=values[1],
        voltage_v=values[2],
        temperature_c=values[3],
        errors=tuple(errors),
        torque=tuple(torque),
    )


def _cause(value: object) -> Cause:
    if value not in list(Cause):
        raise MessageError(f"cause is {value!r}; expected {', '.join(Cause)}"[:200])
    return Cause(str(value))


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise MessageError(f"{name} is a {type(value).__name__}; expected a list")
    return cast("list[object]", value)
