"""Calibrate an arm by sweeping its joints: `make calibrate ARM_ID=arm01`.

Every joint is moved by hand from stop to stop first; the middle of what was seen becomes the middle
of its count. So no joint can wrap around inside its travel, and no offset exceeds what a servo
keeps, however its horn was mounted. The result is LeRobot's calibration file.
"""

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import serial
from rich.console import Console
from rich.live import Live
from rich.table import Table

from robot.arm import JOINTS
from robot.arm_config import ROOT, ArmConfig, ConfigError
from robot.doctor.calibration import (
    FREE,
    LARGEST_OFFSET,
    TICKS,
    TRAVEL_DEG,
    JointCalibration,
    check_file,
)
from robot.doctor.report import Status
from robot.doctor.servo_packets import BAUD_RATES, Wire
from robot.doctor.servo_scan import IDS, TRIES, open_line
from robot.process.port import PortLock, resolve_port
from robot.process.servos import ArmUnusable
from robot.sealed import seal
from robot.words import UsageError, parse_words

OK, FAILED, USAGE, NO_DEVICE, INTERRUPTED = 0, 1, 2, 3, 130
WORDS = {"arm_id": "arm01", "folder": str(ROOT / "conf" / "arm")}
EMULATED = ROOT / "conf" / "calibration" / "emulated.json"
"""How every emulated arm is mounted, and what no calibration of an arm may replace."""
MIDDLE = 2047
_PHASE, _TORQUE, _LOCK, _POSITION = 18, 40, 55, 56
_LIMITS, _OFFSET = 9, 31
_SINGLE_TURN = 0xFF & ~0x10


class BusFailed(Exception):
    """A servo that did not answer, or did not do what it was told."""


class Travel:
    """What a joint was seen to travel, counted on over the wrap of its encoder."""

    def __init__(self, tick: int) -> None:
        """Begin where the joint is, 0 to 4095."""
        self.now = self.low = self.high = tick

    def see(self, tick: int) -> None:
        """Take the next count; between two of them a joint turns less than half a turn."""
        self.now += (tick - self.now + TICKS // 2) % TICKS - TICKS // 2
        self.low, self.high = min(self.low, self.now), max(self.high, self.now)

    @property
    def degrees(self) -> float:
        """Return how far it went."""
        return (self.high - self.low) * 360 / TICKS


def calibration_of(travels: Mapping[str, Travel]) -> dict[str, JointCalibration]:
    """Return the calibration in which each joint's middle is the middle of its count.

    The joint without stops has its middle where it stands.
    """
    return {name: _centred(name, travel) for name, travel in travels.items()}


class Sweeper:
    """Reads and writes what calibration needs of six servos; a reply may be lost now and then."""

    def __init__(self, wire: Wire) -> None:
        """Talk over an open line."""
        self._wire = wire

    def keep(self) -> dict[int, tuple[bytes, bytes]]:
        """Return each servo's limits and offset, to put back where calibration is broken off."""
        return {i: (self._read(i, _LIMITS, 4), self._read(i, _OFFSET, 2)) for i in IDS}

    def free(self) -> None:
        """Switch all torque off, and have servos count plain encoder ticks without limits."""
        for i in IDS:
            self._write(i, _TORQUE, b"\0")
            self._write(i, _LOCK, b"\0")
            phase = self._read(i, _PHASE, 1)[0]
            self._write(i, _PHASE, bytes([phase & _SINGLE_TURN]))
        self.store(
            dict.fromkeys(IDS, ((0).to_bytes(2) + (TICKS - 1).to_bytes(2, "little"), b"\0\0"))
        )

    def store(self, registers: Mapping[int, tuple[bytes, bytes]]) -> None:
        """Write limits and offset of each servo."""
        for i, (limits, offset) in registers.items():
            self._write(i, _LIMITS, limits)
            self._write(i, _OFFSET, offset)

    def positions(self) -> dict[str, int]:
        """Return the count of each joint, 0 to 4095."""
        words = [int.from_bytes(self._read(i, _POSITION, 2), "little") for i in IDS]
        return {name: word % TICKS for name, word in zip(JOINTS, words, strict=True)}

    def _read(self, servo_id: int, address: int, length: int) -> bytes:
        for _ in range(TRIES):
            reply = self._wire.read(servo_id, address, length).of(servo_id, length)
            if reply:
                return reply.params
        raise BusFailed(_silent(servo_id))

    def _write(self, servo_id: int, address: int, data: bytes) -> None:
        for _ in range(TRIES):
            done = self._wire.write(servo_id, address, data)
            if done and self._read(servo_id, address, len(data)) == data:
                return
        raise BusFailed(_silent(servo_id))


def sweep(sweeper: Sweeper, enough: Callable[[Mapping[str, Travel]], bool]) -> dict[str, Travel]:
    """Follow the joints until `enough` says so."""
    travels = {name: Travel(tick) for name, tick in sweeper.positions().items()}
    while not enough(travels):
        for name, tick in sweeper.positions().items():
            travels[name].see(tick)
    return travels


def troubles(travels: Mapping[str, Travel]) -> list[str]:
    """Return a sentence for every joint that was not moved from stop to stop."""
    checks = check_file(calibration_of(travels), "sweep it again")
    return [check.sentence for check in checks if check.status is not Status.PASS]


def registers_of(calibration: Mapping[str, JointCalibration]) -> dict[int, tuple[bytes, bytes]]:
    """Return what each servo keeps of a calibration."""
    return {
        joint.id: (
            joint.range_min.to_bytes(2, "little") + joint.range_max.to_bytes(2, "little"),
            (abs(joint.homing_offset) | (joint.homing_offset < 0) << 11).to_bytes(2, "little"),
        )
        for joint in calibration.values()
    }


def calibrate(sweeper: Sweeper, person: "Person", path: Path) -> None:
    """Calibrate an arm with a person's hands, and write its file; raise `BusFailed`."""
    person.ask("Hold the arm: its torque goes off. Press Enter.")
    before = sweeper.keep()
    done = False
    try:
        sweeper.free()
        travels = sweep(sweeper, person.has_swept)
        calibration = calibration_of(travels)
        sweeper.store(registers_of(calibration))
        done = True
    finally:
        if not done:
            sweeper.store(before)
    text = json.dumps({name: asdict(joint) for name, joint in calibration.items()}, indent=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    seal(path, (text + "\n").encode())
    person.say(f"written: servos and {path.name}. Compare: make doctor only=bus,calib")


def own_file(config: ArmConfig) -> Path:
    """Return where an arm's calibration goes: not into the file that emulated arms share."""
    if config.calibration.resolve() == EMULATED:
        return EMULATED.with_name(f"{config.arm_id}.json")
    return config.calibration


class Person:
    """Whoever holds the arm, at a terminal or behind a pipe."""

    def __init__(self, console: Console) -> None:
        """Talk by standard input and a console."""
        self._console = console
        self._live: Live | None = None
        self._line: list[str] = []
        self._answered = threading.Event()

    def say(self, text: str) -> None:
        """Say something."""
        self._console.print(text, soft_wrap=True)

    def ask(self, text: str) -> None:
        """Say something and wait for Enter; raise `KeyboardInterrupt` at the end of input."""
        self.say(text)
        if not sys.stdin.readline():
            raise KeyboardInterrupt

    def has_swept(self, travels: Mapping[str, Travel]) -> bool:
        """Show what was seen so far; return whether the person is done and all of it plausible."""
        if self._live is None:
            self.say(
                "Move every joint slowly from stop to stop, one after the other. Then put "
                "wrist_roll in its middle, as far from one end as from the other. Press Enter."
            )
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
            self._listen()
        if self._console.is_terminal:
            self._live.update(_table(travels), refresh=True)
        if not self._answered.is_set():
            return False
        if not self._line[-1]:
            raise KeyboardInterrupt
        found = troubles(travels)
        for sentence in found:
            self.say(f"{sentence}: move it from stop to stop, then press Enter")
        if found:
            self._listen()
        else:
            self.close()
        return not found

    def close(self) -> None:
        """End the live view."""
        if self._live:
            self._live.stop()

    def _listen(self) -> None:
        self._answered.clear()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        self._line.append(sys.stdin.readline())
        self._answered.set()


def main(argv: Sequence[str]) -> int:
    """Calibrate an arm; return the exit code."""
    person = Person(Console())
    try:
        words = parse_words(argv, known=WORDS)
        config = ArmConfig.load(words["arm_id"], folder=Path(words["folder"]))
        lock = PortLock(config.runtime("lock"))
        try:
            line = open_line(Path(resolve_port(config.port)))(BAUD_RATES[0])
            with closing(Wire(line)) as wire:
                calibrate(Sweeper(wire), person, own_file(config))
        finally:
            lock.release()
        if (path := own_file(config)) != config.calibration:
            line = f"calibration: {path.relative_to(ROOT)}"
            person.say(f"write into {words['folder']}/{config.arm_id}.yaml: {line}")
    except (UsageError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except (ArmUnusable, serial.SerialException) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return NO_DEVICE
    except BusFailed as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("broken off: the servos have their calibration of before\n")
        return INTERRUPTED
    finally:
        person.close()
    return OK


def _centred(name: str, travel: Travel) -> JointCalibration:
    middle = travel.now if name == FREE else (travel.low + travel.high) // 2
    wanted = middle % TICKS - MIDDLE
    offset = min(wanted, LARGEST_OFFSET)
    shift = MIDDLE - middle + wanted - offset
    low, high = (0, TICKS - 1) if name == FREE else (travel.low + shift, travel.high + shift)
    number = JOINTS.index(name) + 1
    return JointCalibration(
        id=number, drive_mode=0, homing_offset=offset, range_min=low, range_max=high
    )


def _table(travels: Mapping[str, Travel]) -> Table:
    rows = Table("joint", "seen", "an SO-101 has", box=None, padding=(0, 3, 0, 0))
    for name, travel in travels.items():
        usual = "no stops" if name == FREE else f"{TRAVEL_DEG[name]:.0f}°"
        rows.add_row(name, f"{travel.degrees:.0f}°", usual)
    return rows


def _silent(servo_id: int) -> str:
    joint = JOINTS[servo_id - 1]
    return f"{joint} (id {servo_id}) does not answer or does not obey: make doctor only=bus"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
