"""An arm's process on servos that obey, ticking in a thread, and its server on a real socket."""

import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from robot.access import Door
from robot.arm import frozen
from robot.arm_config import ArmConfig
from robot.camera import encode_jpeg
from robot.clock import WallClock
from robot.guard import Guard
from robot.limits import SafetyLimits
from robot.process.arm_process import ArmProcess, run_cycle
from robot.process.arm_server import ArmServer, create_app
from robot.process.camera_feed import Picture

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
START = frozen([0, -40, 30, 85, 90, 20])
JPEG = encode_jpeg(np.full((32, 48, 3), 90, np.uint8))


class Servos:
    """Six servos that are at once where they are told to be."""

    def __init__(self, pose=START):
        self.pos, self.sent, self.on, self.closed = np.array(pose), [], False, False

    def joint_pos(self):
        return self.pos.copy()

    def command(self, joint_target):
        self.sent.append(np.array(joint_target))
        if self.on:
            self.pos = np.array(joint_target)

    def health(self):
        return None

    def torque(self, *, on):
        self.on = on

    def close(self):
        self.closed = True


class Pictures:
    """A camera that always has a picture of this moment, until it is `dark`."""

    def __init__(self):
        self.dark = False

    def newest(self):
        return {} if self.dark else {"front": Picture(jpeg=JPEG, stamp=time.monotonic())}

    def sizes(self):
        return {"front": (32, 48)}


def make_process(servos=None, **options):
    return ArmProcess(
        servos or Servos(),
        Guard(LIMITS),
        WallClock(),
        park_pose=ArmConfig.load("arm01").park_pose,
        calibration="c0ffee123456",
        **options,
    )


class Served:
    """What a test needs to know of a served arm."""

    def __init__(self, process, pictures, port, server):
        self.process, self.pictures, self.server = process, pictures, server
        self.url = f"http://127.0.0.1:{port}"


@contextmanager
def served(process=None, *, tokens=None, tick=True):
    """Serve a process on a port of its own; `tick` lets its 50 Hz cycle run."""
    process, pictures = process or make_process(), Pictures()
    stopping = threading.Event()
    cycle = threading.Thread(target=run_cycle, args=(process, WallClock(), stopping))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = create_app(process, pictures, arm_id="arm01", door=Door(tokens))
        server = ArmServer(app, listening)
        if tick:
            cycle.start()
        try:
            port = listening.getsockname()[1]
            yield Served(process, pictures, port, server)
        finally:
            stopping.set()
            if tick:
                cycle.join()
            server.close()


@contextmanager
def served_patiently():
    """Serve a process that waits longer for clients: other tests may keep the machine busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robot.process.arm_process.SILENCE_S", 2.0)
        with served() as rig:
            yield rig


def wait_until(condition, timeout_s=10.0):
    """Wait until `condition` holds; fail if it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
