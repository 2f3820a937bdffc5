"""Tables that differ from scene to scene."""

import numpy as np
import pytest

from robot.scene import Item, Layout
from robot.tracking import Tracker
from robot.twin import Twin
from robot.vision import Image

LAYOUT = Layout(thing=Item("cube", "red"), place=Item("bowl", "blue"))


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin(LAYOUT, variation=1.0)


def picture(twin: Twin, seed: int):
    twin.reset(seed=seed)
    return twin.frames()["front"].image


def test_every_scene_is_drawn_differently_and_a_seed_brings_it_back(twin: Twin) -> None:
    first, other = picture(twin, 1), picture(twin, 2)
    assert np.abs(first.astype(int) - other).mean() > 2
    np.testing.assert_array_equal(picture(twin, 1), first)


def test_other_twins_stay_as_they_were(twin: Twin) -> None:
    plain = Twin(LAYOUT)
    before = picture(plain, 3)
    picture(twin, 4)
    np.testing.assert_array_equal(picture(plain, 3), before)


def test_the_cameras_are_believed_to_stand_where_they_were_calibrated(twin: Twin) -> None:
    plain = Twin(LAYOUT)
    twin.reset(seed=5)
    for name, camera in twin.cameras.items():
        np.testing.assert_array_equal(camera.pos, plain.cameras[name].pos)


def test_the_arm_keeps_its_colour(twin: Twin) -> None:
    """Its plastic is yellow: strong in red and green, weak in blue."""
    plain = _yellow(picture(Twin(LAYOUT), 6))
    for seed in range(5):
        assert _yellow(picture(twin, seed)) > plain / 2


def _yellow(image: Image) -> int:
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    return int(((red > 60) & (green > 45) & (blue < green / 2)).sum())


def test_the_eyes_still_find_cube_and_bowl(twin: Twin) -> None:
    tracker = Tracker(twin.cameras, LAYOUT)
    for seed in range(10):
        twin.reset(seed=seed)
        tracker.reset()
        images = {name: frame.image for name, frame in twin.frames().items()}
        estimates = tracker.update(images)
        assert estimates.thing.seen
        assert np.linalg.norm(estimates.thing.pos - twin.truth().thing) < 0.03


def test_a_strength_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variation is 2\.0"):
        Twin(LAYOUT, variation=2.0)
