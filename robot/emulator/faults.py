"""Faults of an emulated arm, by request or schedule.

By kind: on the wire `lost late duplicated flipped echo cut` (`robot.emulator.bus_faults`); of one
servo, with `joint`: `heat` (celsius), `stall`, `error` (bits), `reset`, `model` (number),
`firmware` (major, minor), `id` (servo_id), `baud`, `calibration` (ticks), `mount` (ticks),
`keeps_goal`; of the supply: `voltage` (volts); of the cable: `unplug`, `replug`; of a camera:
`camera` (view, picture). `clear` mends the wire, stalls, errors, supply and cameras.
"""

from collections.abc import Callable
from typing import Protocol

from robot.arm import JOINTS
from robot.emulator import servo as servos
from robot.emulator.bus_faults import KINDS, BusFault
from robot.emulator.emulated_arm import EmulatedArm
from robot.emulator.fields import Fields, joint_of, number_of, whole_of
from robot.emulator.servo import BAUDS, SUPPLY_V, Register, Servo

PICTURES = ("black", "frozen", "missing")


class Cable(Protocol):
    """The USB cable."""

    def unplug(self) -> None:
        """Take the port away."""
        ...

    def replug(self) -> str:
        """Bring the port back under another name and return that."""
        ...


class EmulatorFaults:
    """Breaks and mends one emulated arm."""

    def __init__(self, arm: EmulatedArm, cable: Cable) -> None:
        self.cameras: dict[str, str] = {}
        """By view: `black`, `frozen` or `missing`."""
        self._arm, self._cable = arm, cable

    def strike(self, fields: Fields) -> None:
        """Put one fault in force; raise `ValueError` with what is wrong with its description."""
        kind = fields.get("kind")
        if kind in KINDS:
            self._arm.bus.faults.add(BusFault.parse(fields))
        elif kind in ("reset", "keeps_goal") and "joint" not in fields:
            for joint in JOINTS:
                self._servo({**fields, "joint": joint})
        elif not self._surroundings(fields):
            self._servo(fields)

    def camera(self, view: object, picture: object) -> None:
        """Make a camera's picture `black`, `frozen` or `missing`; None mends it."""
        if not isinstance(view, str) or picture not in (None, *PICTURES):
            raise ValueError(f"camera {view!r} {picture!r}; expected a view, {', '.join(PICTURES)}")
        self.cameras.pop(view, None)
        if isinstance(picture, str):
            self.cameras[view] = picture

    def clear(self) -> None:
        """Mend the wire, stalls, errors, supply and cameras."""
        self._arm.bus.faults.clear()
        self._arm.supply_v = SUPPLY_V
        self.cameras.clear()
        for index, joint in enumerate(JOINTS):
            self._arm.twin.stick(index, stuck=False)
            self._arm.servos[joint].forced_error = 0

    def _surroundings(self, fields: Fields) -> bool:
        """Break what is no servo; return whether the fault was of such a kind."""
        match fields.get("kind"):
            case "clear":
                self.clear()
            case "unplug":
                self._cable.unplug()
            case "replug":
                self._cable.replug()
            case "voltage":
                self._arm.supply_v = number_of(fields, "volts")
            case "camera":
                self.camera(fields.get("view"), fields.get("picture"))
            case _:
                return False
        return True

    def _servo(self, fields: Fields) -> None:
        name = joint_of(fields)
        servo = self._arm.servos[name]
        match fields.get("kind"):
            case "stall":
                self._arm.twin.stick(JOINTS.index(name), stuck=True)
            case "reset":
                servo.power_cycle()
                self._arm.drive()
            case str(kind) if kind in _OF_A_SERVO:
                _OF_A_SERVO[kind](servo, fields)
            case kind:
                raise ValueError(f"unknown fault {kind!r}; robot/emulator/faults.py lists them")


def _heat(servo: Servo, fields: Fields) -> None:
    servo.temperature_c = number_of(fields, "celsius")


def _error(servo: Servo, fields: Fields) -> None:
    servo.forced_error = whole_of(fields, "bits") & 0x7F


def _model(servo: Servo, fields: Fields) -> None:
    servo.store(Register.MODEL, whole_of(fields, "number") & 0xFFFF)


def _firmware(servo: Servo, fields: Fields) -> None:
    servo.store(Register.FIRMWARE, whole_of(fields, "major") & 0xFF, size=1)
    servo.store(Register.FIRMWARE + 1, whole_of(fields, "minor") & 0xFF, size=1)


def _id(servo: Servo, fields: Fields) -> None:
    servo.store(Register.ID, whole_of(fields, "servo_id") & 0xFF, size=1)


def _baud(servo: Servo, fields: Fields) -> None:
    baud = whole_of(fields, "baud")
    if baud not in BAUDS:
        raise ValueError(f"baud is {baud}; expected one of {', '.join(map(str, BAUDS))}")
    servo.store(Register.BAUD, BAUDS.index(baud), size=1)


def _calibration(servo: Servo, fields: Fields) -> None:
    offset = servos.decode(servo.get(Register.HOMING_OFFSET), 11) + whole_of(fields, "ticks")
    servo.store(Register.HOMING_OFFSET, servos.encode(offset, 11))


def _mount(servo: Servo, fields: Fields) -> None:
    servo.mount += number_of(fields, "ticks")


def _keeps_goal(servo: Servo, _: Fields) -> None:
    servo.keeps_goal = True


_OF_A_SERVO: dict[str, Callable[[Servo, Fields], None]] = {
    "heat": _heat,
    "error": _error,
    "model": _model,
    "firmware": _firmware,
    "id": _id,
    "baud": _baud,
    "calibration": _calibration,
    "mount": _mount,
    "keeps_goal": _keeps_goal,
}
