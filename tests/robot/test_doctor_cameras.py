import time

import cv2
import numpy as np
import pytest

from robot.doctor.camera_watch import Watched, contact_sheet, watch
from robot.doctor.cameras import check_cameras
from robot.doctor.report import Status

GRAIN = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
SETTING = {"type": "opencv", "index_or_path": "/dev/v4l/by-path/one", "fps": 30}
WHERE = "conf/arm/arm01.yaml"


def seen_at(rate, *, seconds=2.0, image=GRAIN, moving=True, without=()):
    """Return what a camera gave at a steady rate, less some of its pictures."""
    watched = Watched()
    for number in range(int(rate * seconds)):
        if number not in without:
            watched.take(np.roll(image, number if moving else 0, axis=1), number / rate)
    return watched


def found(seen, **settings):
    """Return the checks of one camera beside a healthy one, by code."""
    cameras = {"front": SETTING | settings, "side": SETTING}
    checks = check_cameras(cameras, {"front": seen, "side": seen_at(30)}, WHERE)
    return {c.code: c for c in checks if c.status is not Status.PASS}


def test_two_steady_cameras_pass():
    assert found(seen_at(30, image=255 - GRAIN)) == {}


@pytest.mark.parametrize(("rate", "status"), [(24, "WARN"), (10, "FAIL")])
def test_a_slow_camera_among_others_is_sent_to_another_usb_controller(rate, status):
    check = found(seen_at(rate))["cameras.slow"]
    assert check.status == status
    assert f"{rate}.0 pictures/s with all cameras running; expected 30" in check.sentence
    assert "another USB controller" in check.fix


def test_a_gap_is_counted_in_pictures():
    check = found(seen_at(30, seconds=10, without={100, 101, 102, 103, 104}))["cameras.gap"]
    assert check.sentence == "front left out 5 pictures in a row once"


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (np.zeros_like(GRAIN), "cameras.black"),
        (np.full_like(GRAIN, 255), "cameras.over_exposed"),
        (np.full_like(GRAIN, 120), "cameras.blurred"),
    ],
)
def test_bad_pictures_are_told_apart(image, code):
    assert code in found(seen_at(30, image=image))


def test_a_frozen_camera_is_told():
    assert "cameras.frozen" in found(seen_at(30, moving=False))


def test_a_drawn_camera_may_stand_still():
    assert "cameras.frozen" not in found(seen_at(30, moving=False), type="twin")


def test_one_device_under_two_names_is_told():
    assert "front and side give the same picture" in found(seen_at(30))["cameras.same"].sentence


@pytest.mark.parametrize("path", [0, "/dev/video2"])
def test_a_number_that_may_change_is_no_identity(path):
    assert "by-path" in found(seen_at(30), index_or_path=path)["cameras.name"].fix


def test_a_camera_without_pictures_is_a_missing_device():
    seen = Watched()
    seen.error = "failed to open"
    check = found(seen)["cameras.missing"]
    assert check.device_missing
    assert "failed to open" in check.sentence
    assert check.fix.startswith("lerobot-find-cameras opencv")


class Camera:
    """Gives pictures until it fails."""

    def __init__(self, pictures):
        self._left, self.closed = pictures, False

    def next(self, wait_s):
        if not self._left:
            raise OSError("unplugged")
        self._left -= 1
        time.sleep(0.002)
        return GRAIN

    def close(self):
        self.closed = True


def test_all_cameras_are_read_at_once_and_closed():
    cameras = {"front": Camera(10**6), "side": Camera(5)}
    seen = watch(dict.fromkeys(cameras, SETTING), lambda name, _: cameras[name], 0.2)
    assert len(seen["front"].stamps) > len(seen["side"].stamps) == 4
    assert seen["side"].error == "unplugged"
    assert all(camera.closed for camera in cameras.values())


def test_a_camera_that_does_not_open_leaves_the_others_alone():
    def opener(name, _):
        if name == "side":
            raise OSError("busy")
        return Camera(3)

    seen = watch({"front": SETTING, "side": SETTING}, opener, 0.2)
    assert (len(seen["front"].stamps), seen["side"].error) == (2, "busy")


def test_the_contact_sheet_holds_a_tile_for_every_camera(tmp_path):
    seen = {"front": seen_at(30), "side": Watched()}
    sheet = cv2.imread(str(contact_sheet(tmp_path / "run" / "sheet.png", seen)))
    assert sheet.shape == (268, 640, 3)


def test_without_any_picture_there_is_no_contact_sheet(tmp_path):
    assert contact_sheet(tmp_path / "sheet.png", {"front": Watched()}) is None
