"""Messages as msgpack with numpy arrays: openpi's wire form, safe on hostile bytes.

An array is `{b"__ndarray__": True, b"data": bytes, b"dtype": str, b"shape": tuple}`. Before
anything is built the bytes are surveyed: how deep, how many items, how long each claims to be.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgpack
import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 16
MAX_ITEMS = 4096
MAX_TEXT = 64 * 1024
"""Bytes of all texts in a message: a text can take four times its bytes."""
MAX_DIMENSIONS = 4
_DTYPES = ("|u1", "<i4", "<i8", "<f4", "<f8", "|b1")
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


class _Head(NamedTuple):
    """What the first byte of a token says."""

    kind: str
    """`number`, `text`, `bytes`, `list` or `map`."""
    length: int
    """Bytes or items that follow, where this byte says so."""
    width: int
    """Length of the count that follows, where it does not."""


def _heads() -> dict[int, _Head]:
    """Return what each first byte that is allowed says: extensions are not."""
    heads = {first: _Head("map", first & 0x0F, 0) for first in range(0x80, 0x90)}
    heads |= {first: _Head("list", first & 0x0F, 0) for first in range(0x90, 0xA0)}
    heads |= {first: _Head("text", first & 0x1F, 0) for first in range(0xA0, 0xC0)}
    alone = (*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100))
    heads |= dict.fromkeys(alone, _Head("number", 0, 0))
    numbers = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
    numbers |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    heads |= {first: _Head("number", length, 0) for first, length in numbers.items()}
    for kind, widths in (
        ("bytes", {0xC4: 1, 0xC5: 2, 0xC6: 4}),
        ("text", {0xD9: 1, 0xDA: 2, 0xDB: 4}),
        ("list", {0xDC: 2, 0xDD: 4}),
        ("map", {0xDE: 2, 0xDF: 4}),
    ):
        heads |= {first: _Head(kind, 0, width) for first, width in widths.items()}
    return heads


_HEADS = _heads()


class WireError(ValueError):
    """Bytes that are no message, or a value that no message can carry."""


def encode(message: object) -> bytes:
    """Return a message as bytes; raise `WireError` for what the wire has no form for."""
    try:
        return msgpack.packb(message, default=_pack, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(str(error)) from error


def decode(data: bytes, *, max_bytes: int = MAX_BYTES) -> object:
    """Return the message that bytes hold, arrays read-only; raise `WireError` if they hold none."""
    if len(data) > max_bytes:
        raise WireError(f"the message has {len(data)} bytes; expected at most {max_bytes}")
    _survey(data)
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, object_hook=_unpack)
    except WireError:
        raise
    except (ValueError, TypeError) as error:
        raise WireError(f"the message is no msgpack: {error}") from error


def decode_map(data: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, object]:
    """Return the message that bytes hold; raise `WireError` if it is no map of names."""
    message = decode(data, max_bytes=max_bytes)
    if not isinstance(message, dict):
        raise WireError(f"the message is a {type(message).__name__}; expected a map")
    names = cast("dict[object, object]", message)
    if not all(isinstance(name, str) for name in names):
        raise WireError("the message has names that are no text")
    return cast("dict[str, object]", message)


def _pack(value: object) -> object:
    if isinstance(value, np.ndarray):
        array = cast("NDArray[Any]", value)
        _require_dtype(array.dtype.str)
        return {
            _ARRAY: True,
            b"data": array.tobytes(),
            b"dtype": array.dtype.str,
            b"shape": array.shape,
        }
    if isinstance(value, np.generic):
        return cast("object", value.item())
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _unpack(value: dict[object, object]) -> object:
    if _ARRAY in value:
        return _array(value, value.get(b"shape"))
    if _SCALAR in value:
        return _array(value, [])[()]
    return value


def _array(value: Mapping[object, object], shape: object) -> NDArray[Any]:
    """Return the array that a map describes; it shares the map's bytes."""
    data, dtype = value.get(b"data"), value.get(b"dtype")
    if not isinstance(data, bytes) or not isinstance(dtype, str) or not isinstance(shape, list):
        raise WireError("an array has no data, dtype or shape")
    _require_dtype(dtype)
    sizes = cast("list[object]", shape)
    if len(sizes) > MAX_DIMENSIONS:
        raise WireError(f"an array has {len(sizes)} dimensions; expected {MAX_DIMENSIONS} at most")
    counts = [size for size in sizes if type(size) is int and 0 <= size <= MAX_BYTES]
    if len(counts) != len(sizes):
        raise WireError("an array has a size that is no count")
    if math.prod(counts) * np.dtype(dtype).itemsize != len(data):
        raise WireError(f"an array of shape {counts} has {len(data)} bytes of {dtype}")
    if dtype == "|b1" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise WireError("an array of truths has other values")
    return np.frombuffer(data, np.dtype(dtype)).reshape(counts)


def _require_dtype(dtype: str) -> None:
    if dtype not in _DTYPES:
        raise WireError(f"an array is of {dtype[:20]!r}; expected {', '.join(_DTYPES)}")


def _survey(data: bytes) -> None:
    """Raise `WireError` unless bytes are one whole message within all limits.

    What is built afterwards is then no larger than what was counted here.
    """
    at, items, texts = 0, 0, 0
    open_items = [1]  # still to come, of each list and map around this place
    open_maps = [False]
    while open_items:
        items += 1
        if items > MAX_ITEMS:
            raise WireError(f"the message has more than {MAX_ITEMS} items")
        is_name = open_maps[-1] and open_items[-1] % 2 == 0
        open_items[-1] -= 1
        began = at
        at, inside, is_map = _token(data, at, is_name=is_name)
        texts += at - began if _HEADS[data[began]].kind == "text" else 0
        if texts > MAX_TEXT:
            raise WireError(f"the message has over {MAX_TEXT} bytes of text")
        if inside:
            open_items.append(inside)
            open_maps.append(is_map)
        while open_items and not open_items[-1]:
            open_items.pop()
            open_maps.pop()
        if len(open_items) - 1 > MAX_DEPTH:
            raise WireError(f"the message is more than {MAX_DEPTH} deep")
    if at != len(data):
        raise WireError(f"the message has {len(data) - at} bytes too many")


def _token(data: bytes, at: int, *, is_name: bool) -> tuple[int, int, bool]:
    """Return where the next token begins, how many items are inside this one, and if by name."""
    head = _HEADS.get(data[at]) if at < len(data) else None
    if head is None:
        raise WireError("the message ends too early, or has an extension")
    if is_name and head.kind not in {"text", "bytes"}:
        raise WireError("the message has names that are no text")
    at += 1 + head.width
    count = int.from_bytes(data[at - head.width : at]) if head.width else head.length
    if at + count > len(data):
        raise WireError("the message ends too early")
    if head.kind == "list":
        return at, count, False
    if head.kind == "map":
        return at, 2 * count, True
    return at + count, 0, False
