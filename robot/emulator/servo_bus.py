"""Six servos on one wire: what they answer to the bytes that come along it.

Feetech's protocol 0: a request is `FF FF id length instruction parameters… checksum`, a status
`FF FF id length error data… checksum`. Nothing here opens a port or waits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from robot.emulator.bus_faults import BusFaults, Reply
from robot.emulator.servo import Register, Servo

BROADCAST: Final = 0xFE
PING, READ, WRITE, REG_WRITE, ACTION = 0x01, 0x02, 0x03, 0x04, 0x05
SYNC_READ, SYNC_WRITE = 0x82, 0x83
HEADER: Final = b"\xff\xff"
_SHORTEST = 6


@dataclass(frozen=True, slots=True)
class Packet:
    """A request that arrived whole."""

    servo_id: int
    instruction: int
    params: bytes

    def encode(self) -> bytes:
        """Return the packet as it travels."""
        return frame(self.servo_id, self.instruction, self.params)


def frame(servo_id: int, kind: int, params: bytes = b"") -> bytes:
    """Return a packet; `kind` is the instruction of a request or the error of a status."""
    body = bytes([servo_id, len(params) + 2, kind]) + params
    return HEADER + body + bytes([~sum(body) & 0xFF])


class PacketReader:
    """Finds packets in a stream of bytes, however it is cut, and skips what is none."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped = 0
        """Bytes that belonged to no packet."""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that `data` completes."""
        self._buffer += data
        while (packet := self._next()) is not None:
            yield packet

    def _next(self) -> Packet | None:
        buffer = self._buffer
        while True:
            start = buffer.find(HEADER)
            # FF FF FF: the id is never FF, so the header begins one later.
            while start >= 0 and buffer.startswith(b"\xff", start + 2):
                start += 1
            self._skip(start if start >= 0 else len(buffer) - buffer.endswith(b"\xff"))
            if len(buffer) < 4:
                return None
            size = buffer[3] + 4
            if size < _SHORTEST:
                self._skip(2)
                continue
            if len(buffer) < size:
                return None
            if sum(buffer[2:size]) & 0xFF == 0xFF:
                packet = Packet(buffer[2], buffer[4], bytes(buffer[5 : size - 1]))
                del buffer[:size]
                return packet
            self._skip(2)

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._buffer[:count]


class ServoBus:
    """Servos in the order of the cable, and how they answer."""

    def __init__(self, servos: Sequence[Servo], faults: BusFaults) -> None:
        self.connected = list(servos)
        """The servos on the cable, from the controller board outwards."""
        self.faults = faults
        self.baud: int | None = None
        """The port's baud rate; a servo set to another hears nothing. None is heard by all."""
        self.on_goals: Callable[[], None] | None = None
        """Called after each request that wrote a goal or switched torque."""
        self.requests = 0
        self._reader = PacketReader()
        self._prepared: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> list[Reply]:
        """Return what is to be sent back for the bytes that arrived, each with its delay."""
        replies: list[Reply] = []
        for packet in self._reader.feed(data):
            self.requests += 1
            replies += self.faults.echo(packet.encode())
            for servo_id, status in self._answer(packet):
                replies += self.faults.shape(servo_id, status)
        return replies

    def _hearing(self) -> list[Servo]:
        reached = self.connected[: self.faults.reached(len(self.connected))]
        return [servo for servo in reached if self.baud in (None, servo.baud)]

    def _answer(self, packet: Packet) -> Iterator[tuple[int, bytes]]:
        servos = self._hearing()
        match packet.instruction:
            case 0x82:  # SYNC_READ
                yield from self._sync_read(servos, packet.params)
            case 0x83:  # SYNC_WRITE
                self._sync_write(servos, packet.params)
            case 0x05:  # ACTION
                self._act(servos)
            case _:
                for servo in servos:
                    if packet.servo_id in (servo.servo_id, BROADCAST):
                        yield from self._one(servo, packet)

    def _one(self, servo: Servo, packet: Packet) -> Iterator[tuple[int, bytes]]:
        servo_id, params = servo.servo_id, packet.params
        data = b""
        if packet.instruction == READ and len(params) == 2:
            data = servo.read(params[0], params[1])
        elif packet.instruction == WRITE and params:
            self._write(servo, params[0], params[1:])
        elif packet.instruction == REG_WRITE and params:
            self._prepared.append((servo_id, params))
        elif packet.instruction != PING:
            return
        # The answer to a change of the id comes from the old one.
        if packet.instruction == PING or packet.servo_id != BROADCAST:
            yield servo_id, frame(servo_id, servo.error, data)

    def _write(self, servo: Servo, address: int, data: bytes) -> None:
        servo.write(address, data)
        self._tell(address, len(data))

    def _sync_read(self, servos: Sequence[Servo], params: bytes) -> Iterator[tuple[int, bytes]]:
        if len(params) < 3:
            return
        address, size = params[:2]
        for servo_id in params[2:]:
            for servo in servos:
                if servo.servo_id == servo_id:
                    yield servo_id, frame(servo_id, servo.error, servo.read(address, size))

    def _sync_write(self, servos: Sequence[Servo], params: bytes) -> None:
        if len(params) < 3:
            return
        address, size = params[:2]
        told = False
        for start in range(2, len(params) - size, size + 1):
            for servo in servos:
                if servo.servo_id == params[start]:
                    servo.write(address, params[start + 1 : start + 1 + size])
                    told = True
        if told:
            self._tell(address, size)

    def _act(self, servos: Sequence[Servo]) -> None:
        prepared, self._prepared = self._prepared, []
        for servo_id, params in prepared:
            for servo in servos:
                if servo.servo_id == servo_id:
                    self._write(servo, params[0], params[1:])

    def _tell(self, address: int, size: int) -> None:
        """Say so where a goal or torque was among what was written."""
        drives = address < Register.GOAL_POSITION + 2 and address + size > Register.TORQUE_ENABLE
        if drives and self.on_goals is not None:
            self.on_goals()
