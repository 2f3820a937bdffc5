import struct
import tracemalloc
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from robot.wire import (
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TEXT,
    WireError,
    decode,
    decode_map,
    encode,
)

DTYPES = st.sampled_from(["u1", "<i4", "<i8", "<f4", "<f8", "?"])
ARRAYS = arrays(DTYPES, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
)
MESSAGES = st.recursive(
    SCALARS | ARRAYS,
    lambda inside: (
        st.lists(inside, max_size=20) | st.dictionaries(st.text(max_size=5), inside, max_size=20)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def hostile_array(**changes):
    parts = {"data": bytes(8), "dtype": "<f8", "shape": (1,)} | changes
    return msgpack.packb({b"__ndarray__": True} | {k.encode(): v for k, v in parts.items()})


@settings(max_examples=60, deadline=None)
@given(MESSAGES)
def test_what_is_sent_arrives(message):
    assert same(decode(encode(message)), message)


def test_an_array_has_openpis_form():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert msgpack.unpackb(encode(array), strict_map_key=False) == {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": "<f4",
        b"shape": [2, 3],
    }


def test_openpis_scalars_are_read():
    scalar = {b"__npgeneric__": True, b"data": np.float32(1.5).tobytes(), b"dtype": "<f4"}
    assert decode(msgpack.packb(scalar)) == np.float32(1.5)


def test_arrays_that_arrive_are_read_only():
    array = decode(encode(np.zeros(3)))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, np.zeros(2, np.complex128), np.array(["a"]), np.array([object()]), 2**70],
)
def test_what_has_no_form_is_not_sent(value):
    with pytest.raises(WireError):
        encode({"value": value})


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "O"},
        {"dtype": "|O"},
        {"dtype": "<f2"},
        {"dtype": ">f8"},
        {"dtype": "<U4"},
        {"dtype": "V8"},
        {"dtype": "f8,f8"},
        {"dtype": ""},
        {"dtype": 8},
        {"dtype": None},
        {"shape": (2,)},
        {"shape": (-1, -1)},
        {"shape": (-1,)},
        {"shape": (1, 1, 1, 1, 1)},
        {"shape": (2**40, 2**40)},
        {"shape": (2**63, 0)},
        {"shape": (True,)},
        {"shape": (1.0,)},
        {"shape": "1"},
        {"shape": None},
        {"data": bytes(7)},
        {"data": "12345678"},
        {"data": None},
        {"dtype": "|b1", "shape": (8,), "data": b"\x02" * 8},
    ],
)
def test_an_array_that_is_none_is_refused(changes):
    with pytest.raises(WireError):
        decode(hostile_array(**changes))


def test_an_array_may_be_empty():
    assert decode(hostile_array(shape=(0, 5), data=b"")).shape == (0, 5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02",
        b"\x01\x02",
        b"\x81\x01\x02",
        b"\x81\x90\x02",
        b"\x81\xc0\x02",
        b"\xd4\x01\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc7\x04\x01\x00\x00\x00\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc4",
        b"\xa2\xff\xfe",
        b"\xdd" + struct.pack(">I", MAX_ITEMS + 1) + b"\xc0" * (MAX_ITEMS + 1),
        b"\xdb" + struct.pack(">I", MAX_TEXT + 1) + b"a" * (MAX_TEXT + 1),
        b"\x91" * (MAX_DEPTH + 1) + b"\xc0",
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1a" * 100_000 + b"\xc0",
    ],
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(WireError):
        decode(data)


def test_lists_may_be_as_deep_as_allowed():
    assert decode(b"\x91" * MAX_DEPTH + b"\xc0") is not None


def test_a_message_that_is_too_long_is_refused():
    with pytest.raises(WireError, match="at most 10"):
        decode(encode("x" * 20), max_bytes=10)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    with suppress(WireError):
        decode(data)


@settings(max_examples=60, deadline=None)
@given(MESSAGES, st.data())
def test_a_damaged_message_is_another_one_or_refused(message, data):
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        decode(bytes(damaged))


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\x00\x0f\xff\xf0" + b"\xdd\x00\x0f\xff\x00" * 12 + b"\xc0" * 2**20,
        b"\xdf\x00\x07\xff\xf0" + b"\xa0\xdf\x00\x07\xff\x00" * 12 + b"\xc0" * 2**20,
        encode(["a" * 60_000 + "\U0001f600"] * 17),
        encode({"jpeg": bytes(2**20)}),
        encode(np.zeros(2**17)),
        b"\xc6\x7f\xff\xff\xff" + bytes(2**20),
    ],
)
def test_no_message_takes_more_than_twice_its_length(data):
    tracemalloc.start()
    with suppress(WireError):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(data) + 64 * 1024


@pytest.mark.parametrize("message", [[1], "x", None, {b"a": 1}, np.zeros(2)])
def test_what_is_no_map_of_names_is_refused_where_one_is_expected(message):
    with pytest.raises(WireError):
        decode_map(encode(message))
