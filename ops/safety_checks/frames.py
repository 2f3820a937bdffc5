"""S11 on the wire: what the real driver makes of statuses that are flipped, doubled, late, lost."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import scservo_sdk  # pyright: ignore[reportMissingTypeStubs]

from ops.safety_checks.clock import SetClock
from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row
from robot.arm import JOINTS, Joints
from robot.arm_config import ROOT
from robot.emulator.bus_faults import BusFault, BusFaults
from robot.emulator.emulated_arm import MOUNTS, read_calibration
from robot.emulator.servo import Register, Servo
from robot.emulator.servo_bus import ServoBus
from robot.process.encoders import Encoders
from robot.process.so101 import LostReply, So101

CALIBRATION = ROOT / "conf" / "calibration" / "emulated.json"
CHANCES = {"flipped": 0.02, "duplicated": 0.01, "lost": 0.005, "late": 0.005, "echo": 0.02}
"""How often each status (an echo: each request) is hit."""
BLOCK = 5000


class MemoryPort:
    """A serial port whose other end is six emulated servos in this process; nothing waits."""

    def __init__(self, bus: ServoBus, rng: np.random.Generator) -> None:
        """Connect to a bus; late bytes come before or after the next question."""
        self._bus, self._rng = bus, rng
        self._heard, self._late = bytearray(), bytearray()
        self.ser, self.readPort = self, self.read
        self.is_using = False
        self.tx_time_per_byte = 0.01
        self.replies = 0

    def reset_input_buffer(self) -> None:
        """Forget what has come in; some of what is late arrives only after that."""
        self._heard.clear()
        if self._rng.random() < 0.5:
            self._late.clear()

    def writePort(self, packet: Any) -> int:  # noqa: ANN401, N802 - the SDK's
        """Ask the servos."""
        self._heard += self._late
        self._late.clear()
        for reply in self._bus.feed(bytes(packet)):
            self.replies += 1
            (self._late if reply.delay_s else self._heard).extend(reply.data)
        return len(packet)

    def read(self, length: int) -> bytes:
        """Return up to `length` bytes."""
        data = bytes(self._heard[:length])
        del self._heard[: len(data)]
        return data

    def isPacketTimeout(self) -> bool:  # noqa: N802 - the SDK's
        """Return whether nothing more will come."""
        return not self._heard

    def setPacketTimeout(self, length: int) -> None:  # noqa: N802 - the SDK's
        """Do nothing: nothing waits."""

    def clearPort(self) -> None:  # noqa: N802 - the SDK's
        """Do nothing: what was sent has arrived."""


class _OnMemory(So101):
    """The real arm's driver on a port in memory."""

    memory: MemoryPort

    def _open(self) -> None:
        sdk = cast("Any", scservo_sdk)
        self.memory.readPort = self._received
        self._bus = SimpleNamespace(
            port_handler=self.memory, packet_handler=sdk.PacketHandler(0), is_connected=False
        )


class _Bench:
    """The real driver on servos in memory whose statuses are spoilt, and what came of reading."""

    def __init__(self, effort: Effort) -> None:
        self._seed, self._rng = effort.seed, np.random.default_rng([effort.seed, 111])
        self._servos, self.bus = _servos(effort.seed)
        self._clock, self._encoders = SetClock(), Encoders.load(CALIBRATION, "arm01")
        self.port = _OnMemory.memory = MemoryPort(self.bus, self._rng)
        self.arm = _OnMemory(
            arm_id="arm01", port="memory", calibration=CALIBRATION,
            lock=effort.folder / "memory.lock", clock=self._clock.now,
        )  # fmt: skip
        for kind, chance in CHANCES.items():
            self.bus.faults.add(BusFault(kind=kind, probability=chance))
        self._pose, self._before = self._rng.uniform(-40, 40, 6), np.full(6, np.nan)
        self.accepted = self.lost = self.old = 0
        self.wrong: list[str] = []

    def read(self) -> None:
        """Move the joints a little and compare what the driver makes of their statuses."""
        self._pose = np.clip(self._pose + self._rng.uniform(-2, 2, 6), -60, 60)
        for servo, degrees in zip(self._servos, self._pose, strict=True):
            servo.sense(degrees=float(degrees), speed=0.0, load=0.1)
        self._clock.time += 0.02
        truth = self._encoders.joints(_said(self._servos))
        try:
            found = self.arm.joint_pos()
        except LostReply:
            self.lost += 1
        else:
            self._compare(found, truth)
        self._before = truth

    def _compare(self, found: Joints, truth: Joints) -> None:
        self.accepted += 1
        right = np.isclose(found, truth, atol=1e-9)
        stale = ~right & np.isclose(found, self._before, atol=1e-9)
        self.old += int(stale.sum())
        if not (right | stale).all():
            read = self.accepted + self.lost
            self.wrong.append(f"seed={self._seed} read {read}: {found - truth}")


def bad_frames(effort: Effort) -> list[Row]:
    """S11: no pose that the driver accepts differs from what the servos had said."""
    frames = effort.count(quick=30_000, full=1_000_000)
    bench = _Bench(effort)
    while bench.port.replies < frames:
        bench.read()
    bench.arm.close()
    struck = ", ".join(
        f"{kind} {count:,}" for kind, count in bench.bus.faults.struck.items() if count
    )
    row = Row(
        id="S11",
        promise="a status with a bad checksum, or of another question, is never taken for a pose",
        asked="0 in 1,000,000 frames",
        measured=f"{len(bench.wrong)} wrong poses of {bench.accepted:,} accepted "
        f"({bench.lost:,} reads refused; {struck})",
        trials=bench.port.replies,
        full=1_000_000,
        broken=len(bench.wrong),
        how="The real driver reads six emulated servos over a port in memory whose statuses are "
        "flipped in one bit, doubled, lost, late or echoed; each pose it accepts is compared with "
        "what the servos had said.",
        noise=f"{bench.old:,} joints of a read were one question (20 ms) old: a late reply that "
        "comes between a question and its answer looks like the answer",
        examples=tuple(bench.wrong[:MOST_EXAMPLES]),
    )
    return [row]


def _servos(seed: int) -> tuple[list[Servo], ServoBus]:
    stored = read_calibration(CALIBRATION)
    servos = [
        Servo(index, mount=mount, calibration=stored[joint])
        for index, (joint, mount) in enumerate(zip(JOINTS, MOUNTS, strict=True), 1)
    ]
    return servos, ServoBus(servos, BusFaults(seed))


def _said(servos: list[Servo]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the ticks that each servo answers, as if nothing happened on the wire."""
    words = [servo.read(Register.PRESENT_POSITION, 2) for servo in servos]
    return np.array([int.from_bytes(word, "little") & 0x7FFF for word in words], np.float64)
