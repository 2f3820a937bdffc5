"""What can go wrong on the wire: statuses lost, late, doubled or flipped, echo, a cut cable.

`now` and randomness come from outside, so that a schedule and a seed give the same faults again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

KINDS: Final = ("lost", "late", "duplicated", "flipped", "echo", "cut")


class FaultError(ValueError):
    """A fault that is not described as expected."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes for the port."""

    data: bytes
    delay_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class BusFault:
    """One fault of the wire, as long as it lasts."""

    kind: str
    servo_id: int | None = None
    """Only statuses of this servo; of a cut, the last servo that is reached. None is any."""
    count: int | None = None
    """How many times it strikes; None is without end."""
    probability: float = 1.0
    delay_s: float = 0.06
    """Of `late`: LeRobot waits 50 ms and a little."""
    bit: int | None = None
    """Of `flipped`: which bit of the status; None is a random one."""

    def __post_init__(self) -> None:
        """Raise `FaultError` where a value makes no sense."""
        if self.kind not in KINDS:
            raise FaultError(f"unknown fault {self.kind!r} of the bus; known: {', '.join(KINDS)}")
        if not 0 < self.probability <= 1:
            raise FaultError(f"probability is {self.probability}; expected more than 0, at most 1")
        if self.count is not None and self.count < 1:
            raise FaultError(f"count is {self.count}; expected 1 or more")
        if self.delay_s < 0:
            raise FaultError(f"delay_s is {self.delay_s}; expected 0 or more")
        if self.kind == "cut" and self.servo_id is None:
            raise FaultError("cut has no servo_id; expected the last servo that is reached, 0 to 6")

    @classmethod
    def parse(cls, fields: Mapping[str, object]) -> "BusFault":
        """Return the fault that a request or a schedule describes."""
        try:
            return cls(**fields)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise FaultError(f"{dict(fields)}: {error}") from error


class BusFaults:
    """The faults that are in force on one bus."""

    def __init__(self, seed: int = 0) -> None:
        self.struck: dict[str, int] = dict.fromkeys(KINDS, 0)
        """How often each kind has struck."""
        self._rng = np.random.default_rng(seed)
        self._faults: list[BusFault] = []

    def add(self, fault: BusFault) -> None:
        """Put a fault in force."""
        self._faults.append(fault)

    def clear(self) -> None:
        """End all faults."""
        self._faults.clear()

    def reached(self, servos: int) -> int:
        """Return how many of the servos on the cable are reached."""
        ends = [fault.servo_id or 0 for fault in self._faults if fault.kind == "cut"]
        return min([servos, *ends])

    def echo(self, request: bytes) -> list[Reply]:
        """Return what comes back of a request by itself."""
        strikes = any(
            fault.kind == "echo" and self._strikes(fault, None) for fault in tuple(self._faults)
        )
        return [Reply(request)] if strikes else []

    def shape(self, servo_id: int, status: bytes) -> list[Reply]:
        """Return what becomes of a status on its way."""
        copies, delay_s = 1, 0.0
        for fault in tuple(self._faults):
            if fault.kind in ("echo", "cut") or not self._strikes(fault, servo_id):
                continue
            if fault.kind == "lost":
                return []
            if fault.kind == "late":
                delay_s += fault.delay_s
            elif fault.kind == "duplicated":
                copies = 2
            else:
                status = self._flipped(status, fault.bit)
        return [Reply(status, delay_s)] * copies

    def _strikes(self, fault: BusFault, servo_id: int | None) -> bool:
        if fault.servo_id not in (None, servo_id) or self._rng.random() >= fault.probability:
            return False
        self.struck[fault.kind] += 1
        if fault.count is not None:
            fault.count -= 1
            if not fault.count:
                self._faults.remove(fault)
        return True

    def _flipped(self, status: bytes, bit: int | None) -> bytes:
        chosen = (
            int(self._rng.integers(len(status) * 8)) if bit is None else bit % (len(status) * 8)
        )
        changed = bytearray(status)
        changed[chosen // 8] ^= 1 << chosen % 8
        return bytes(changed)
