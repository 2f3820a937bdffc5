"""LeRobot's own commands, unmodified, typed at emulated arms; a pipe answers their prompts."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from robot.arm import JOINTS
from robot.emulator.emulated_arm import read_calibration
from robot.emulator.servo import Register
from robot.scene import Item, Layout
from robot.twin import NoRenderer, Twin
from tests.robot.emulated import CALIBRATION, ROOT, emulated, until

# Importing LeRobot takes longer than all the commands: one process runs them one after another.
RUNNER = """
import importlib, json, logging, sys
import lerobot.scripts.lerobot_record
for line in iter(sys.stdin.readline, ""):
    sys.argv = json.loads(line)
    try:
        importlib.import_module("lerobot.scripts." + sys.argv[0].replace("-", "_")).main()
        print("\\n== done", flush=True)
    except Exception as error:
        logging.exception("failed")
        print("\\n== failed", repr(error), flush=True)
"""
FRONT = "{{front: {{type: twin, state: {state}, view: front, width: 96, height: 96, fps: 20}}}}"


class Failed(Exception):
    """A command has ended with an error."""


class LeRobot:
    """A terminal at which one types LeRobot's commands and answers what they ask."""

    def __init__(self):
        environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def type(self, *command, until, tries=5):
        """Type a command and read until a text appears; on a busy machine, try again."""
        for _ in range(tries - 1):
            self.answer(json.dumps(command))
            with contextlib.suppress(Failed):
                return self.until(until)
        self.answer(json.dumps(command))
        return self.until(until)

    def answer(self, line=""):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def until(self, text):
        """Read until a text appears; return all that was printed before."""
        seen = b""
        while text.encode() not in seen:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            seen += chunk
            assert chunk, seen.decode()
            if b"== failed" in seen:
                raise Failed(seen.decode())
        return seen.decode()

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def lerobot():
    terminal = LeRobot()
    yield terminal
    terminal.close()


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with emulated(folder, "judge=off") as follower, emulated(folder, "judge=off") as leader:
        yield follower, leader


@pytest.fixture
def calibration(tmp_path):
    shutil.copy(CALIBRATION, tmp_path / "emulated.json")
    return tmp_path


def flags(kind, name, arm, calibration):
    return [
        f"--{kind}.type={name}",
        f"--{kind}.port={arm.bus}",
        f"--{kind}.id=emulated",
        f"--{kind}.calibration_dir={calibration}",
    ]


@pytest.mark.skipif(not os.access("/dev", os.W_OK), reason="no right to make links in /dev")
def test_find_port_names_the_port_that_goes_away(tmp_path, lerobot):
    with emulated(tmp_path, "judge=off", dev="/dev") as arm:
        lerobot.type("lerobot-find-port", until="press Enter when done.")
        arm.admin.unplug()
        lerobot.answer()
        assert f"port of this MotorsBus is '{arm.dev}'" in lerobot.until("== done")


def test_setup_motors_gives_every_servo_its_id(tmp_path, lerobot):
    with emulated(tmp_path, "judge=off", "calibration=") as arm:
        for joint in JOINTS:
            arm.admin.fault("id", joint=joint, servo_id=1)
        arm.admin.fault("baud", joint="gripper", baud=115_200)
        command = ["lerobot-setup-motors", "--robot.type=so101_follower", f"--robot.port={arm.bus}"]
        lerobot.type(*command, until="'gripper' motor only")
        for joint in reversed(JOINTS):
            if joint != "gripper":
                lerobot.until(f"'{joint}' motor only")
            arm.admin.connect_servos([joint])
            lerobot.answer()
        lerobot.until("== done")
        servos = arm.admin.servos()
        assert [servos[joint]["id"] for joint in JOINTS] == [1, 2, 3, 4, 5, 6]
        assert {bytes.fromhex(servos[joint]["registers"])[Register.BAUD] for joint in JOINTS} == {0}


def test_calibrate_finds_how_the_servos_were_mounted(tmp_path, lerobot):
    with emulated(tmp_path, "judge=off", "calibration=") as arm:
        command = flags("robot", "so101_follower", arm, tmp_path)
        lerobot.type("lerobot-calibrate", *command, until="middle of its range of motion")
        middle = {**dict.fromkeys(JOINTS, 0.0), "gripper": 50.0}
        arm.admin.push(middle)
        until(lambda: abs(arm.admin.truth().gripper - 50.0) < 0.5)
        lerobot.answer()
        lerobot.until("Press ENTER to stop...")
        for sign in (-1, 1):
            far = {joint: sign * 200.0 for joint in JOINTS if joint != "wrist_roll"}
            arm.admin.push({**far, "gripper": 50.0 + sign * 50.0}, seconds=0.2)
            until(lambda sign=sign: abs(arm.admin.truth().gripper - 50 - 50 * sign) < 0.5)
            # A few readings of the farthest points must fall into LeRobot's 50 a second.
            for _ in range(3):
                lerobot.until("gripper")
        lerobot.answer()
        lerobot.until("== done")
    found, expected = read_calibration(tmp_path / "emulated.json"), read_calibration(CALIBRATION)
    for joint in JOINTS:
        assert abs(found[joint].homing_offset - expected[joint].homing_offset) <= 2
        assert abs(found[joint].range_min - expected[joint].range_min) <= 6
        assert abs(found[joint].range_max - expected[joint].range_max) <= 6


def test_teleoperate_makes_the_follower_follow_the_leader(arms, calibration, lerobot):
    follower, leader = arms
    leader.admin.push({"wrist_roll": 20.0, "gripper": 80.0}, seconds=0.2)
    lerobot.type(
        "lerobot-teleoperate",
        *flags("robot", "so101_follower", follower, calibration),
        *flags("teleop", "so101_leader", leader, calibration),
        "--teleop_time_s=1.5",
        until="== done",
    )
    assert follower.admin.truth().gripper == pytest.approx(80.0, abs=2.0)
    leader.admin.release()


def test_record_writes_a_dataset_with_the_twin_s_pictures(arms, calibration, lerobot, tmp_path):
    try:
        Twin(Layout(thing=Item("cube", "red")), cameras=("front",)).frames()
    except NoRenderer as error:
        pytest.skip(str(error))
    follower, leader = arms
    root = tmp_path / "dataset"
    lerobot.type(
        "lerobot-record",
        *flags("robot", "so101_follower", follower, calibration),
        *flags("teleop", "so101_leader", leader, calibration),
        "--robot.discover_packages_path=robot.emulator.twin_camera",
        f"--robot.cameras={FRONT.format(state=follower.state)}",
        "--dataset.repo_id=local/emulated",
        f"--dataset.root={root}",
        "--dataset.single_task=Pick up the red cube.",
        "--dataset.num_episodes=1",
        "--dataset.episode_time_s=1",
        "--dataset.reset_time_s=0",
        "--dataset.fps=15",
        "--dataset.video=false",
        "--dataset.push_to_hub=false",
        "--play_sounds=false",
        until="== done",
        tries=1,
    )
    info = json.loads(Path(root, "meta", "info.json").read_text())
    assert info["total_episodes"] == 1
    assert info["total_frames"] > 5
    assert info["features"]["observation.images.front"]["shape"] == [96, 96, 3]
