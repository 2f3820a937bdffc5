"""Who answers on a servo bus, at which rate, and what each servo's registers say."""

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import serial

from robot.arm import JOINTS
from robot.doctor.servo_packets import BAUD_RATES, BRIEF_S, HIGHEST_ID, REPLY_S, Answer, Line, Wire

MODEL = 777
IDS = tuple(range(1, len(JOINTS) + 1))
TRIES, ROUNDS = 3, 20
_LOWER, _UPPER = (0, 40), (40, 31)
"""The registers in two reads: address and length."""
LINE_TIMEOUT_S = 0.003
TICK_DEG = 360 / 4096

type OpenLine = Callable[[int], Line]
"""Opens the bus at a baud rate."""
type Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Servo:
    """One servo as it answers."""

    servo_id: int
    baud: int
    registers: bytes | None
    """Addresses 0 to 70; None where it answers, but not with this."""
    error: int
    lost: int
    """Requests of `asked` that it did not answer at all."""
    garbled: int
    """Requests that came back damaged."""
    doubled: int
    """Requests that were answered twice."""
    asked: int
    seconds: float
    """Median time to its reply."""

    def word(self, address: int) -> int:
        """Return two bytes of its registers."""
        registers = self.registers or bytes(71)
        return int.from_bytes(registers[address : address + 2], "little")

    def byte(self, address: int) -> int:
        """Return one byte of its registers."""
        return self.registers[address] if self.registers else 0

    def signed(self, address: int, sign_bit: int) -> int:
        """Return two bytes as sign and magnitude."""
        value = self.word(address)
        magnitude = value & ((1 << sign_bit) - 1)
        return -magnitude if value >> sign_bit & 1 else magnitude

    @property
    def model(self) -> int:
        """Return its model number; 777 is an STS3215."""
        return self.word(3)

    @property
    def firmware(self) -> str:
        """Return major and minor version."""
        return f"{self.byte(0)}.{self.byte(1)}"

    @property
    def voltage_v(self) -> float:
        """Return its supply."""
        return self.byte(62) / 10

    @property
    def temperature_c(self) -> int:
        """Return its temperature."""
        return self.byte(63)

    @property
    def offset(self) -> int:
        """Return its homing offset, ticks."""
        return self.signed(31, 11)

    @property
    def position(self) -> int:
        """Return where it is, ticks."""
        return self.signed(56, 15)

    @property
    def short_deg(self) -> float:
        """Return how far it is from its goal; 0 where torque is off."""
        return (self.signed(42, 15) - self.position) * TICK_DEG if self.byte(40) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BusScan:
    """What a bus answered."""

    servos: Mapping[int, Servo]
    """At 1 Mbaud, by id; those that were expected and any other."""
    elsewhere: Mapping[int, int] = field(default_factory=dict[int, int])
    """Baud rate by id, of servos that answer at another rate only."""
    echoed: bool = False

    @property
    def missing(self) -> list[int]:
        """Return the ids of an arm that did not answer at 1 Mbaud."""
        return [i for i in IDS if i not in self.servos]

    @property
    def strange(self) -> list[int]:
        """Return the ids that answered and belong to no joint."""
        return [i for i in self.servos if i not in IDS]


def open_line(path: Path) -> OpenLine:
    """Return what opens a serial port, for nobody else at the same time."""

    def opened(baud: int) -> Line:
        return serial.Serial(str(path), baud, timeout=LINE_TIMEOUT_S, exclusive=True)

    return opened


def scan(opener: OpenLine, *, every_id: bool = False, clock: Clock = time.monotonic) -> BusScan:
    """Ask the bus who is there; look at other ids and rates only where one is missing."""
    with _opened(opener, BAUD_RATES[0], clock) as wire:
        first = {i: _look(wire, i, BAUD_RATES[0]) for i in IDS}
        found = {i: servo for i, servo in first.items() if servo.lost < servo.asked}
        echoed = any(_first_answer(wire, i).echoed for i in IDS[:1])
        if len(found) < len(IDS) or every_id:
            others = _others(wire, every_id=every_id)
            found |= {i: _look(wire, i, BAUD_RATES[0]) for i in others if i not in found}
    result = BusScan(servos=found, echoed=echoed)
    return (
        replace(result, elsewhere=_elsewhere(opener, result, clock)) if result.missing else result
    )


@contextmanager
def _opened(opener: OpenLine, baud: int, clock: Clock) -> Generator[Wire]:
    wire = Wire(opener(baud), clock)
    try:
        yield wire
    finally:
        wire.close()


def _first_answer(wire: Wire, servo_id: int) -> Answer:
    answer = wire.read(servo_id, 3, 2)
    for attempt in range(1, TRIES):
        if answer.replies or answer.garbled:
            break
        answer = wire.read(servo_id, 3, 2, wait_s=REPLY_S * (1 + attempt))
    return answer


def _look(wire: Wire, servo_id: int, baud: int) -> Servo:
    first = _first_answer(wire, servo_id)
    if not first.replies and not first.garbled:
        return _servo_of(servo_id, baud, [first], None)
    answers = [first, *(wire.read(servo_id, 56, 2) for _ in range(ROUNDS - 1))]
    return _servo_of(servo_id, baud, answers, _registers(wire, servo_id))


def _servo_of(
    servo_id: int, baud: int, answers: Sequence[Answer], registers: bytes | None
) -> Servo:
    mine = [[r for r in answer.replies if r.servo_id == servo_id] for answer in answers]
    error = 0
    for replies in mine:
        for reply in replies:
            error |= reply.error
    return Servo(
        servo_id=servo_id,
        baud=baud,
        registers=registers,
        error=error,
        lost=sum(not r and not a.garbled for r, a in zip(mine, answers, strict=True)),
        garbled=sum(answer.garbled for answer in answers),
        doubled=sum(len(replies) > 1 for replies in mine),
        asked=len(answers),
        seconds=statistics.median(answer.seconds for answer in answers),
    )


def _registers(wire: Wire, servo_id: int) -> bytes | None:
    parts: list[bytes] = []
    for address, length in (_LOWER, _UPPER):
        for _ in range(TRIES):
            reply = wire.read(servo_id, address, length).of(servo_id, length)
            if reply:
                parts.append(reply.params)
                break
        else:
            return None
    return b"".join(parts)


def _others(wire: Wire, *, every_id: bool) -> list[int]:
    """Return ids beyond the arm's own."""
    found = set(wire.roll_call())
    if every_id:
        silent = (i for i in range(HIGHEST_ID + 1) if i not in found and i not in IDS)
        found |= {i for i in silent if wire.read(i, 3, 2, wait_s=BRIEF_S).replies}
    return sorted(found - set(IDS))


def _elsewhere(opener: OpenLine, result: BusScan, clock: Clock) -> dict[int, int]:
    """Return the rate at which a missing servo answers."""
    found: dict[int, int] = {}
    for baud in BAUD_RATES[1:]:
        with _opened(opener, baud, clock) as wire:
            ids = [i for i in (*result.missing, *wire.roll_call()) if i not in result.servos]
            found |= {
                i: baud
                for i in dict.fromkeys(ids)
                if i not in found and wire.read(i, 3, 2, wait_s=BRIEF_S).replies
            }
    return found
