"""Whether a calibration is a plausible one, and whether it is the one that the servos hold."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from robot.arm import JOINTS
from robot.doctor.report import Check, failure, good, warning
from robot.doctor.servo_scan import IDS, BusScan, Servo

TICKS = 4096
LARGEST_OFFSET = 2047
"""A servo keeps its homing offset in a sign and eleven bits."""
TRAVEL_DEG = {
    "shoulder_pan": 220.0,
    "shoulder_lift": 200.0,
    "elbow_flex": 193.6,
    "wrist_flex": 190.0,
    "gripper": 110.0,
}
"""What each joint of the arm's model travels; wrist_roll turns freely and has no stops."""
FREE = "wrist_roll"
USUAL, POSSIBLE = (0.8, 1.3), (0.55, 1.6)
"""Share of that travel that calibrations show, and beyond which none is right."""
EDGE = 60
"""Ticks to the end of the encoder below which a joint may wrap around when it is pressed."""
_KEYS = ("id", "drive_mode", "homing_offset", "range_min", "range_max")


class BadCalibration(ValueError):
    """A file that holds no calibration of six joints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCalibration:
    """One joint of LeRobot's calibration file, raw ticks."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int

    @property
    def span(self) -> int:
        """Return the travel, ticks."""
        return self.range_max - self.range_min


def calibrate_command(arm_id: str) -> str:
    """Return what calibrates an arm."""
    return f"make calibrate ARM_ID={arm_id}"


def file_hash(path: Path) -> str:
    """Return the first 12 hex digits of a file's SHA-256, as episodes keep it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def load(path: Path) -> dict[str, JointCalibration]:
    """Return the joints of a calibration file; raise `BadCalibration`, naming what is wrong."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadCalibration(f"{path.name}: {error.strerror}") from error
    except ValueError as error:
        raise BadCalibration(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadCalibration(f"{path.name} holds no joints; expected {', '.join(JOINTS)}")
    joints = cast("Mapping[str, object]", content)
    if set(joints) != set(JOINTS):
        odd = ", ".join(sorted(set(joints) ^ set(JOINTS)))
        raise BadCalibration(f"{path.name}: {odd} unknown or missing; expected {', '.join(JOINTS)}")
    return {name: _joint(path, name, joints[name]) for name in JOINTS}


def check_file(calibration: Mapping[str, JointCalibration], mend: str) -> list[Check]:
    """Return what is implausible in a calibration, joint by joint."""
    return [c for name, joint in calibration.items() for c in _plausible(name, joint, mend)]


def check_registers(
    calibration: Mapping[str, JointCalibration], bus: BusScan, mend: str
) -> list[Check]:
    """Return where servos hold another calibration than the file."""
    pairs = [
        (name, calibration[name], bus.servos[i])
        for name, i in zip(JOINTS, IDS, strict=True)
        if i in bus.servos and bus.servos[i].registers
    ]
    checks = [check for pair in pairs for check in _held(*pair, mend)]
    if not checks and len(pairs) == len(JOINTS):
        checks = [good("calib.registers", "the servos hold the same ranges and offsets")]
    return checks


def check_calibration(path: Path, bus: BusScan | None, mend: str) -> list[Check]:
    """Return what is wrong with a calibration file, and with the servos' own copy."""
    try:
        calibration = load(path)
    except BadCalibration as error:
        return [failure("calib.file", str(error), mend, device_missing=not path.exists())]
    checks = check_file(calibration, mend)
    if not checks:
        checks = [good("calib.file", f"six plausible joints, hash {file_hash(path)}")]
    return checks + (check_registers(calibration, bus, mend) if bus else [])


def _joint(path: Path, name: str, content: object) -> JointCalibration:
    if not isinstance(content, dict):
        raise BadCalibration(f"{path.name}: {name} is {content!r}; expected {', '.join(_KEYS)}")
    values = cast("Mapping[str, object]", content)
    numbers = {key: values.get(key) for key in _KEYS}
    wrong = [key for key, value in numbers.items() if type(value) is not int]
    if wrong:
        raise BadCalibration(
            f"{path.name}: {name}.{wrong[0]} is {numbers[wrong[0]]!r}; expected ticks"
        )
    return JointCalibration(**cast("dict[str, int]", numbers))


def _plausible(name: str, joint: JointCalibration, mend: str) -> Iterable[Check]:
    if joint.id != JOINTS.index(name) + 1:
        yield failure(
            "calib.id", f"{name} has id {joint.id}; expected {JOINTS.index(name) + 1}", mend
        )
    if abs(joint.homing_offset) > LARGEST_OFFSET:
        yield failure(
            "calib.offset",
            f"{name} has the offset {joint.homing_offset}; a servo holds at most {LARGEST_OFFSET}",
            f"{mend}: put {name} in the middle of its travel before it starts",
        )
    if not 0 <= joint.range_min < joint.range_max < TICKS:
        yield failure(
            "calib.range",
            f"{name} goes from {joint.range_min} to {joint.range_max}; expected 0 to {TICKS - 1}",
            mend,
        )
    elif name != FREE:
        yield from _travel(name, joint, mend)


def _travel(name: str, joint: JointCalibration, mend: str) -> Iterable[Check]:
    degrees = joint.span * 360 / TICKS
    share = degrees / TRAVEL_DEG[name]
    said = f"{name} travels {degrees:.0f}° in this file; an SO-101's {TRAVEL_DEG[name]:.0f}°"
    middle = f"put {name} in the middle of its travel before it starts"
    if joint.range_min < EDGE and joint.range_max > TICKS - EDGE:
        yield failure("calib.wrap", f"{said}: its count wrapped around", f"{mend}: {middle}")
    elif not POSSIBLE[0] <= share <= POSSIBLE[1]:
        yield failure("calib.span", said, f"{mend}: move {name} from stop to stop")
    elif not USUAL[0] <= share <= USUAL[1]:
        yield warning("calib.span", said, f"{mend}: move {name} from stop to stop")
    elif joint.range_min < EDGE or joint.range_max > TICKS - EDGE:
        yield warning(
            "calib.edge", f"{name} ends {EDGE} ticks or less from a wrap", f"{mend}: {middle}"
        )


def _held(name: str, joint: JointCalibration, servo: Servo, mend: str) -> Iterable[Check]:
    held = (servo.offset, servo.word(9), servo.word(11))
    filed = (joint.homing_offset, joint.range_min, joint.range_max)
    if held != filed:
        yield failure(
            "calib.registers",
            f"{name}'s servo holds offset {held[0]}, range {held[1]} to {held[2]}; "
            f"the file says {filed[0]}, {filed[1]} to {filed[2]}",
            f"the right file in conf/arm/*.yaml, or {mend}",
        )
