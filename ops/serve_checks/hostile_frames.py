"""Frames that no friend would send a policy server, each made from a seed and its number alone."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import cv2
import msgpack
import numpy as np
from numpy.typing import NDArray

from ops.safety_checks.hostile import big, damaged, hostile, hostile_array
from ops.serve_checks.policies import Seeing
from policy_server.messages import JPEG, RT
from robot.camera import encode_jpeg
from robot.wire import encode

SPEC = Seeing().spec
BIG_EVERY = 2000
"""One frame in so many is near the cap of a message."""
SIDE = 16
"""Of pictures, pixels: frames are small, so that there are many."""
LARGEST = (4096, 4096)
SCANS = 20_000
ODDITIES = (
    *(None, True, -1, 0, 2**63, -(2**63), 1e308, float("nan"), float("inf")),
    *("", "x" * 3000, "\x00", "\U0001f9be" * 20, "lift", JPEG),
)

type Make = Callable[[random.Random], bytes]


def frame(seed: int, number: int) -> bytes:
    """Return a frame, the same one for the same seed and number."""
    rng = random.Random(f"{seed} {number}")  # noqa: S311 - frames, no secrets
    if number % BIG_EVERY == BIG_EVERY - 1:
        return rng.choice((big, _large_jpeg))(rng)
    return rng.choice(_KINDS)(rng)


def observation() -> dict[str, object]:
    """Return what a friend asks: two pictures, joints, a sentence, and rows to go on from."""
    picture = np.full((SIDE, SIDE, 3), 7, np.uint8)
    return {
        "images": {"base": picture, "wrist": {JPEG: _jpeg()}},
        "joint_pos": np.linspace(-1.0, 1.0, 6).astype(np.float32),
        "prompt": "Lift the red cube.",
        RT: {
            "seq": 3,
            "step0": 40,
            "observed_at": 12.5,
            "slack_ms": 250.0,
            "inference_delay": 2,
            "prefix": np.ones((3, 6), np.float32),
        },
    }


@cache
def _valid() -> tuple[bytes, ...]:
    openpi = {
        "observation/image": np.zeros((SIDE, SIDE, 3), np.uint8),
        "observation/wrist_image": np.zeros((3, SIDE, SIDE), np.uint8),
        "observation/state": np.zeros(6),
        "prompt": "Lift.",
    }
    reset = {"endpoint": "reset", RT: {"reset": True, "seq": 1}}
    reply = {"actions": np.ones((4, 6), np.float32), "server_timing": {"total_ms": 1.0}}
    return tuple(encode(message) for message in (observation(), openpi, reset, reply))


@cache
def _jpeg(side: int = SIDE) -> bytes:
    ramp = np.arange(side * side * 3, dtype=np.uint32).reshape(side, side, 3)
    return encode_jpeg((ramp % 251).astype(np.uint8))


def _damaged(rng: random.Random) -> bytes:
    return damaged(rng, rng.choice(_valid()))


def _cut(rng: random.Random) -> bytes:
    data = rng.choice(_valid())
    return data[: rng.randrange(len(data))]


def _flipped(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(_valid()))
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _spoiled(rng: random.Random) -> bytes:
    """Return an observation with one value, or two, replaced by something else."""
    message = observation()
    for _ in range(rng.choice((1, 1, 2))):
        own = cast("list[dict[str, object]]", [message["images"], message[RT]])
        place = rng.choice([message, *[inner for inner in own if type(inner) is dict]])
        names = [*place, "state", "task", "endpoint", "seq", "reset", "goal"]
        place[rng.choice(names)] = _value(rng)
    return _packed(message)


def _value(rng: random.Random, depth: int = 0) -> object:
    """Return something that a client may mean by anything."""
    if depth < 3 and rng.random() < 0.3:
        return _nested(rng, depth)
    match rng.randrange(5):
        case 0:
            return rng.choice(ODDITIES)
        case 1:
            return hostile_array(rng)
        case 2:
            return _array(rng)
        case 3:
            return rng.randbytes(rng.randrange(40))
        case _:
            return {JPEG: _broken_jpeg(rng)}


def _nested(rng: random.Random, depth: int) -> object:
    match rng.randrange(3):
        case 0:
            return [_value(rng, depth + 1) for _ in range(rng.randrange(5))]
        case 1:
            return {str(k): _value(rng, depth + 1) for k in range(rng.choice((0, 1, 9)))}
        case _:
            return {RT: _value(rng, depth + 1), JPEG: _value(rng, depth + 1)}


def _array(rng: random.Random) -> object:
    """Return an array that is sound, of a shape and dtype that may not be wanted."""
    shape = tuple(rng.choice((0, 1, 3, 6, 8, SIDE, 40)) for _ in range(rng.randrange(5)))
    dtype = rng.choice((np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_))
    array = np.full(shape, rng.choice((0, 1)), dtype)
    if array.size and array.dtype.kind == "f" and rng.random() < 0.3:
        array.flat[0] = rng.choice((np.nan, np.inf, -np.inf, 1e38))
    return array


def _broken_jpeg(rng: random.Random) -> bytes:
    data = bytearray(_jpeg())
    match rng.randrange(4):
        case 0:
            return damaged(rng, bytes(data))
        case 1:
            at = data.find(b"\xff\xc0") + 5
            data[at : at + 4] = bytes(rng.choice((0, 1, 16, 255)) for _ in range(4))
        case 2:
            middle = len(data) // 2
            data[middle:middle] = rng.randbytes(rng.randrange(200))
        case _:
            data[2:-2] = rng.randbytes(rng.randrange(300))
    return bytes(data)


def _large_jpeg(rng: random.Random) -> bytes:
    """Return an observation with pictures of many pixels, or of many passes, in few bytes."""
    message, kind = observation(), rng.randrange(3)
    if kind == 2:
        message["images"] = {"base": {JPEG: _many_scans(64)}, "wrist": {JPEG: _many_scans(64)}}
    else:
        jpeg = _flat_jpeg(LARGEST if kind else (1024, 1024))
        message["images"] = {"base": {JPEG: jpeg}, "wrist": {JPEG: jpeg}}
    return encode(message)


@cache
def _flat_jpeg(size: tuple[int, int]) -> bytes:
    return encode_jpeg(np.full((*size, 3), 99, np.uint8))


@cache
def _many_scans(side: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    grey = np.full((side, side), 99, np.uint8)
    done, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    whole = data.tobytes()
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * SCANS + whole[-2:] if done else whole


def _twice(rng: random.Random) -> bytes:
    """Return a map in which a name comes more than once."""
    names = ["joint_pos", "prompt", "images", RT, "seq"]
    pairs = [(rng.choice(names), _value(rng)) for _ in range(rng.randrange(2, 12))]
    body = b"".join(_packed(name) + _packed(value) for name, value in pairs)
    return bytes([0x80 | len(pairs)]) + body


def _extension(rng: random.Random) -> bytes:
    size = rng.choice((1, 2, 4, 8, 16, 30))
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}
    head = bytes([fixed[size]]) if size in fixed else bytes([0xC7, size])
    value = head + bytes([rng.randrange(256)]) + rng.randbytes(size)
    return b"\x81" + _packed(rng.choice(("joint_pos", "prompt", "x"))) + value


def _claims(rng: random.Random) -> bytes:
    """Return an observation in which a length claims far more than there is, or far less."""
    data = rng.choice(_valid())
    head = rng.choice((0xC6, 0xDB, 0xDD, 0xDF, 0xC5, 0xDA, 0xDC, 0xDE))
    width = 4 if head in {0xC6, 0xDB, 0xDD, 0xDF} else 2
    claim = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), len(data)))
    at = rng.randrange(len(data))
    return data[:at] + bytes([head]) + claim.to_bytes(width) + data[at:]


def _packed(value: object) -> bytes:
    """Return a value as msgpack, whatever our own wire would say of it."""

    def default(other: object) -> object:
        if isinstance(other, np.ndarray):
            array = cast("NDArray[Any]", other)
            parts: dict[object, object] = {b"__ndarray__": True, b"data": array.tobytes()}
            return parts | {b"dtype": array.dtype.str, b"shape": array.shape}
        raise TypeError(type(other).__name__)

    return msgpack.packb(value, default=default, use_bin_type=True)


_KINDS: tuple[Make, ...] = (
    *(hostile, _damaged, _cut, _flipped, _flipped, _twice, _extension, _claims),
    *(_spoiled, _spoiled, _spoiled, _spoiled),
)
