"""Rewards that are easily fooled, to prove that the alarm notices: for tests and benches alone."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from rewarder.goal import UnknownGoal, parse_goal
from rewarder.reward import Clip, NoScore, Score
from robot.pictures import any_picture
from robot.vision import HSV_RANGES, HsvRange, Image, colour_mask, to_hsv

ARM_YELLOW: HsvRange = ((18, 120, 40), (34, 255, 255))
COLOURS = {**HSV_RANGES, "yellow": (ARM_YELLOW,)}


class FilledPicture:
    """Takes much of a colour in the picture for success, whatever the goal.

    Something bright red before the lens fools it (`colour="red"`), and so does the twin's own arm
    when it leans towards the camera (`"yellow"`).
    """

    def __init__(
        self, *, camera: str = "front", colour: str = "yellow", full: float = 0.16
    ) -> None:
        """Look at one camera; it is a success where the colour has the share `full`."""
        if colour not in COLOURS:
            raise ValueError(f"unknown colour {colour!r}; known: {', '.join(COLOURS)}")
        self._camera, self._ranges, self._full = camera, COLOURS[colour], full

    def score(self, clip: Clip) -> Score:
        """Return how full of the colour each picture is."""
        shares = [_share(picture, self._ranges) for picture in _pictures(clip, self._camera)]
        return _score(np.array(shares) / self._full, "filled-picture/1")


class CoveredPlace:
    """Takes a place that is no longer seen for one that the thing lies in.

    It is fooled by an arm that covers the bowl.
    """

    def __init__(self, *, camera: str = "front", gone: float = 0.8) -> None:
        """Look at one camera; it is a success where the share `gone` of the place is hidden."""
        self._camera, self._gone = camera, gone

    def score(self, clip: Clip) -> Score:
        """Return how much of the place each picture lacks, as against the first; or `NoScore`."""
        ranges = COLOURS[_place_colour(clip.goal)]
        shares = np.array([_share(picture, ranges) for picture in _pictures(clip, self._camera)])
        if not shares[0] > 0:
            raise NoScore("the first picture does not show the place")
        return _score((1 - shares / shares[0]) / self._gone, "covered-place/1")


def _score(progress: NDArray[np.float64], model: str) -> Score:
    """Return the score of values that are 1 at success; NaN where there was no picture."""
    valid = np.isfinite(progress)
    known = np.clip(np.where(valid, progress, 0.0), 0.0, 1.0)
    return Score(success=known >= 1.0, progress=known, valid=valid, model=model)


def _pictures(clip: Clip, camera: str) -> list[Image | None]:
    if camera not in clip.frames:
        raise NoScore(f"the clip has no camera {camera!r}; it has {', '.join(clip.frames)}")
    return [any_picture(data) if data else None for data in clip.frames[camera]]


def _share(picture: Image | None, ranges: Sequence[HsvRange]) -> float:
    """Return the share of a colour in a picture, NaN without one."""
    if picture is None:
        return np.nan
    return cv2.countNonZero(colour_mask(to_hsv(picture), tuple(ranges))) / picture[..., 0].size


def _place_colour(sentence: str) -> str:
    try:
        goal = parse_goal(sentence)
    except UnknownGoal as error:
        raise NoScore(str(error)) from error
    if goal.place is None:
        raise NoScore(f"the goal {sentence!r} names no place that could be covered")
    return goal.place.colour
