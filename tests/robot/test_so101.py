"""LeRobot's driver as an arm, on six emulated servos behind a pseudo-terminal."""

import json
import select
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import serial
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

from robot.arm import JOINTS
from robot.emulator.bus_faults import BusFault, BusFaults
from robot.emulator.emulated_arm import MOUNTS, read_calibration
from robot.emulator.port import EmulatorPort
from robot.emulator.servo import Error, Register, Servo
from robot.emulator.servo_bus import ServoBus
from robot.process.port import PortLock, resolve_port
from robot.process.servos import ArmUnusable, LostReply
from robot.process.so101 import FASTEST, HEALTH_EVERY, So101

CALIBRATION = Path(__file__).parents[2] / "conf" / "calibration" / "emulated.json"
POSE = np.array([10.0, -40.0, 38.0, 60.0, 90.0, 20.0])


class Line:
    """Six servos at a pseudo-terminal; they are at once where they are told to be."""

    def __init__(self, folder):
        calibrations = read_calibration(CALIBRATION)
        self.servos = [
            Servo(i, mount=mount, calibration=calibrations[joint])
            for i, (joint, mount) in enumerate(zip(JOINTS, MOUNTS, strict=True), 1)
        ]
        self.bus = ServoBus(self.servos, BusFaults(0))
        self.port = EmulatorPort([folder / "bus"])
        self.path = str(folder / "bus")
        self.switches = []
        self._goals = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._lock = threading.Lock()
        self.place(POSE)
        self._thread.start()

    def place(self, pose):
        degrees = [*pose[:5], pose[5] / 100 * 110 - 55]
        for servo, angle in zip(self.servos, degrees, strict=True):
            servo.sense(degrees=angle, speed=0.0, load=0.0)
            servo.feel(0.05, load=0.0, volts=7.4)

    def _serve(self):
        late = []
        while not self._ended.is_set():
            for reply in [reply for reply in late if reply[0] <= time.monotonic()]:
                late.remove(reply)
                self.port.write(reply[1])
            if not self._has_question():
                continue
            now = time.monotonic()
            late += [(now + reply.delay_s, reply.data) for reply in self._answer()]

    def _has_question(self):
        master = self.port.master
        try:
            return master is not None and bool(select.select([master], [], [], 0.001)[0])
        except (OSError, ValueError):
            # It was pulled out meanwhile.
            return False

    def _answer(self):
        """Feed what has come to the servos, move them, and return what they reply."""
        with self._lock:
            before = [servo.torque for servo in self.servos]
            try:
                replies = self.bus.feed(self.port.read())
            except OSError:
                return []
            for servo in self.servos:
                if servo.goal not in (None, self._goals.get(servo)):
                    servo.sense(degrees=servo.degrees_at(servo.goal), speed=0.0, load=0.0)
                    self._goals[servo] = servo.goal
            after = [servo.torque for servo in self.servos]
        self.switches += [after] if before != after else []
        return replies

    def fault(self, **fields):
        with self._lock:
            self.bus.faults.add(BusFault(**fields))

    def register(self, address, value, *, servo=0):
        with self._lock:
            self.servos[servo].store(address, value)

    def unplug(self):
        with self._lock:
            self.port.unplug()

    def end(self):
        self._ended.set()
        self._thread.join()
        self.port.unplug()


@pytest.fixture
def line(tmp_path):
    line = Line(tmp_path)
    yield line
    line.end()


@pytest.fixture
def connect(line, tmp_path):
    arms = []

    def connect(**options):
        fields = {"port": line.path, "calibration": CALIBRATION, "lock": tmp_path / "lock"}
        arms.append(So101(arm_id="arm01", **(fields | options)))
        return arms[-1]

    yield connect
    for arm in arms:
        arm.close()


@pytest.fixture
def arm(connect):
    return connect()


def test_it_reads_where_the_joints_are(arm):
    np.testing.assert_allclose(arm.joint_pos(), POSE, atol=0.09)


def test_joints_go_where_they_are_told(arm):
    arm.joint_pos()
    arm.torque(on=True)
    arm.command(POSE + 3.0)
    arm.torque(on=True)
    np.testing.assert_allclose(arm.joint_pos(), POSE + 3.0, atol=0.09)


def test_a_measured_pose_as_command_moves_nothing(arm, line):
    arm.torque(on=True)
    for _ in range(5):
        arm.command(arm.joint_pos())
    np.testing.assert_allclose(arm.joint_pos(), POSE, atol=0.09)


def test_its_units_are_lerobots(arm, line, tmp_path):
    ours = arm.joint_pos()
    arm.close()
    robot = SO101Follower(
        SO101FollowerConfig(port=line.path, id="emulated", calibration_dir=CALIBRATION.parent)
    )
    robot.bus.connect()
    theirs = robot.bus.sync_read("Present_Position")
    robot.bus.disconnect(disable_torque=False)
    np.testing.assert_allclose(ours, [theirs[joint] for joint in JOINTS], atol=1e-9)


def test_health_comes_with_one_read_in_five(arm, line):
    assert arm.health() is None
    line.servos[2].sense(degrees=38.0, speed=0.0, load=-0.4)
    for _ in range(HEALTH_EVERY):
        arm.joint_pos()
    health = arm.health()
    assert health.load[2] == pytest.approx(-0.4, abs=2e-3)
    assert health.current_a[2] == pytest.approx(0.4 * 2.6, abs=0.01)
    np.testing.assert_allclose(health.voltage_v, 7.4)
    np.testing.assert_allclose(health.temperature_c, 30.0)
    arm.joint_pos()
    assert arm.health() is health


def test_error_bits_and_missing_torque_are_seen(arm, line):
    arm.torque(on=True)
    line.servos[3].forced_error = Error.OVERLOAD
    line.servos[4].power_cycle()
    for _ in range(HEALTH_EVERY):
        arm.joint_pos()
    assert arm.health().errors == (0, 0, 0, 32, 0, 0)
    assert arm.health().torque == (True, True, True, True, False, True)


@pytest.mark.parametrize("kind", ["lost", "flipped", "late"])
def test_a_reply_that_is_missing_or_damaged_is_lost_and_the_next_is_right(arm, line, kind):
    arm.joint_pos()
    line.fault(kind=kind, servo_id=3, count=1, bit=50)
    with pytest.raises(LostReply, match=r"elbow_flex \(id 3\).*from shoulder_lift \(id 2\)"):
        arm.joint_pos()
    for _ in range(6):
        np.testing.assert_allclose(arm.joint_pos(), POSE, atol=0.09)


@pytest.mark.parametrize("kind", ["duplicated", "echo"])
def test_what_comes_twice_or_comes_back_does_no_harm(arm, line, kind):
    line.fault(kind=kind)
    for _ in range(12):
        np.testing.assert_allclose(arm.joint_pos(), POSE, atol=0.09)


def test_no_flipped_bit_is_ever_taken_for_a_position(arm, line):
    line.fault(kind="flipped", probability=0.1)
    lost = 0
    for _ in range(150):
        try:
            pose = arm.joint_pos()
        except LostReply:
            lost += 1
        else:
            np.testing.assert_allclose(pose, POSE, atol=0.09)
    assert lost > 20


def test_a_position_of_zero_is_a_lost_reply(arm, line):
    line.place(POSE - [0, 0, 0, 0, 270, 0])
    with pytest.raises(LostReply, match=r"wrist_roll.*without a position"):
        arm.joint_pos()


def test_a_jump_that_no_joint_can_make_is_a_lost_reply(connect, line):
    moment = 50.0
    arm = connect(clock=lambda: moment)
    arm.joint_pos()
    moment += 0.02
    line.place(POSE + [0, FASTEST * 0.02 + 10, 0, 0, 0, 0])
    with pytest.raises(LostReply, match=r"shoulder_lift \(id 2\) jumped"):
        arm.joint_pos()
    moment += 0.1
    assert arm.joint_pos()[1] > POSE[1]


def test_torque_that_a_servo_refuses_is_told(arm, line):
    line.fault(kind="cut", servo_id=0)
    with pytest.raises(LostReply):
        arm.torque(on=True)


def test_connecting_and_closing_leaves_the_torque_of_configured_servos(connect, line):
    arm = connect()
    arm.torque(on=True)
    arm.close()
    line.switches.clear()
    connect().close()
    assert line.switches == []
    assert all(servo.torque for servo in line.servos)


def test_servos_that_keep_an_old_goal_do_not_jump_when_they_are_configured(connect, line):
    for servo in line.servos:
        servo.keeps_goal = True
        servo.store(Register.GOAL_POSITION - 2, 0)
    np.testing.assert_allclose(connect().joint_pos(), POSE, atol=0.2)


def test_another_calibration_in_the_servos_is_refused_with_the_torque_untouched(connect, line):
    line.register(Register.HOMING_OFFSET, 99)
    with pytest.raises(ArmUnusable, match=r"another calibration.*make calibrate ARM_ID=arm01"):
        connect()
    assert line.switches == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("[", "calibrates no six joints"),
        ("{}", "calibrates no six joints"),
        (json.dumps({j: {"range_min": 9, "range_max": 3} for j in JOINTS}), "has 9 to 3 ticks"),
    ],
)
def test_a_calibration_file_that_is_none_is_refused(connect, tmp_path, text, message):
    file = tmp_path / "arm01.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArmUnusable, match=f"{message}.*make calibrate ARM_ID=arm01"):
        connect(calibration=file)


def test_servos_that_are_missing_are_named_with_their_cable(connect, line):
    line.fault(kind="cut", servo_id=3)
    with pytest.raises(ArmUnusable) as caught:
        connect()
    assert "wrist_flex (id 4), wrist_roll (id 5), gripper (id 6) not found" in str(caught.value)
    assert "the cable from elbow_flex (id 3) to wrist_flex (id 4)" in str(caught.value)


def test_servos_with_other_firmware_are_refused_in_one_line(connect, line):
    line.register(0, 9, servo=2)
    with pytest.raises(ArmUnusable, match="different firmware") as caught:
        connect()
    assert "\n" not in str(caught.value)


def test_a_port_that_is_not_there_is_refused(connect, tmp_path):
    with pytest.raises(ArmUnusable, match="nowhere is not there: plug the arm in"):
        connect(port=str(tmp_path / "nowhere"))


def test_a_second_owner_is_refused_by_the_lock(arm, connect):
    with pytest.raises(ArmUnusable, match=r"pid \d+ owns this arm"):
        connect()


def test_a_second_owner_is_refused_by_the_port(arm, connect, tmp_path):
    with pytest.raises(ArmUnusable, match="cannot be used"):
        connect(lock=tmp_path / "other")


def test_an_arm_whose_servo_reports_a_fault_is_opened_and_tells(connect, line):
    first = connect()
    first.torque(on=True)
    first.close()
    line.servos[2].forced_error = Error.OVERLOAD
    arm = connect()
    for _ in range(HEALTH_EVERY):
        arm.joint_pos()
    assert arm.health().errors == (0, 0, Error.OVERLOAD, 0, 0, 0)
    assert all(servo.torque for servo in line.servos)


def test_a_refused_arm_can_be_opened_once_it_is_mended(connect, line):
    line.fault(kind="cut", servo_id=3)
    with pytest.raises(ArmUnusable):
        connect()
    line.bus.faults.clear()
    np.testing.assert_allclose(connect().joint_pos(), POSE, atol=0.09)


def test_a_port_that_was_unplugged_is_found_under_its_other_name(connect, line):
    moment = 50.0
    arm = connect(clock=lambda: moment)
    arm.joint_pos()
    line.unplug()
    with pytest.raises(LostReply):
        arm.joint_pos()
    with pytest.raises(LostReply, match="plug"):
        arm.command(POSE)
    line.port.replug()
    moment += 2.0
    np.testing.assert_allclose(arm.joint_pos(), POSE, atol=0.09)


def test_servos_that_lost_their_power_come_back_without_torque(connect, line):
    moment = 50.0
    arm = connect(clock=lambda: moment)
    line.unplug()
    with pytest.raises(LostReply):
        arm.joint_pos()
    for servo in line.servos:
        servo.power_cycle()
    line.port.replug()
    moment += 2.0
    arm.joint_pos()
    assert not any(servo.torque for servo in line.servos)


class Adapter:
    def __init__(self, device, number):
        self.device, self.serial_number = device, number


@pytest.mark.parametrize(
    ("numbers", "message"), [(["A", None], "no USB adapter"), (["B", "B"], "2 USB adapters")]
)
def test_a_serial_number_names_exactly_one_port(monkeypatch, numbers, message):
    found = [Adapter(f"/dev/ttyACM{i}", number) for i, number in enumerate(numbers)]
    monkeypatch.setattr("robot.process.port.list_ports.comports", lambda: found)
    with pytest.raises(ArmUnusable, match=f"{message}.*make doctor"):
        resolve_port("usb:B")
    found[0].serial_number = "C"
    assert resolve_port("usb:C") == "/dev/ttyACM0"


def test_a_lock_is_free_again_after_its_release(tmp_path):
    PortLock(tmp_path / "lock").release()
    PortLock(tmp_path / "lock").release()


def test_another_program_that_asks_for_the_port_alone_does_not_get_it(arm, line):
    with pytest.raises(serial.SerialException):
        serial.Serial(line.path, exclusive=True)
