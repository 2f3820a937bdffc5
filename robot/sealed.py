"""Files that are there whole or not at all, and arrays that are safe to read from anybody."""

import errno
import fcntl
import io
import os
import secrets
import sys
import tokenize
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as numpy_format
from numpy.typing import NDArray

npy: Any = numpy_format  # untyped in numpy's stubs

type Values = NDArray[Any] | Sequence[bytes]
type Write = Callable[[IO[bytes]], object]

MAX_FILE_BYTES = 512 * 2**20
"""Larger files are not read: an episode is about one megabyte."""


class Damaged(ValueError):
    """Bytes that are no complete file of ours."""


class DiskFull(OSError):
    """There is no room left to seal a file; nothing of it was kept."""


def seal(path: Path, data: bytes) -> None:
    """Put `data` at `path` durably: after a crash or power cut the file is whole or absent."""
    seal_written(path, lambda file: file.write(data))


def seal_written(path: Path, write: Write) -> None:
    """Put what `write` writes at `path`, as durably as `seal`."""
    try:
        _write_then_rename(path, write)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sentence = "no room for it; nothing was written, free some space and go on"
        raise DiskFull(error.errno, sentence, str(path)) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _flush_folder(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Remove what writers that died have left half written; return what was removed."""
    return [path for path in folder.glob(".*.tmp") if _removed_if_dead(path)]


def pack(arrays: Mapping[str, Values]) -> bytes:
    """Return arrays as an uncompressed `.npz`; the same arrays give the same bytes."""
    file = io.BytesIO()
    write_arrays(file, arrays)
    return file.getvalue()


def write_arrays(file: IO[bytes], arrays: Mapping[str, Values]) -> None:
    """Write arrays as `pack` does; what comes as pieces becomes one array of their bytes.

    Pieces are written one by one: to copy a minute of video at once would keep every other thread
    from running for as long as an arm lets its driver be silent.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_array(member, values)


def unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of `pack`, read-only; raise `Damaged`; allocate no more than `data`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _refuse_bombs(archive, len(data))
            return {
                member.filename.removesuffix(".npy"): _array(archive.read(member))
                for member in archive.infolist()
            }
    except (
        zipfile.BadZipFile,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        OverflowError,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
        tokenize.TokenError,
        OSError,
    ) as error:
        raise Damaged(f"the file is damaged or was cut short: {error}") from error


def read_limited(path: Path) -> bytes:
    """Return a file's bytes; raise `Damaged` if it is larger than any of ours."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise Damaged(f"the file has {size} bytes, at most {MAX_FILE_BYTES} are expected")
    return path.read_bytes()


def _refuse_bombs(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Damaged("the arrays are compressed, which ours never are")
    if sum(member.file_size for member in members) > size:
        raise Damaged("the arrays claim more bytes than the file has")
    if len({member.filename for member in members}) != len(members):
        raise Damaged("two arrays have one name")


def _array(data: bytes) -> NDArray[Any]:
    """Return one `.npy`; numpy's own reader would allocate whatever the header claims."""
    file = io.BytesIO(data)
    if npy.read_magic(file) != (1, 0):
        raise Damaged("an array is in a format that ours never are in")
    shape, column_major, dtype = npy.read_array_header_1_0(file)
    if dtype.hasobject or (column_major and len(shape) > 1):
        raise Damaged(f"an array of {dtype} is stored in a way that ours never are")
    if any(side < 0 for side in shape):
        raise Damaged(f"an array claims the shape {shape}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


def _write_array(member: IO[bytes], values: Values) -> None:
    if isinstance(values, np.ndarray):
        npy.write_array(member, np.asarray(values, order="C"), allow_pickle=False)
        return
    shape = (sum(len(piece) for piece in values),)
    npy.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for piece in values:
        member.write(piece)


def _write_then_rename(path: Path, write: Write) -> None:
    temporary, file = _open_temporary(path)
    try:
        with file:
            write(file)
            file.flush()
            _flush(file.fileno())
            # Renamed while the lock is held, so that no sweep takes the file away in between.
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _open_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """Open a file beside `path` under a lock that ends with this process, however that ends."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        # A sweep may have taken the file for abandoned before it was locked.
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()


def _removed_if_dead(temporary: Path) -> bool:
    try:
        with temporary.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _flush(descriptor: int) -> None:
    if sys.platform == "darwin":
        # There fsync leaves the data in the drive's own cache, which a power cut empties.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
