"""A busy host keeps an emulator from its CPU; its arm shows nothing that no arm would show."""

import os
import socket
from types import SimpleNamespace

import numpy as np
import pytest

from robot.emulator.desk import listen
from robot.emulator.emulated_arm import EmulatedArm, read_calibration
from robot.emulator.process import FORGIVEN_S, Emulator
from robot.emulator.servo import Register
from robot.emulator.servo_bus import BROADCAST, READ, SYNC_WRITE, frame
from robot.emulator.twin_body import TwinBody
from robot.emulator.twin_state import TwinStateWriter
from robot.scene import Item, Layout
from tests.robot.emulated import CALIBRATION

STEP_S = 0.005
READY_S = 0.25
SPEED, WAY, LEAD = 90.0, 85.0, 15.0
"""Of a homing, degrees a second and degrees; of the guard, degrees."""
TICKS, MIDDLE = 4095 / 360, 2047
ON = bytes([Register.TORQUE_ENABLE, 1]) + bytes(
    value for servo_id in range(1, 7) for value in (servo_id, 1)
)


class Line:
    """A port without a terminal: what is written at one end is at the other at once."""

    def __init__(self):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.master, self.name = self.near.fileno(), "line"

    def read(self):
        return os.read(self.master, 4096)

    def write(self, data):
        self.near.send(data)

    def baud(self):
        return None

    def unplug(self):
        self.near.close()
        self.far.close()


class Host:
    """A machine that lets an emulator run at chosen moments only, and who drives its arm."""

    def __init__(self, emulator, line, time):
        self.emulator, self.line, self.time = emulator, line, time

    def play(self, moments):
        """Give the emulator one turn at each of these moments, seconds from now."""
        began, coming = self.time.now, iter(moments)

        def stopped():
            moment = next(coming, None)
            self.time.now = self.time.now if moment is None else began + moment
            return moment is None

        self.emulator.run(stopped=stopped)

    def switch_on(self):
        self.line.far.send(frame(BROADCAST, SYNC_WRITE, ON))
        yield from STEP_S * np.arange(1, 51)

    def go(self, degrees):
        ticks = (MIDDLE + round(degrees * TICKS)).to_bytes(2, "little")
        self.line.far.send(
            frame(BROADCAST, SYNC_WRITE, bytes([Register.GOAL_POSITION, 2, 1]) + ticks)
        )

    def ask(self):
        self.line.far.send(frame(1, READ, bytes([Register.PRESENT_POSITION, 6])))

    def answer(self):
        """Return position, degrees, and load, 0 to 1, of the shoulder's pan."""
        status = self.line.far.recv(4096)
        position, load = (int.from_bytes(status[at : at + 2], "little") for at in (5, 9))
        return (position - MIDDLE) / TICKS, (load & 0x3FF) / 1000


@pytest.fixture(params=["stiff", "compliant"])
def host(request, tmp_path, monkeypatch):
    time = SimpleNamespace(now=100.0, process_time=lambda: 0.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr("robot.emulator.process.time", time)
    twin = TwinBody(Layout(thing=Item("cube", "red")), preset=request.param)
    twin.place_arm(np.array([0.0, -30.0, 30.0, 60.0, 90.0, 30.0]))
    line = Line()
    emulator = Emulator(
        EmulatedArm(twin, calibration=read_calibration(CALIBRATION)),
        line,
        TwinStateWriter(tmp_path / "arm.state"),
        admin=listen(tmp_path / "arm.admin"),
        preset=request.param,
        witness=None,
    )
    yield Host(emulator, line, time)
    emulator.close()


def homing(host, pause_s, seen):
    """Move the pan as a homing does, by goals within the guard's lead; note what was seen."""
    yield from host.switch_on()
    here = 0.0
    for moment in READY_S + pause_s * np.arange(1, round(3.0 / pause_s) + 1):
        host.ask()
        yield moment
        here, load = host.answer()
        seen.append((here, load))
        host.go(min(SPEED * (moment - READY_S), here + LEAD, WAY))
        yield from moment + STEP_S * np.arange(1, 4)


@pytest.mark.parametrize("pause_s", [0.1, 0.24, 0.3, 0.5])
def test_an_emulator_that_waits_for_its_cpu_follows_without_a_load(host, pause_s):
    seen = []
    host.play(homing(host, pause_s, seen))
    angles, loads = np.array(seen).T
    assert loads.max() < 0.8
    assert angles[-1] > min(WAY, LEAD * (len(seen) - 1)) - 5.0


def test_a_request_is_answered_by_the_arm_of_its_moment(host):
    def moments():
        yield from host.switch_on()
        host.go(10.0)
        yield READY_S + STEP_S
        host.ask()
        yield READY_S + 0.24

    host.play(moments())
    assert host.answer()[0] == pytest.approx(10.0, abs=2.0)


def test_of_a_long_pause_the_end_is_made_up_for(host):
    twin = host.emulator.arm.twin
    before = twin.time
    host.play([0.005, 10.0])
    assert twin.time - before == pytest.approx(FORGIVEN_S, abs=0.02)
