import os
import sys
import threading
import time

import numpy as np
import pytest

from robot.arm_config import ConfigError
from robot.camera import decode_jpeg
from robot.process.camera_feed import FRESH_S, CameraFeed, Picture
from robot.process.cameras import Output, main, make_camera, show, taken_at
from robot.wire import decode_map
from tests.robot.arm_rig import JPEG, wait_until

SIZES = {"front": (96, 96)}


def script(body):
    """Return a command that runs `body` with `show(name, age)` for writing a picture."""
    return [
        sys.executable,
        "-c",
        f"""
import sys, time
from robot.wire import encode
def show(name, age=0.0):
    picture = {{"name": name, "stamp": time.monotonic() - age, "jpeg": {JPEG!r}}}
    data = encode(picture | {{"height": 32, "width": 48}})
    sys.stdout.buffer.write(len(data).to_bytes(4) + data)
    sys.stdout.flush()
{body}
""",
    ]


@pytest.fixture
def make_feed():
    feeds = []

    def make(body, sizes=SIZES, **options):
        feeds.append(CameraFeed(script(body), sizes, **options))
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


def test_the_newest_picture_of_each_camera_is_kept(make_feed):
    feed = make_feed("show('front'); sys.stdin.read()")
    assert feed.wait(10) == ()
    picture = feed.newest()["front"]
    assert picture.jpeg == JPEG
    assert 0 <= time.monotonic() - picture.stamp < FRESH_S


def test_sizes_are_those_of_the_pictures(make_feed):
    feed = make_feed("show('front'); sys.stdin.read()")
    assert feed.sizes() == SIZES
    feed.wait(10)
    assert feed.sizes() == {"front": (32, 48)}


def test_a_picture_that_gets_old_is_missing():
    now = [100.0]
    feed = CameraFeed([], {}, clock=lambda: now[0])
    feed._sizes = dict(SIZES)
    feed._pictures["front"] = Picture(jpeg=JPEG, stamp=100.0)
    now[0] = 100.0 + FRESH_S
    assert feed.missing() == ()
    now[0] += 0.01
    assert feed.newest() == {}
    assert feed.missing() == ("front",)
    feed.close()


def test_a_process_that_dies_is_started_again(make_feed):
    feed = make_feed("show('front'); sys.exit(7)")
    feed.wait(10)
    first = feed.newest()["front"].stamp
    wait_until(lambda: feed._pictures["front"].stamp > first)


def test_a_process_that_hangs_is_ended_and_started_again(make_feed, monkeypatch):
    monkeypatch.setattr("robot.process.camera_feed.HUNG_S", 0.5)
    feed = make_feed("show('front'); time.sleep(600)")
    feed.wait(10)
    first = feed.newest()["front"].stamp
    wait_until(lambda: feed._pictures["front"].stamp > first)


@pytest.mark.parametrize(
    "nonsense",
    [
        "sys.stdout.buffer.write(b'Traceback (most recent call last)')",
        "sys.stdout.buffer.write((4).to_bytes(4) + b'\\xc1\\xc1\\xc1\\xc1')",
        "sys.stdout.buffer.write((1 << 30).to_bytes(4))",
        "show('elsewhere')",
        "sys.stdout.buffer.write((1).to_bytes(4) + b'\\x80')",
    ],
)
def test_nonsense_is_no_picture_and_the_process_starts_again(make_feed, nonsense, tmp_path):
    flag = tmp_path / "second"
    feed = make_feed(f"""
import pathlib
flag = pathlib.Path({str(flag)!r})
if not flag.exists():
    flag.touch()
    {nonsense}
    sys.exit(1)
show('front'); sys.stdin.read()""")
    assert feed.wait(20) == ()


def test_a_feed_that_is_closed_leaves_no_process_behind(make_feed):
    feed = make_feed("show('front'); time.sleep(600)")
    feed.wait(10)
    process = feed._process
    feed.close()
    assert process.poll() is not None


def test_without_cameras_nothing_is_started():
    feed = CameraFeed(["/does/not/exist"], {})
    assert feed.wait(0) == ()
    feed.close()


class FakeCamera:
    """LeRobot's methods; `troubles` happen one after the other, at each read."""

    def __init__(self, troubles=()):
        self.is_connected, self.connected = False, 0
        self.troubles = list(troubles)
        self.capture_stamp = None

    def connect(self):
        self.connected += 1
        self.is_connected = True

    def disconnect(self):
        self.is_connected = False

    def async_read(self, timeout_ms):
        if self.troubles:
            raise self.troubles.pop(0)
        self.capture_stamp = 42.0
        return np.full((32, 48, 3), 200, np.uint8)


def shown(camera, count=1):
    sent, closing = [], threading.Event()

    def send(message):
        sent.append(message)
        if len(sent) >= count:
            closing.set()

    show("front", camera, send, closing)
    return sent


def test_a_picture_is_sent_as_jpeg_with_the_time_it_was_taken():
    (message,) = shown(FakeCamera())
    assert (message["name"], message["stamp"]) == ("front", 42.0)
    assert (message["height"], message["width"]) == (32, 48)
    assert abs(int(decode_jpeg(message["jpeg"])[0, 0, 0]) - 200) < 4


@pytest.mark.parametrize("trouble", [TimeoutError("late"), ConnectionError("x"), RuntimeError("y")])
def test_a_camera_that_fails_is_opened_again(trouble, monkeypatch):
    monkeypatch.setattr("robot.process.cameras.BACK_OFF_S", (0.01, 0.02))
    camera = FakeCamera([trouble, trouble])
    assert len(shown(camera)) == 1
    assert camera.connected == 3


def test_the_time_of_a_picture_is_the_cameras_own():
    class OpenCv:
        latest_timestamp = time.perf_counter() - 0.1

    assert 0.09 < time.monotonic() - taken_at(OpenCv()) < 1.0
    assert time.monotonic() - taken_at(object()) < 1.0


def test_messages_come_whole_out_of_several_threads():
    read_end, write_end = os.pipe()
    output = Output(write_end)
    writers = [
        threading.Thread(target=lambda: [output.send({"x": b"x" * 3000}) for _ in range(20)])
        for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    with os.fdopen(read_end, "rb") as stream:
        for _ in range(80):
            data = stream.read(int.from_bytes(stream.read(4)))
            assert len(decode_map(data)["x"]) == 3000
    for writer in writers:
        writer.join()
    output._file.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "periscope"},
        {"type": "opencv", "index_or_path": 0, "lens": "wide"},
        {"type": "opencv", "index_or_path": 0, "color_mode": "grey"},
    ],
)
def test_settings_that_lerobot_does_not_take_are_named(settings):
    with pytest.raises(ConfigError, match=r"cameras\.front: .*expected what LeRobot's"):
        make_camera("front", settings)


PLUG_IN = """
from dataclasses import dataclass
from lerobot.cameras import Camera, CameraConfig

@CameraConfig.register_subclass("periscope-of-a-friend")
@dataclass(kw_only=True)
class PeriscopeConfig(CameraConfig):
    depth: int

class Periscope(Camera):
    def __init__(self, config):
        super().__init__(config)
        self.depth = config.depth
    is_connected = False
    find_cameras = connect = read = async_read = disconnect = None
"""


def test_a_camera_of_somebody_elses_comes_from_the_package_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "a_friends_cameras.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"type": "periscope-of-a-friend", "package": "a_friends_cameras", "depth": 9}
    assert make_camera("front", settings).depth == 9


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"cameras\.front: No module named 'no_such_package'"):
        make_camera("front", {"type": "opencv", "package": "no_such_package"})


def test_wrong_words_are_a_usage_error(capfd, monkeypatch):
    keep = os.dup(1)
    try:
        assert main(["arm=arm01"]) == 2
    finally:
        os.dup2(keep, 1)
        os.close(keep)
    assert "known words: arm_id=, folder=" in capfd.readouterr().err


def test_a_realsense_camera_asks_for_its_own_package(monkeypatch):
    settings = {"type": "intelrealsense", "serial_number_or_name": "0123456789"}
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(ConfigError, match=r"pyrealsense2.*lerobot\[intelrealsense\]"):
        make_camera("front", settings)
