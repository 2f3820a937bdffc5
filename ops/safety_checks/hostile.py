"""N2: strings that no friend would send, and the decoder of the wire that has to survive them."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import msgpack
import numpy as np

from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row
from robot.wire import MAX_BYTES, WireError, decode_map, encode

PART = 10_000
"""Strings of one part, which can be seen again alone."""
BIG_EVERY = 1_000
"""Among so many strings is one of a length near the cap."""
DEPTH = 100_000

type Decode = Callable[[bytes], object]

VALID = tuple(
    encode(message)
    for message in (
        {"op": "hello", "version": 1, "client": "policy", "human": False, "token": "t" * 64},
        {"op": "command", "joint_target": np.linspace(-90, 90, 6), "stamp": 12.5},
        {"op": "observe", "frames": True},
        {"op": "mode", "mode": "RUN"},
        {"stamp": 1.0, "frames": {"front": {"jpeg": bytes(300), "stamp": 0.9}}, "human": False},
        {"state": np.zeros((2, 3, 4), np.float32), "done": np.array([True, False]), "n": [1, [2]]},
        {"names": {"a": {"b": {"c": [None, -1, 2**63, 1e300, float("nan")]}}}},
    )
)
DTYPES = ("<f8", "<f4", "|u1", "|b1", "<i8", "O", "|O", ">f8", "<U4", "V8", "f8,f8", "<c16", "", 8)
SIZES = (0, 1, 2, 3, 6, -1, 2**23, 2**31, 2**40, 2**63, 1.0, True, None, "6", [6])


class Part(NamedTuple):
    """What one process is told to do."""

    seed: int
    number: int
    strings: int
    decode: Decode


class Survived(NamedTuple):
    """What became of a part's strings."""

    faults: list[str]
    peak: int
    """Most bytes that decoding one string has taken."""


def hostile_strings(effort: Effort, decode: Decode = decode_map) -> list[Row]:
    """N2: decode strings of all sorts; only `WireError` may come out, and little memory go in."""
    count = effort.count(quick=20_000, full=10_000_000)
    parts = [
        Part(effort.seed, number, min(PART, count - number * PART), decode)
        for number in range(-(-count // PART))
    ]
    faults: list[str] = []
    peak = 0
    try:
        for survived in effort.spread(survive, parts, f"N2 parts of {PART:,}"):
            faults += survived.faults
            peak = max(peak, survived.peak)
    except BrokenProcessPool as error:
        faults.append(f"seed={effort.seed}: a process that decodes has died: {error}")
    row = Row(
        id="N2",
        promise="the wire's decoder never crashes nor takes more than twice its cap",
        asked=f"0 of 10 M strings; ≤{2 * MAX_BYTES / 1e6:.1f} MB",
        measured=f"{len(faults)} of {count:,}; at most {peak / 1e6:.1f} MB",
        trials=count,
        full=10_000_000,
        broken=len(faults),
        how="Random bytes, damaged messages, hostile dtypes and shapes, lists and maps nested "
        f"{DEPTH:,} deep, lengths that lie, and one string in {BIG_EVERY:,} near or over the cap "
        f"of {MAX_BYTES / 1e6:.1f} MB or of items; only `WireError` may come out.",
        noise="memory as tracemalloc sees it, the string itself not counted",
        examples=tuple(faults[:MOST_EXAMPLES]),
    )
    return [row]


def survive(part: Part) -> Survived:
    """Decode the strings of one part."""
    rng = random.Random(f"{part.seed} {part.number}")  # noqa: S311 - strings, no secrets
    faults: list[str] = []
    peak = 0
    tracemalloc.start()
    for number in range(part.strings):
        data = big(rng) if number % BIG_EVERY == BIG_EVERY - 1 else hostile(rng)
        fault, taken = _decoded(part.decode, data)
        peak = max(peak, taken)
        if fault:
            where = f"seed={part.seed} part {part.number} string {number}"
            faults.append(f"{where}: {fault}, {data[:24].hex()}…"[:200])
    tracemalloc.stop()
    return Survived(faults, peak)


def _decoded(decode: Decode, data: bytes) -> tuple[str, int]:
    """Return what went wrong in decoding, and how many bytes it took at most."""
    tracemalloc.reset_peak()
    before, fault = tracemalloc.get_traced_memory()[0], ""
    try:
        decode(data)
    except WireError:
        pass
    except Exception as error:  # noqa: BLE001 - any other is what is looked for
        fault = f"{type(error).__name__}: {error}"[:80]
    taken = tracemalloc.get_traced_memory()[1] - before
    if not fault and taken > 2 * MAX_BYTES:
        fault = f"{taken:,} bytes for a string of {len(data):,}"
    return fault, taken


def hostile(rng: random.Random) -> bytes:
    """Return a string of some sort that a decoder may stumble over."""
    return rng.choice(_KINDS)(rng)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return a message with a few bytes changed, cut out, put in or sent twice."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.choice((1, 1, 2, 8)))
        match rng.randrange(10):
            case 0:
                del found[at:end]
            case 1:
                found[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                found[at:at] = found[at:end]
            case 3:
                del found[at:]
            case _:
                found[at:end] = rng.randbytes(end - at)
    return bytes(found)


def hostile_array(rng: random.Random) -> object:
    """Return what claims to be an array, or the number of one."""
    parts: dict[object, object] = {
        rng.choice((b"__ndarray__", b"__ndarray__", b"__npgeneric__")): True,
        b"data": rng.choice((bytes(48), bytes(48), rng.randbytes(rng.randint(0, 64)), "text")),
        b"dtype": rng.choice(DTYPES),
        b"shape": [rng.choice(SIZES) for _ in range(rng.randint(0, 6))],
    }
    if rng.random() < 0.1:
        parts.pop(rng.choice(list(parts)))
    return parts


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(0, 200))


def _damaged(rng: random.Random) -> bytes:
    return damaged(rng, rng.choice(VALID))


def _array(rng: random.Random) -> bytes:
    data: bytes = msgpack.packb({"joint_target": hostile_array(rng)}, use_bin_type=True)
    return data if rng.random() < 0.8 else damaged(rng, data)


def _tokens(rng: random.Random) -> bytes:
    """Return tokens of any kind with lengths that often lie."""
    parts: list[bytes] = []
    for _ in range(rng.randint(1, 40)):
        head = rng.randrange(0x80, 0x100)
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}.get(head, 0)
        width = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}.get(head, width)
        length = rng.choice((0, 1, 2, 5, 2 ** (8 * width) - 1)) if width else 0
        body = rng.randbytes(min(length, 8)) if head < 0xDC else b""
        parts.append(bytes([head]) + length.to_bytes(width) + body)
    return b"".join(parts)


def _deep(rng: random.Random) -> bytes:
    unit = rng.choice((b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdf\0\0\0\1\xa0"))
    return unit * rng.choice((15, 16, 17, 500, DEPTH)) + b"\xc0"


def _many(rng: random.Random) -> bytes:
    """Return more items than a message may have, or nearly."""
    count = rng.choice((15, 4094, 4095, 4096, 4097, 2**16, 2**32 - 1))
    head, item = rng.choice(((0xDD, b"\x80"), (0xDD, b"\xa1a"), (0xDF, b"\xa1a\x90")))
    return struct.pack(">BI", head, count) + item * min(count, 5_000)


_KINDS = (_noise, _damaged, _damaged, _damaged, _array, _array, _tokens, _deep)


def big(rng: random.Random) -> bytes:
    """Return a string with a length near or over the cap, or with as many items."""
    room = MAX_BYTES - rng.choice((-1, 0, 0, 60, 80, 100, 2_000))
    kind = rng.randrange(7)
    match kind:
        case 0:
            return _many(rng)
        case 1:
            data = encode({"": bytes(room - 8)})
        case 2 | 3:
            text = "a" * rng.choice((1_000, 60_000)) + rng.choice("\u00e9\u20ac\U0001f600")
            data = encode({"": [text] * (room // (len(text) + 8))})
        case 4 | 5:
            dtype, size = (bool, 1) if kind == 4 else (np.float64, 8)
            data = encode({"": np.ones((room - 66) // size, dtype)})
        case _:
            data = encode({"": [np.ones(room // 500, np.uint8)] * 450})
    return data if rng.random() < 0.8 else data[: rng.randrange(len(data))]
