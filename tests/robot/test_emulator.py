import signal
import socket
import subprocess
import sys
import termios

import numpy as np
import pytest
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig

from robot.emulator import emulate
from robot.emulator.admin import EmulatorAdmin, NoEmulator, Refused
from robot.emulator.admin import main as ask
from robot.emulator.port import EmulatorPort
from robot.emulator.process import EmulatorError, build, main, parse_item, read_schedule
from robot.scene import Item, Layout
from robot.words import UsageError
from tests.robot.emulated import CALIBRATION, ROOT, emulated, patiently, until


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    with emulated(tmp_path_factory.mktemp("run")) as started:
        yield started


@pytest.fixture
def admin(emulator):
    emulator.admin.fault("clear")
    emulator.admin.replug()
    emulator.admin.judge(clear=True)
    return emulator.admin


@pytest.fixture
def calibration(tmp_path):
    (tmp_path / "emulated.json").write_text(CALIBRATION.read_text())
    return tmp_path


@pytest.fixture
def follower(emulator, admin, calibration):
    config = SO101FollowerConfig(port=str(emulator.bus), id="emulated", calibration_dir=calibration)
    robot = SO101Follower(config)
    connect(robot)
    yield robot
    if robot.is_connected:
        patiently(robot.disconnect)


def connect(device):
    def attempt():
        if device.is_connected:
            device.bus.port_handler.closePort()
        device.connect(calibrate=False)

    patiently(attempt)


def position(robot, joint):
    return patiently(robot.get_observation)[f"{joint}.pos"]


def test_lerobot_s_follower_connects_observes_and_acts(follower, admin):
    assert follower.is_calibrated
    target = position(follower, "wrist_roll") - 6.0
    follower.send_action({"wrist_roll.pos": target})
    until(lambda: abs(position(follower, "wrist_roll") - target) < 0.5)


def test_lerobot_s_leader_reads_what_a_hand_does(emulator, admin, calibration):
    config = SO101LeaderConfig(port=str(emulator.bus), id="emulated", calibration_dir=calibration)
    leader = SO101Leader(config)
    connect(leader)
    admin.push({"shoulder_pan": 33.0, "gripper": 70.0}, seconds=0.1)
    until(lambda: abs(patiently(leader.get_action)["shoulder_pan.pos"] - 33.0) < 0.3)
    until(lambda: abs(patiently(leader.get_action)["gripper.pos"] - 70.0) < 0.3)
    admin.release()
    patiently(leader.disconnect)


def test_a_lost_status_costs_lerobot_one_retry(follower, admin):
    admin.fault("lost", count=1)
    assert len(patiently(follower.get_observation)) == 6
    assert admin.status()["struck"]["lost"] >= 1


def test_a_cut_cable_is_an_error_to_lerobot(follower, admin):
    admin.fault("cut", servo_id=4)
    with pytest.raises(ConnectionError):
        follower.get_observation()
    admin.fault("clear")


def test_an_unplugged_port_comes_back_under_another_name(emulator, follower, admin):
    follower.send_action({"wrist_roll.pos": position(follower, "wrist_roll") - 2.0})
    before = admin.status()["port"]
    admin.unplug()
    assert not emulator.bus.is_symlink()
    with pytest.raises((OSError, termios.error), match="Input/output"):
        follower.get_observation()
    after = admin.replug()
    assert (after != before, str(emulator.bus.readlink())) == (True, after)
    assert admin.servos()["wrist_roll"]["torque"]
    follower.bus.port_handler.closePort()


def test_the_judge_counts_what_is_written(follower, admin):
    follower.send_action({"wrist_roll.pos": position(follower, "wrist_roll") - 30.0})
    until(lambda: admin.judge()["violations"]["speed"] == 1)


def test_a_reset_lays_the_cube_out_by_its_seed(admin):
    admin.reset(3)
    first = admin.truth()
    admin.reset(4)
    assert np.linalg.norm(admin.truth().thing - first.thing) > 0.01
    admin.reset(3)
    np.testing.assert_allclose(admin.truth().thing, first.thing, atol=1e-3)


def test_another_layout_brings_other_things(admin):
    admin.layout(Layout(thing=Item("cube", "green"), place=Item("bowl", "blue")))
    assert admin.truth().place is not None


@pytest.mark.parametrize(
    ("op", "fields", "why"),
    [
        ("dance", {}, "unknown op"),
        ("reset", {"seed": "three"}, "seed"),
        ("layout", {"thing": {"kind": "cube", "colour": "pink"}}, "pink"),
        ("fault", {"kind": "melted", "joint": "gripper"}, "unknown fault"),
        ("fault", {"kind": "heat", "joint": "neck"}, "joint"),
        ("fault", {"kind": "heat", "joint": "gripper"}, "celsius"),
        ("fault", {"kind": "baud", "joint": "gripper", "baud": 7}, "baud"),
        ("camera_fault", {"view": "front", "kind": "purple"}, "camera"),
        ("push", {"joints": {}}, "joints"),
        ("connect", {"joints": ["neck"]}, "joint"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_the_reason(admin, op, fields, why):
    with pytest.raises(Refused, match=why):
        admin.ask(op, **fields)


def test_what_is_no_json_is_refused_and_the_emulator_goes_on(emulator, admin):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(emulator.admin_path))
        raw.sendall(b"hello\n[1]\n")
        assert raw.recv(4096).count(b"error") >= 1
    assert admin.status()["requests"] >= 0


@pytest.mark.parametrize(
    ("fault", "address", "data"),
    [
        ({"kind": "model", "number": 2825}, 3, "090b"),
        ({"kind": "firmware", "major": 2, "minor": 7}, 0, "0207"),
        ({"kind": "id", "servo_id": 9}, 5, "09"),
        ({"kind": "baud", "baud": 115_200}, 6, "04"),
        ({"kind": "calibration", "ticks": 100}, 31, "1202"),
    ],
)
def test_a_servo_can_be_another_than_expected(tmp_path, fault, address, data):
    emulator = build({**WORDS_OFF, "folder": str(tmp_path)})
    emulator.ops.faults.strike({**fault, "joint": "gripper"})
    found = emulator.arm.servos["gripper"].read(address, len(data) // 2).hex()
    emulator.close()
    assert found == data


def test_nobody_at_the_admin_socket_says_what_to_do(tmp_path):
    with pytest.raises(NoEmulator, match="make emulate"):
        EmulatorAdmin(tmp_path / "arm01.admin")


def test_a_request_can_be_made_by_hand(emulator, capsys):
    words = [f"arm_id={emulator.bus.stem}", f"folder={emulator.bus.parent}"]
    assert ask([*words, 'ask={"op": "truth"}']) == 0
    assert "thing_start" in capsys.readouterr().out
    assert [ask(words), ask([*words, "ask=[1]"]), ask(["folder=/nowhere"])] == [0, 2, 3]


def test_an_arm_is_emulated_once(emulator, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    words = [f"arm_id={emulator.bus.stem}", f"folder={emulator.bus.parent}", "judge=off", "dev="]
    port = emulator.bus.readlink()
    assert main(words) == 1
    assert "emulated already" in capsys.readouterr().err
    assert emulator.bus.readlink() == port


@pytest.mark.parametrize(
    "word", ["arm_id=../x", "preset=rubber", "thing=red ball", "speed=3", "judge=me"]
)
def test_words_that_make_no_sense_are_a_usage_error(word, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main([f"folder={tmp_path}", word]) == 2


def test_scheduled_faults_come_in_their_order_and_in_their_time(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text("- {at_s: 2, kind: replug}\n- {at_s: 0.02, kind: unplug}\n")
    assert [kind["kind"] for _, kind in read_schedule(path)] == ["unplug", "replug"]
    with emulated(tmp_path, "judge=off", f"faults={path}") as emulator:
        until(lambda: not emulator.bus.is_symlink())


def test_a_schedule_that_is_none_is_refused(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text("- {kind: unplug}\n")
    with pytest.raises(EmulatorError, match="at_s"):
        read_schedule(path)


def test_an_ended_emulator_leaves_nothing_behind(tmp_path):
    with emulated(tmp_path, "judge=off") as emulator:
        emulator.process.send_signal(signal.SIGINT)
        assert emulator.process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_item_is_a_colour_and_a_kind():
    assert (parse_item("blue bowl"), parse_item("")) == (Item("bowl", "blue"), None)


def test_each_arm_gets_an_emulator_with_the_words_given():
    found = emulate.commands(["arms=2", "preset=compliant"])
    assert [command[-2:] for command in found] == [
        ["arm_id=arm01", "preset=compliant"],
        ["arm_id=arm02", "preset=compliant"],
    ]
    with pytest.raises(UsageError, match="arms=0"):
        emulate.commands(["arms=0"])


def test_a_leader_is_an_arm_more_that_nobody_judges():
    *_, leader = emulate.commands(["arms=2", "leaders=1", "seed=3", "judge=on"])
    assert leader[3:] == ["arm_id=leader01", "seed=3", "judge=on", "judge=off"]
    with pytest.raises(UsageError, match="leaders=two; expected a number from 0"):
        emulate.commands(["leaders=two"])


def test_ending_the_launcher_ends_its_emulators(tmp_path):
    command = [sys.executable, "-m", "robot.emulator.emulate", "arms=1", f"folder={tmp_path}"]
    with subprocess.Popen([*command, "judge=off", "dev="], cwd=ROOT) as launcher:
        until(lambda: len(list(tmp_path.glob("*.admin"))) == 1, timeout_s=60)
        launcher.terminate()
        assert launcher.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("baud", [1_000_000, 115_200])
def test_the_port_knows_the_baud_rate_of_its_client(tmp_path, baud):
    serial = pytest.importorskip("serial")
    port = EmulatorPort([tmp_path / "bus"])
    with serial.Serial(str(tmp_path / "bus"), baud):
        assert port.baud() in (baud, None)
    port.unplug()


def test_bytes_that_nobody_fetches_are_dropped(tmp_path):
    port = EmulatorPort([tmp_path / "bus"])
    for _ in range(20):
        port.write(bytes(4096))
    assert port.dropped > 0
    port.unplug()


WORDS_OFF = {
    "arm_id": "arm99",
    "preset": "stiff",
    "thing": "red cube",
    "place": "",
    "seed": "0",
    "calibration": str(CALIBRATION),
    "safety": "",
    "judge": "off",
    "faults": "",
    "dev": "",
}
