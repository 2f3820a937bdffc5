"""What an arm may do: joint ranges, speed, lead, the boxes around tool and arm, the table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints, frozen

_AXES = ("x", "y", "z")
_BOXES = ("tool_box", "arm_box")
_PER_JOINT = ("joint_lower", "joint_upper", "max_speed", "max_lead")


class LimitsError(ValueError):
    """Safety limits that contradict themselves, or a file that does not hold them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Box:
    """An upright box in the frame of the base, metres."""

    lower: NDArray[np.float64]
    """Shape (3,)."""
    upper: NDArray[np.float64]
    """Shape (3,)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SafetyLimits:
    """What the guard lets an arm do; degrees for five joints, 0 to 100 for the gripper, metres."""

    joint_lower: Joints
    joint_upper: Joints
    max_speed: Joints
    """A second, from command to command, shape (6,)."""
    max_lead: Joints
    """How far a command may be from the measured position, shape (6,)."""
    tool_box: Box
    """Where the tool centre point may be."""
    arm_box: Box
    """Where every moving link may be."""
    table_z: float
    """Height of the table."""
    finger_clearance: float
    """How near the table gripper and moving jaw may come."""
    link_clearance: float
    """How near the table the other links may come."""
    max_age_s: float
    """Age at which an observation is no reason to move."""

    def __post_init__(self) -> None:
        """Raise `LimitsError` where limits are not numbers, swapped, or negative."""
        for name in _PER_JOINT:
            _require_joints(name, getattr(self, name))
        _require_order("joint_lower", "joint_upper", self.joint_lower, self.joint_upper, JOINTS)
        for name in ("max_speed", "max_lead"):
            _require_positive(name, getattr(self, name))
        for name in _BOXES:
            box: Box = getattr(self, name)
            _require_order(f"{name} lower", "upper", box.lower, box.upper, _AXES)
        _require_scalars(self)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read limits from YAML; raise `LimitsError` with one line that says what to mend."""
        try:
            content: object = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise LimitsError(f"{path}: {error.strerror}; try conf/safety/default.yaml") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise LimitsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        try:
            return cls(**_arguments(content))  # pyright: ignore[reportArgumentType]
        except LimitsError as error:
            raise LimitsError(f"{path}: {error}") from None


def _arguments(content: object) -> dict[str, object]:
    """Return the constructor's arguments from what a limits file holds."""
    names = tuple(field.name for field in fields(SafetyLimits))
    given = _keys("the file", content, names)
    arguments: dict[str, object] = {}
    for name, value in given.items():
        if name in _PER_JOINT:
            each = _keys(name, value, JOINTS)
            arguments[name] = frozen([_number(f"{name}.{joint}", each[joint]) for joint in JOINTS])
        elif name in _BOXES:
            arguments[name] = _box(name, value)
        else:
            arguments[name] = _number(name, value)
    return arguments


def _keys(name: str, content: object, expected: Sequence[str]) -> Mapping[str, object]:
    """Return a mapping that has exactly the expected keys."""
    if not isinstance(content, Mapping):
        raise LimitsError(f"{name} is {content!r}; expected a mapping of {', '.join(expected)}")
    mapping = cast("Mapping[str, object]", content)
    for key in mapping:
        if key not in expected:
            raise LimitsError(f"{name} has unknown {key!r}; expected {', '.join(expected)}")
    for key in expected:
        if key not in mapping:
            raise LimitsError(f"{name} lacks {key!r}; expected {', '.join(expected)}")
    return mapping


def _box(name: str, content: object) -> Box:
    axes = _keys(name, content, _AXES)
    bounds: list[tuple[float, float]] = []
    for axis in _AXES:
        sides = axes[axis]
        if not isinstance(sides, list) or len(cast("list[object]", sides)) != 2:
            raise LimitsError(f"{name}.{axis} is {sides!r}; expected [lower, upper] in metres")
        lower, upper = cast("list[object]", sides)
        bounds.append((_number(f"{name}.{axis}", lower), _number(f"{name}.{axis}", upper)))
    low, high = zip(*bounds, strict=True)
    return Box(lower=frozen(low), upper=frozen(high))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LimitsError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def _require_joints(name: str, values: Joints) -> None:
    if values.shape != (len(JOINTS),):
        raise LimitsError(f"{name} has shape {values.shape}; expected one number per joint, (6,)")
    if not np.isfinite(values).all():
        raise LimitsError(f"{name} is not finite: {values}")


def _require_scalars(limits: SafetyLimits) -> None:
    for name in ("table_z", "finger_clearance", "link_clearance", "max_age_s"):
        if not math.isfinite(getattr(limits, name)):
            raise LimitsError(f"{name} is {getattr(limits, name)}; expected a finite number")
    for name in ("finger_clearance", "link_clearance"):
        if getattr(limits, name) < 0:
            raise LimitsError(f"{name} is {getattr(limits, name)} m; expected 0 or more")
    if limits.max_age_s <= 0:
        raise LimitsError(f"max_age_s is {limits.max_age_s}; expected more than 0 seconds")


def _require_positive(name: str, values: Joints) -> None:
    for joint, value in zip(JOINTS, values, strict=True):
        if value <= 0:
            raise LimitsError(f"{name}.{joint} is {value}; expected more than 0")


def _require_order(
    low_name: str,
    high_name: str,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    names: Sequence[str],
) -> None:
    for name, bottom, top in zip(names, low, high, strict=True):
        if not bottom < top:
            raise LimitsError(
                f"{low_name} of {name} is {bottom} and {high_name} {top}; "
                "expected the lower bound below the upper: are they swapped?"
            )
