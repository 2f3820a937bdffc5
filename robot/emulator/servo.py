"""One emulated STS3215 servo: its registers, and simple models of load, heat and voltage.

Positions are in *ticks* of the encoder, 4095 for 360 degrees as LeRobot counts them. An *actual*
position is what the encoder sees, `CENTRE + mount` in the middle of the joint's travel; what the
bus shows is `actual - Homing_Offset`, modulo one turn where bit 0x10 of Phase is clear.

The models, of which none was compared with a real servo:

- load: torque as a share of the stall torque, at most the distance from the goal as a share of
  10.8 degrees; current: 2.6 A of it.
- torque: at most the lesser of Torque_Limit and Max_Torque_Limit.
- overload: more than Overload_Torque for Protection_Time leaves Protective_Torque and sets the
  error bit, until torque is switched off or a goal turns the joint back. `Unloading` and
  `LED_Alarm` are not looked at.
- temperature T: dT/dt = (30 + 45 load² - T) / 300 s; over Max_Temperature_Limit torque goes off.
- voltage: the supply's less 0.05 V for each ampere that the six servos draw.
- torque switched on: the goal becomes the present position, unless `keeps_goal`.
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

MEMORY: Final = 96
CENTRE: Final = 2047.5
TICKS_PER_DEG: Final = 4095 / 360
TURN: Final = 4096
STS3215: Final = 777
BAUDS: Final = (1_000_000, 500_000, 250_000, 128_000, 115_200, 57_600, 38_400, 19_200)
"""By the value of Baud_Rate."""
AMBIENT_C: Final = 30.0
SUPPLY_V: Final = 7.4
STALL_A: Final = 2.6
_HEAT_C, _HEAT_S = 45.0, 300.0
_AMPERE_UNIT = 0.0065
_EEPROM = 40
_ALL_TORQUE = 1000
_SINGLE_TURN = 0x10


class Register:
    """Addresses of the registers that the emulation looks at."""

    FIRMWARE = 0
    MODEL = 3
    ID = 5
    BAUD = 6
    MIN_POSITION = 9
    MAX_POSITION = 11
    MAX_TEMPERATURE = 13
    MAX_VOLTAGE = 14
    MIN_VOLTAGE = 15
    MAX_TORQUE = 16
    PHASE = 18
    HOMING_OFFSET = 31
    PROTECTIVE_TORQUE = 34
    PROTECTION_TIME = 35
    OVERLOAD_TORQUE = 36
    TORQUE_ENABLE = 40
    GOAL_POSITION = 42
    TORQUE_LIMIT = 48
    LOCK = 55
    PRESENT_POSITION = 56
    PRESENT_VELOCITY = 58
    PRESENT_LOAD = 60
    VOLTAGE = 62
    TEMPERATURE = 63
    STATUS = 65
    MOVING = 66
    CURRENT = 69


class Error(IntFlag):
    """Bits of the error byte of a status."""

    VOLTAGE = 1
    ANGLE = 2
    OVERHEAT = 4
    OVERCURRENT = 8
    OVERLOAD = 32


_START: Final = {
    (0, 1): 3,
    (1, 1): 10,
    (3, 2): STS3215,
    (7, 1): 250,
    (8, 1): 1,
    (11, 2): 4095,
    (13, 1): 70,
    (14, 1): 80,
    (15, 1): 40,
    (16, 2): 1000,
    (18, 1): 0x1C,
    (21, 1): 32,
    (22, 1): 32,
    (28, 2): 500,
    (34, 1): 20,
    (35, 1): 200,
    (36, 1): 80,
}


def encode(value: int, sign_bit: int) -> int:
    """Return a number as sign and magnitude; what does not fit is cut off at the greatest."""
    size = min(abs(value), (1 << sign_bit) - 1)
    return size | (1 << sign_bit) if value < 0 else size


def decode(word: int, sign_bit: int) -> int:
    """Return the number that a word of sign and magnitude means."""
    size = word & ((1 << sign_bit) - 1)
    return -size if word & (1 << sign_bit) else size


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What LeRobot stores in a servo when an arm is calibrated, ticks."""

    homing_offset: int
    range_min: int
    range_max: int


class Servo:
    """One servo: what is written to it, where it wants to go, and how it feels."""

    def __init__(self, servo_id: int, *, mount: float, calibration: Calibration | None) -> None:
        """Power up a servo; `mount` is where its encoder's middle is off the joint's, ticks."""
        self.mount = mount
        self.forced_error = 0
        """Bits that a fault sets on every status."""
        self.keeps_goal = False
        """Whether switching torque on moves the joint to the last goal."""
        self.temperature_c = AMBIENT_C
        self.goal: float | None = None
        """Where torque drives the joint, actual ticks; None while torque is off."""
        self.goals_written = 0
        self._eeprom = bytearray(_EEPROM)
        self._registers = bytearray(MEMORY)
        self._overloaded, self._over_load_s, self._pushed = False, 0.0, 0.0
        self._actual = CENTRE + mount
        for (address, size), value in {**_START, (Register.ID, 1): servo_id}.items():
            self._eeprom[address : address + size] = value.to_bytes(size, "little")
        self.power_cycle()
        if calibration is not None:
            self.calibrate(calibration)

    def power_cycle(self) -> None:
        """Forget what is not stored: torque is off, registers have what the EEPROM holds."""
        self._registers[:] = bytes(MEMORY)
        self._registers[:_EEPROM] = self._eeprom
        self._set(Register.TORQUE_LIMIT, self.get(Register.MAX_TORQUE))
        self._registers[Register.LOCK] = 1
        self._unload()

    def calibrate(self, calibration: Calibration) -> None:
        """Store a calibration."""
        self.store(Register.HOMING_OFFSET, encode(calibration.homing_offset, 11))
        self.store(Register.MIN_POSITION, calibration.range_min)
        self.store(Register.MAX_POSITION, calibration.range_max)

    def store(self, address: int, value: int, *, size: int = 2) -> None:
        """Set an EEPROM register as if it had been so at power-up."""
        data = value.to_bytes(size, "little")
        self._eeprom[address : address + size] = data
        self._registers[address : address + size] = data

    # On the bus

    @property
    def servo_id(self) -> int:
        """Return the id that the servo answers to."""
        return self._registers[Register.ID]

    @property
    def baud(self) -> int:
        """Return the baud rate that the servo listens at."""
        return BAUDS[self._registers[Register.BAUD] % len(BAUDS)]

    @property
    def error(self) -> int:
        """Return the error byte of the servo's statuses."""
        return self._registers[Register.STATUS] | self.forced_error

    def get(self, address: int) -> int:
        """Return the word of two bytes at an address."""
        return int.from_bytes(self._registers[address : address + 2], "little")

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the memory; beyond its end there are zeros."""
        self._set(Register.PRESENT_POSITION, encode(round(self._homed()), 15))
        return bytes(self._registers[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Write to the memory and do what that entails."""
        data = data[: max(0, MEMORY - address)]
        was_on = self.torque
        self._registers[address : address + len(data)] = data
        if not self._registers[Register.LOCK]:
            stored = data[: max(0, _EEPROM - address)]
            self._eeprom[address : address + len(stored)] = stored
        touched = range(address, address + len(data))
        if Register.TORQUE_ENABLE in touched and self.torque != was_on:
            self._switch()
        if Register.GOAL_POSITION + 1 in touched and self.torque:
            self._aim()

    def _switch(self) -> None:
        if not self.torque:
            self._unload()
            return
        if not self.keeps_goal:
            self._set(Register.GOAL_POSITION, encode(round(self._homed()), 15))
        self._aim()

    def _aim(self) -> None:
        """Take the written goal, between the position limits where they differ."""
        goal = decode(self.get(Register.GOAL_POSITION), 15)
        low, high = self.get(Register.MIN_POSITION), self.get(Register.MAX_POSITION)
        if low != high:
            goal = min(max(goal, low), high)
        self.goal = goal + self._actual - self._homed()
        if self._overloaded and (self.goal - self._actual) * self._pushed < 0.0:
            self._overloaded, self._over_load_s = False, 0.0
        self.goals_written += 1

    def _unload(self) -> None:
        self._registers[Register.TORQUE_ENABLE] = 0
        self._overloaded, self._over_load_s = False, 0.0
        self._registers[Register.STATUS] &= ~Error.OVERLOAD
        self.goal = None

    def _homed(self) -> float:
        offset = decode(self.get(Register.HOMING_OFFSET), 11)
        position = self._actual - offset
        if self._registers[Register.PHASE] & _SINGLE_TURN:
            return position
        # What rounds up to a whole turn is its beginning.
        return (position + 0.5) % TURN - 0.5

    def _set(self, address: int, word: int) -> None:
        self._registers[address : address + 2] = word.to_bytes(2, "little")

    # In the joint

    @property
    def torque(self) -> bool:
        """Return whether torque is on."""
        return bool(self._registers[Register.TORQUE_ENABLE])

    @property
    def strength(self) -> float:
        """Return the share of the stall torque that the servo may use."""
        if not self.torque:
            return 0.0
        limit = min(self.get(Register.TORQUE_LIMIT), self.get(Register.MAX_TORQUE), _ALL_TORQUE)
        if self._overloaded:
            limit = min(limit, self._registers[Register.PROTECTIVE_TORQUE] * 10)
        return limit / _ALL_TORQUE

    def ticks_at(self, degrees: float) -> float:
        """Return the actual position at an angle from the middle of the joint's travel."""
        return CENTRE + self.mount + degrees * TICKS_PER_DEG

    def degrees_at(self, ticks: float) -> float:
        """Return the angle from the middle of the joint's travel at an actual position."""
        return (ticks - CENTRE - self.mount) / TICKS_PER_DEG

    def sense(self, *, degrees: float, speed: float, load: float) -> None:
        """Take over angle, speed (degrees a second) and load (-1 to 1) of the joint."""
        self._actual = self.ticks_at(degrees)
        ticks = round(speed * TICKS_PER_DEG)
        self._set(Register.PRESENT_VELOCITY, encode(ticks, 15))
        self._set(Register.PRESENT_LOAD, encode(round(load * _ALL_TORQUE), 10))
        self._set(Register.CURRENT, round(abs(load) * STALL_A / _AMPERE_UNIT))
        self._registers[Register.MOVING] = abs(ticks) > 10

    def feel(self, dt: float, *, load: float, volts: float) -> None:
        """Let `dt` seconds at a load and a voltage pass: heat, overload, what they switch off."""
        steady = AMBIENT_C + _HEAT_C * load * load
        self.temperature_c += (steady - self.temperature_c) * min(1.0, dt / _HEAT_S)
        registers = self._registers
        registers[Register.TEMPERATURE] = min(max(round(self.temperature_c), 0), 255)
        registers[Register.VOLTAGE] = min(max(round(volts * 10), 0), 255)
        registers[Register.STATUS] = self._faults(dt, load)
        if registers[Register.STATUS] & Error.OVERHEAT and self.torque:
            self._unload()

    def _faults(self, dt: float, load: float) -> int:
        registers = self._registers
        limit, patience = registers[Register.OVERLOAD_TORQUE], registers[Register.PROTECTION_TIME]
        over = self.torque and abs(load) * 100 > limit
        self._over_load_s = self._over_load_s + dt if over else 0.0
        if self._over_load_s > patience / 100 and not self._overloaded:
            self._overloaded, self._pushed = True, (self.goal or self._actual) - self._actual
        low, high = registers[Register.MIN_VOLTAGE], registers[Register.MAX_VOLTAGE]
        voltage = not low <= registers[Register.VOLTAGE] <= high
        hot = registers[Register.TEMPERATURE] > registers[Register.MAX_TEMPERATURE]
        return Error.VOLTAGE * voltage | Error.OVERHEAT * hot | Error.OVERLOAD * self._overloaded
