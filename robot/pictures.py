"""JPEGs from strangers: their size before they are decoded, and only whole ones."""

import cv2

from robot.camera import decode_jpeg
from robot.vision import Image

START, END = b"\xff\xd8", b"\xff\xd9"
_BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""
_SIZES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers whose segment begins with precision, height and width."""


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from a JPEG's header, or None where it has none."""
    at = 2
    while data.startswith(START) and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _SIZES:
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width), int.from_bytes(height)
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return None


def whole_picture(data: bytes, width: int, height: int) -> Image | None:
    """Return a JPEG as RGB, shape (height, width, 3); None if cut, broken or of another size."""
    return any_picture(data) if jpeg_size(data) == (width, height) else None


def any_picture(data: bytes, *, max_side: int = 4096) -> Image | None:
    """Return a JPEG as RGB, shape (height, width, 3); None if cut, broken or too large."""
    size = jpeg_size(data)
    if size is None or max(size) > max_side or not data.endswith(END):
        return None
    try:
        return decode_jpeg(data)
    except (ValueError, cv2.error):
        return None
