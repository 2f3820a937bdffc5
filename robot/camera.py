"""Frames with capture times, and their JPEG form."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Halving the colours, the default, puts a small cube up to 50 mm off.
_WHOLE_COLOURS = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One picture of one camera."""

    image: NDArray[np.uint8]
    """RGB, shape (height, width, 3)."""
    stamp: float
    """When it was taken, seconds of the arm's own clock."""


def encode_jpeg(image: NDArray[np.uint8], *, quality: int = 90) -> bytes:
    """Return an RGB image, shape (height, width, 3), as JPEG; `quality` is from 1 to 100."""
    settings = (cv2.IMWRITE_JPEG_QUALITY, quality, *_WHOLE_COLOURS)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise ValueError(f"an image of shape {image.shape} does not encode as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """Return a JPEG as an RGB image, shape (height, width, 3); raise ValueError if it is none."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{len(data)} bytes do not decode as JPEG")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
