"""A leader arm is let go of only once it is known to be one."""

import json
from contextlib import closing

import numpy as np
import pytest
import serial
from lerobot.motors.feetech import feetech

from robot.teleop.devices import DeviceMissing
from robot.teleop.leader import open_leader
from tests.robot.devices import seen
from tests.robot.test_so101 import CALIBRATION, POSE, Line

TORQUE = 40


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Wait for replies as long as a busy machine may take."""

    def set_timeout(port, length):
        port.packet_start_time, port.packet_timeout = port.getCurrentTime(), 500.0

    monkeypatch.setattr(feetech, "patch_setPacketTimeout", set_timeout)


@pytest.fixture
def line(tmp_path):
    """Yield six servos that hold their pose."""
    line = Line(tmp_path)
    for servo in range(6):
        line.register(TORQUE, 1, servo=servo)
    yield line
    line.end()


@pytest.fixture
def calibration(tmp_path):
    """Write what the servos hold as the leader's file."""
    path = tmp_path / "leader01.json"
    path.write_text(CALIBRATION.read_text())
    return path


def holds(line):
    return [servo.torque for servo in line.servos] == [True] * 6


def test_a_leader_is_let_go_of_and_read(line, calibration):
    assert holds(line)
    with closing(open_leader(line.path, calibration)) as leader:
        assert not any(servo.torque for servo in line.servos)
        np.testing.assert_allclose(leader.read(seen()), POSE, atol=0.2)


def test_an_arm_with_another_calibration_is_refused_and_keeps_its_torque(line, calibration):
    joints = json.loads(calibration.read_text())
    joints["elbow_flex"]["homing_offset"] += 40
    calibration.write_text(json.dumps(joints))
    with pytest.raises(DeviceMissing, match=r"has another calibration than .*leader01\.json: ler"):
        open_leader(line.path, calibration)
    assert holds(line)


def test_an_arm_that_another_process_owns_is_refused_and_keeps_its_torque(line, calibration):
    owner = serial.Serial(line.path, 1_000_000, exclusive=True)
    with owner, pytest.raises(DeviceMissing, match="no leader arm answers"):
        open_leader(line.path, calibration)
    assert holds(line)


def test_an_arm_of_which_a_servo_is_silent_is_refused_and_keeps_its_torque(line, calibration):
    line.fault(kind="cut", servo_id=5)
    with pytest.raises(DeviceMissing, match="no leader arm answers"):
        open_leader(line.path, calibration)
    assert holds(line)


def test_whoever_has_the_leader_keeps_others_off_its_port(line, calibration):
    leader = closing(open_leader(line.path, calibration))
    with leader, pytest.raises(DeviceMissing, match="no leader arm answers"):
        open_leader(line.path, calibration)
