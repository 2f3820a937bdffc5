"""What can be wrong with a picture, and with where a camera looks."""

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from robot.vision import HSV_RANGES, Image, colour_mask, frame_fault, to_hsv

type Grey = NDArray[np.float32]

CHECKED_HEIGHT = 96
"""Sharpness is judged at this height: what is lost below it is not missed, pixels."""
SHARP_ABOVE = 0.28
"""Deviation of the Laplacian over that of the picture itself; less is blurred at any exposure."""
DARK_BELOW = 32.0
"""Brightness under which too few grey levels are left to bring back."""
CLIPPED_ABOVE = 0.25
"""Share of pixels at the upper end of a channel from which on a picture is over-exposed."""
BRIGHTNESS_PERCENTILE = 70.0
"""The grey level that stands for the exposure: neither a dark background nor a lamp moves it."""
GAINS = (0.5, 4.0)
"""How far an exposure is corrected."""
EXPOSURE = 105.0
"""The brightness that pictures are brought to."""
MOVED_PX = 5.0
"""A camera that shows everything farther aside, counted at `CHECKED_HEIGHT`, has been moved."""
FARTHEST_SHARE = 1 / 6
"""Of the picture's height, the largest shift that is looked for."""


def picture_fault(picture: Image) -> str | None:
    """Return what makes one picture, RGB, useless: black, too dark, over-exposed, blurred."""
    fault = frame_fault(picture)
    if fault is not None:
        return fault
    if float((picture >= 250).any(axis=2).mean()) > CLIPPED_ABOVE:
        return "over-exposed"
    grey = grey_of(_checked(picture))
    if brightness(grey) < DARK_BELOW:
        return "too dark"
    fine = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))[1][0, 0]
    coarse = cv2.meanStdDev(grey)[1][0, 0]
    return "blurred" if float(fine) < SHARP_ABOVE * float(coarse) else None


def _checked(picture: Image) -> Image:
    """Return a picture at `CHECKED_HEIGHT`, or as it is where it is smaller."""
    height, width = picture.shape[:2]
    scale = min(1.0, CHECKED_HEIGHT / height)
    return resized(picture, (round(scale * width), round(scale * height)))


def brightness(grey: Grey) -> float:
    """Return the level, 0 to 255, that stands for the exposure of a grey picture."""
    step = max(1, grey.shape[0] // CHECKED_HEIGHT)
    return float(np.percentile(grey[::step, ::step], BRIGHTNESS_PERCENTILE))


def grey_of(picture: Image) -> Grey:
    """Return an RGB picture in grey, 0 to 255."""
    return cast(Grey, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32))


def resized(picture: Image, size: tuple[int, int]) -> Image:
    """Return a picture scaled to (width, height)."""
    if picture.shape[1::-1] == size:
        return picture
    shrinks = size[1] <= picture.shape[0]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cast(Image, cv2.resize(picture, size, interpolation=way))


def exposed(picture: Image, level: float | None) -> Image:
    """Return a picture with its brightness brought to `level`."""
    if level is None:
        return picture
    gain = float(np.clip(level / max(brightness(grey_of(picture)), 1.0), *GAINS))
    return cast(Image, cv2.convertScaleAbs(picture, alpha=gain))


def colour_share(picture: Image, colour: str) -> float:
    """Return what share of a picture has a colour, whatever the exposure."""
    lit = exposed(_checked(picture), EXPOSURE)
    return float((colour_mask(to_hsv(lit), HSV_RANGES[colour]) > 0).mean())


def edges_of(picture: Image) -> Grey:
    """Return how steep a picture is, without its coloured things and whatever its exposure."""
    hsv = to_hsv(exposed(picture, EXPOSURE))
    things = np.zeros(picture.shape[:2], np.uint8)
    for ranges in HSV_RANGES.values():
        things |= colour_mask(hsv, ranges)
    things = cast(Image, cv2.dilate(things, np.ones((3, 3), np.uint8)))
    grey = grey_of(cast(Image, cv2.inpaint(picture, things, 3, cv2.INPAINT_TELEA)))
    smooth: Any = cv2.GaussianBlur(grey, (0, 0), 1.0) / max(float(np.median(grey)), 1.0)
    smooth = np.clip(smooth, 0.0, 2.0)
    steep: list[Any] = [cv2.Sobel(smooth, cv2.CV_32F, *way) for way in ((1, 0), (0, 1))]
    return np.hypot(*steep)


def shift_px(reference: Grey, edges: Grey) -> float:
    """Return by how many pixels, at `CHECKED_HEIGHT`, a picture is beside its reference.

    The peak of the cross-correlation with half-whitened spectra (the generalised method of Knapp
    and Carter, 1976): whitened wholly, as in phase correlation proper, a bare table has no peak.
    Infinite for a picture of another size.
    """
    if reference.shape != edges.shape:
        return np.inf
    height, width = reference.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    a, b = (np.fft.fft2((image - image.mean()) * window) for image in (reference, edges))
    cross = b * np.conj(a)
    peaks = np.fft.fftshift(np.fft.ifft2(cross / np.sqrt(np.abs(cross) + 1e-9)).real)
    most = round(FARTHEST_SHARE * height)
    middle = peaks[
        height // 2 - most : height // 2 + most + 1, width // 2 - most : width // 2 + most + 1
    ]
    down, right = np.unravel_index(int(middle.argmax()), middle.shape)
    return float(np.hypot(down - most, right - most)) * CHECKED_HEIGHT / height
