"""Single packets to and from Feetech servos, for looking at a bus that may be broken.

LeRobot's driver drops error bits and cannot tell two servos of one id from noise; this can.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

BAUD_RATES = (1_000_000, 500_000, 250_000, 128_000, 115_200, 57_600, 38_400, 19_200)
"""What the register 6 means, 0 to 7."""
HIGHEST_ID, BROADCAST = 252, 254
PING, READ, WRITE = 1, 2, 3
ERROR_BITS = {
    1: "voltage out of range",
    2: "angle sensor error",
    4: "overheated",
    8: "over-current",
    32: "overload",
}
REPLY_S = 0.05
"""A servo answers within 0.5 ms, a USB adapter hands it on within 16 ms, LeRobot waits so long."""
BRIEF_S = 0.02
"""Where nobody is expected to answer."""
_HEADER = b"\xff\xff"


class Line(Protocol):
    """A serial line, as pyserial has it."""

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""
        ...

    def read(self, size: int = 1, /) -> bytes:
        """Return up to `size` bytes, fewer where the line's time-out passes."""
        ...

    def reset_input_buffer(self) -> None:
        """Forget what has come in."""
        ...

    def close(self) -> None:
        """Give the line back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back of one request."""

    servo_id: int
    error: int
    """Bits of `ERROR_BITS`."""
    params: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that was heard after one request."""

    replies: tuple[Reply, ...]
    """Whole status packets, in order."""
    garbled: bool
    """Whether there were bytes that are no whole packet, or a wrong checksum."""
    echoed: bool
    """Whether the request itself came back."""
    seconds: float
    """Until the first whole reply, or until waiting ended."""

    def of(self, servo_id: int, length: int) -> Reply | None:
        """Return the reply of a servo with so many parameters."""
        for reply in self.replies:
            if reply.servo_id == servo_id and len(reply.params) == length:
                return reply
        return None


def packet(servo_id: int, instruction: int, params: bytes = b"") -> bytes:
    """Return a request."""
    body = bytes([servo_id, len(params) + 2, instruction]) + params
    return _HEADER + body + bytes([~sum(body) & 0xFF])


def error_words(bits: int) -> str:
    """Return what a servo's error bits mean."""
    words = [text for bit, text in ERROR_BITS.items() if bits & bit]
    return ", ".join(words) or (f"unknown error bits {bits:#04x}" if bits else "")


class Wire:
    """Asks servos over a line, one at a time."""

    def __init__(self, line: Line, clock: Callable[[], float] = time.monotonic) -> None:
        """Measure time-outs by `clock`."""
        self._line, self._clock = line, clock

    def read(
        self, servo_id: int, address: int, length: int, *, wait_s: float | None = None
    ) -> Answer:
        """Ask one servo for registers.

        This also tells whether it is there: an echoed PING would look like a servo with a voltage
        error, byte for byte.
        """
        request = packet(servo_id, READ, bytes([address, length]))
        return self._ask(request, expect=6 + length, wait_s=(wait_s or REPLY_S) + length * 1e-4)

    def write(
        self, servo_id: int, address: int, data: bytes, *, wait_s: float | None = None
    ) -> bool:
        """Write registers of one servo; return whether it said that it did."""
        request = packet(servo_id, WRITE, bytes([address]) + data)
        return self._ask(request, expect=6, wait_s=wait_s or REPLY_S).of(servo_id, 0) is not None

    def roll_call(self, *, wait_s: float = 0.1) -> list[int]:
        """Return the ids that answer a PING to all, ascending."""
        request = packet(BROADCAST, PING)
        answer = self._ask(request, expect=HIGHEST_ID * 6, wait_s=wait_s)
        return sorted({reply.servo_id for reply in answer.replies})

    def close(self) -> None:
        """Give the line back."""
        self._line.close()

    def _ask(self, request: bytes, *, expect: int, wait_s: float) -> Answer:
        """Listen until `expect` bytes and any that follow at once have come."""
        self._line.reset_input_buffer()
        started = self._clock()
        self._line.write(request)
        heard, seconds, wanted = bytearray(), wait_s, expect
        while self._clock() - started < wait_s:
            heard += self._line.read(max(1, wanted - len(heard)))
            if heard.startswith(request):
                wanted = expect + len(request)
            if len(heard) >= wanted:
                seconds = self._clock() - started
                # A second servo of the same id, or a duplicated reply, comes right behind.
                heard += self._line.read(256)
                break
        return _answer(bytes(heard), request, seconds)


def _answer(heard: bytes, request: bytes, seconds: float) -> Answer:
    echoed = heard.startswith(request)
    rest = heard[len(request) :] if echoed else heard
    replies, garbled = _replies(rest)
    return Answer(replies=tuple(replies), garbled=garbled, echoed=echoed, seconds=seconds)


def _replies(heard: bytes) -> tuple[list[Reply], bool]:
    """Return the whole packets in a stream, and whether there was anything else in it."""
    replies: list[Reply] = []
    garbled = False
    while heard:
        start = heard.find(_HEADER)
        if start != 0:
            garbled = True
            heard = heard[start:] if start > 0 else b""
            continue
        reply, size = _reply(heard)
        if reply is None:
            garbled = True
            heard = heard[2:]
            continue
        replies.append(reply)
        heard = heard[size:]
    return replies, garbled


def _reply(heard: bytes) -> tuple[Reply | None, int]:
    if len(heard) < 6:
        return None, 0
    size = heard[3] + 4
    if heard[3] < 2 or len(heard) < size or ~sum(heard[2 : size - 1]) & 0xFF != heard[size - 1]:
        return None, 0
    return Reply(servo_id=heard[2], error=heard[4], params=heard[5 : size - 1]), size
