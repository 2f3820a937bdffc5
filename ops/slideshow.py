"""A camera of LeRobot's, of type `slideshow`, that shows ready pictures at the pace of a webcam.

What it costs is a copy of each picture: what a webcam's driver spends on receiving and decoding
one is not in it.
"""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from lerobot.cameras.camera import Camera  # pyright: ignore[reportMissingTypeStubs]
from lerobot.cameras.configs import CameraConfig  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

type Image = NDArray[np.uint8]

SLIDES = 30
"""Different pictures, shown in turn for ever."""
_BLUR_PX = 2.0
"""Of noise: it makes JPEGs of 100 kB, as a desk before a webcam does at 640x480."""


@CameraConfig.register_subclass("slideshow")  # pyright: ignore[reportUnknownMemberType]
@dataclass(kw_only=True)
class SlideshowConfig(CameraConfig):
    """How fast and how large the pictures are: 640x480 at 30 a second, unless it says else."""


class Slideshow(Camera):
    """Has taken picture `n` at the moment `n / fps` of the monotonic clock, for every `n`."""

    def __init__(self, config: SlideshowConfig) -> None:
        """Prepare nothing yet."""
        super().__init__(config)
        self.capture_stamp: float | None = None
        """When the last picture was taken, `time.monotonic()`."""
        self._fps, self._size = config.fps or 30, (config.height or 480, config.width or 640)
        self._slides: tuple[Image, ...] = ()
        self._shown = 0

    @property
    def is_connected(self) -> bool:
        """Return whether there are pictures."""
        return bool(self._slides)

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        """Return nothing: there is no device."""
        return []

    def connect(self, warmup: bool = True) -> None:  # noqa: ARG002 - nothing has to warm up
        """Make the pictures."""
        self._slides = slides(*self._size)

    def read(self) -> Image:
        """Wait for the next picture and return it."""
        return self.async_read()

    def async_read(self, timeout_ms: float = 200) -> Image:  # noqa: ARG002 - it is never late
        """Return the newest picture, once it is another than the last one returned."""
        if not self._slides:
            raise ConnectionError("the slideshow is not connected")
        time.sleep(max(0.0, (self._shown + 1) / self._fps - time.monotonic()))
        self._shown = taken_by(time.monotonic(), self._fps)
        self.capture_stamp = self._shown / self._fps
        return self._slides[self._shown % SLIDES].copy()

    def disconnect(self) -> None:
        """Forget the pictures."""
        self._slides = ()


def taken_by(moment: float, fps: float) -> int:
    """Return the number of the newest picture that was taken by a moment, seconds."""
    # A recording gives a picture to a row of the same moment, whatever the clock rounds.
    return int((moment + 1e-6) * fps)


@cache
def slides(height: int, width: int) -> tuple[Image, ...]:
    """Return the pictures, RGB, shape (height, width, 3): the same in every process."""
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(SLIDES))
    return tuple(np.asarray(cv2.GaussianBlur(one, (0, 0), _BLUR_PX), np.uint8) for one in noise)
