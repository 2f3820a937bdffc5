import contextlib
import time

import numpy as np
import pytest
from lerobot.cameras.configs import CameraConfig
from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from robot.emulator.twin_body import TwinBody
from robot.emulator.twin_camera import TwinCamera, TwinCameraConfig
from robot.emulator.twin_state import NoState, TwinState, TwinStateReader, TwinStateWriter
from robot.scene import Item, Layout
from robot.twin import NoRenderer, Twin
from tests.robot.emulated import until

RED = Layout(thing=Item("cube", "red"))
GREEN = Layout(thing=Item("cube", "green"), place=Item("bowl", "blue"))


class Emulation:
    """What an emulator writes, on demand."""

    def __init__(self, folder):
        self.path = folder / "arm.state"
        self.body = TwinBody(RED)
        self.writer = TwinStateWriter(self.path)
        self.write()

    def write(self, *, stamp=None, **faults):
        qpos, place = self.body.picture()
        state = TwinState(
            stamp=time.monotonic() + 3600 if stamp is None else stamp,
            time=self.body.time,
            qpos=qpos,
            flat_place=place,
            layout=self.body.layout,
            camera_faults=faults,
        )
        self.writer.write(state)


@pytest.fixture
def emulation(tmp_path):
    return Emulation(tmp_path)


@pytest.fixture
def camera(emulation):
    made = TwinCamera(TwinCameraConfig(state=str(emulation.path), view="front", fps=50))
    try:
        made.connect()
    except NoRenderer as error:
        pytest.skip(str(error))
    yield made
    if made.is_connected:
        made.disconnect()


def fresh(camera):
    """Return a frame that was begun after this call."""
    camera.read()
    return camera.read()


def exhaust(camera):
    """Take the frames that were begun before."""
    for _ in range(2):
        with contextlib.suppress(TimeoutError):
            camera.async_read(timeout_ms=100)


def test_lerobot_makes_the_camera_from_its_settings(emulation):
    config = CameraConfig.get_choice_class("twin")(state=str(emulation.path), view="side")
    (made,) = make_cameras_from_configs({"side": config}).values()
    assert (type(made), made.width, made.height, made.fps) == (TwinCamera, 96, 96, 20)


def test_the_camera_sees_what_the_twin_would_draw(camera, emulation):
    emulation.body.place_arm(np.array([0.0, -90.0, 90.0, 60.0, 90.0, 50.0]))
    emulation.body.step()
    emulation.write()
    frame = fresh(camera)
    twin = Twin(RED, cameras=("front",))
    twin.reset(seed=0)
    assert (frame.shape, frame.dtype) == ((96, 96, 3), np.uint8)
    # The arm is elsewhere, the table, the light and the cube are the same.
    same = np.abs(frame.astype(int) - twin.frames()["front"].image).max(-1) < 8
    assert 0.6 < same.mean() < 1.0


def test_another_layout_is_seen(camera, emulation):
    before = fresh(camera)
    emulation.body = TwinBody(GREEN)
    emulation.write()
    blue = [
        (frame[..., 2].astype(int) - frame[..., 0] > 60).sum() for frame in (before, fresh(camera))
    ]
    assert blue[1] > blue[0] + 50


def test_frames_say_when_they_were_seen(camera):
    before = time.monotonic()
    fresh(camera)
    assert before < camera.capture_stamp <= time.monotonic()


def test_a_black_camera_is_black(camera, emulation):
    emulation.write(front="black")
    assert fresh(camera).max() == 0


def test_a_frozen_camera_shows_what_was(camera, emulation):
    emulation.write(front="frozen")
    before = fresh(camera)
    emulation.body.place_arm(np.zeros(6))
    emulation.body.step()
    emulation.write(front="frozen")
    stamp = camera.capture_stamp
    assert np.array_equal(fresh(camera), before)
    assert camera.capture_stamp > stamp


def test_a_missing_camera_gives_no_frames(camera, emulation):
    emulation.write(front="missing")
    camera.read_latest()
    exhaust(camera)
    with pytest.raises(TimeoutError, match="no frame"):
        camera.async_read(timeout_ms=100)
    until(lambda: time.monotonic() - camera.capture_stamp > 0.05)
    with pytest.raises(TimeoutError, match="old"):
        camera.read_latest(max_age_ms=50)


def test_the_state_of_an_ended_emulator_is_no_picture(camera, emulation):
    emulation.write(stamp=time.monotonic() - 1.0)
    exhaust(camera)
    with pytest.raises(TimeoutError, match="no frame"):
        camera.async_read(timeout_ms=100)


def test_a_camera_goes_on_with_an_emulator_that_was_started_again(camera, emulation):
    emulation.writer.close()
    emulation.writer = TwinStateWriter(emulation.path)
    emulation.write(front="black")
    until(lambda: camera.read().max() == 0)


def test_a_camera_is_opened_and_closed_once(camera):
    with pytest.raises(DeviceAlreadyConnectedError):
        camera.connect()
    camera.disconnect()
    with pytest.raises(DeviceNotConnectedError):
        camera.disconnect()
    with pytest.raises(DeviceNotConnectedError):
        camera.read_latest()


def test_without_an_emulator_a_camera_says_what_to_do(tmp_path):
    camera = TwinCamera(TwinCameraConfig(state=str(tmp_path / "arm.state"), view="front"))
    with pytest.raises(ConnectionError, match="make emulate"):
        camera.connect()


@pytest.mark.parametrize("fields", [{"view": "behind"}, {"view": "front", "fps": 0}])
def test_settings_that_make_no_sense_are_refused(fields):
    with pytest.raises(ValueError, match=r"view|fps"):
        TwinCamera(TwinCameraConfig(state="arm.state", **fields))


def test_a_state_is_read_as_it_was_written(emulation):
    emulation.body = TwinBody(GREEN)
    emulation.write(stamp=12.5, side="black")
    with TwinStateReader(emulation.path) as reader:
        state = reader.read()
    assert (state.stamp, state.layout, state.camera_faults) == (12.5, GREEN, {"side": "black"})
    np.testing.assert_array_equal(state.qpos, emulation.body.picture()[0])


def test_a_state_that_is_torn_is_never_returned(emulation):
    with TwinStateReader(emulation.path) as reader:
        emulation.writer._map[40] ^= 1
        with pytest.raises(NoState, match="no whole record"):
            reader.read()
