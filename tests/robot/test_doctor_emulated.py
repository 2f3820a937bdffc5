"""The doctor at an emulated arm: each trouble is provoked, and told by its sentence and remedy."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml

from robot.arm_config import ROOT
from robot.doctor import bus, calibrate, camera_watch, servo_packets
from robot.doctor.calibration import load
from robot.doctor.main import main
from robot.doctor.servo_packets import Wire
from robot.doctor.servo_scan import open_line
from robot.emulator.admin import EmulatorAdmin, NoEmulator
from robot.process.port import PortLock

NAME = f"doctor{os.getpid()}"
START_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make the configuration of an arm whose emulator runs in a folder of its own."""
    folder = tmp_path_factory.mktemp("doctor")
    arm = yaml.safe_load((ROOT / "conf/arm/arm01.yaml").read_text(encoding="utf-8"))
    shutil.copy(ROOT / arm["calibration"], folder / "emulated.json")
    arm |= {"arm_id": NAME, "port": str(folder / f"{NAME}.bus"), "port_number": 9}
    arm |= {"calibration": str(folder / "emulated.json")}
    for camera in arm["cameras"].values():
        camera["state"] = str(folder / f"{NAME}.state")
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(arm, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def emulator(folder):
    command = [sys.executable, "-m", "robot.emulator.process", f"arm_id={NAME}", f"folder={folder}"]
    process = subprocess.Popen([*command, "dev=", "judge=off"], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        with closing(_admin(folder / f"{NAME}.admin")) as admin:
            yield admin
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        for left in (ROOT / "run").glob(f"{NAME}.*"):
            left.unlink()


@pytest.fixture
def admin(emulator):
    yield emulator
    emulator.fault("clear")


@pytest.fixture
def seen(folder, capsys):
    """Have the doctor look at some groups: exit code, and checks by code."""

    def look(only, *words):
        path = folder / "report.json"
        code = main([f"arm_id={NAME}", f"folder={folder}", f"only={only}", f"json={path}", *words])
        checks = json.loads(path.read_text())["checks"]
        return code, {check["code"]: check for check in checks}

    return look


def _admin(path):
    ends = time.monotonic() + START_S
    while True:
        try:
            return EmulatorAdmin(path)
        except NoEmulator:
            assert time.monotonic() < ends, "the emulator did not start"
            time.sleep(0.05)


@contextmanager
def joint(admin, name, kind, broken, healthy):
    """Break one servo for a while."""
    admin.fault(kind, joint=name, **broken)
    try:
        yield
    finally:
        admin.fault(kind, joint=name, **healthy)


@pytest.fixture
def patient(monkeypatch):
    """Wait for replies as long as a busy machine may take."""
    monkeypatch.setattr(servo_packets, "REPLY_S", 0.5)
    monkeypatch.setattr(bus, "SLOW_S", 0.5)


@pytest.mark.usefixtures("patient")
def test_a_healthy_arm_passes_every_check_of_bus_and_calibration(admin, seen):
    code, checks = seen("ports,bus,calib")
    assert code == 0
    assert {check["status"] for check in checks.values()} == {"PASS"}


def test_a_cut_cable_is_named_by_its_two_servos(admin, seen):
    admin.fault("cut", servo_id=3)
    code, checks = seen("bus")
    assert code == 3
    assert checks["bus.cable"]["fix"] == (
        "press in or replace the cable from elbow_flex (id 3) to wrist_flex (id 4)"
    )


def test_a_bus_without_supply_is_a_missing_device(admin, seen):
    admin.fault("cut", servo_id=0)
    code, checks = seen("bus")
    assert (code, "switch the servo supply on" in checks["bus.silent"]["fix"]) == (3, True)


@pytest.mark.usefixtures("patient")
def test_lost_replies_name_joint_and_cable(admin, seen):
    admin.fault("lost", servo_id=5, probability=0.4)
    code, checks = seen("bus")
    assert code == 1
    assert checks["bus.replies"]["sentence"].startswith("wrist_roll (id 5): ")
    assert "wrist_flex (id 4) to wrist_roll (id 5)" in checks["bus.replies"]["fix"]


def test_an_echo_names_the_jumper(admin, seen):
    admin.fault("echo")
    code, checks = seen("bus")
    assert (code, "jumper" in checks["bus.echo"]["fix"]) == (1, True)


SETUP = "lerobot-setup-motors --robot.type=so101_follower --robot.port={port}  (one servo"
BROKEN = [
    ("bus.error", "error", {"bits": 32}, {"bits": 0}, 1, "reports: overload", "take the load off"),
    ("bus.hot", "heat", {"celsius": 66}, {"celsius": 30}, 0, "66 °C", "make park, and let it cool"),
    ("bus.model", "model", {"number": 2825}, {"number": 777}, 1, "STS3250", "replace this servo"),
    ("bus.firmware", "firmware", {"major": 3, "minor": 9}, {"major": 3, "minor": 10}, 1, "3.9",
     "bring all to one version with Feetech's FD tool"),
    ("bus.baud", "baud", {"baud": 115200}, {"baud": 1000000}, 1, "115200 baud", SETUP),
    ("bus.id", "id", {"servo_id": 9}, {"servo_id": 3}, 1, "id 9 answers", SETUP),
    ("bus.id", "id", {"servo_id": 2}, {"servo_id": 3}, 1, "two servos answer as", SETUP),
    ("calib.registers", "calibration", {"ticks": 40}, {"ticks": -40}, 1, "offset 555",
     "the right file in conf/arm/*.yaml, or make calibrate ARM_ID={arm}"),
]  # fmt: skip
"""Code, fault, how it is made and unmade, exit code, sentence, and how its remedy begins."""


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_broken_servo_is_named_with_what_mends_it(admin, seen, folder, case):
    code, kind, broken, healthy, ended, said, fix = case
    with joint(admin, "elbow_flex", kind, broken, healthy):
        exit_code, checks = seen("bus,calib")
    check = checks[code]
    assert (exit_code, check["status"]) == (ended, "FAIL" if ended else "WARN")
    assert "elbow_flex" in check["sentence"]
    assert said in check["sentence"]
    assert check["fix"].startswith(fix.format(port=folder / f"{NAME}.bus", arm=NAME))


def test_a_low_supply_is_told(admin, seen):
    admin.fault("voltage", volts=3.6)
    code, checks = seen("bus")
    assert (code, "3.6 V" in checks["bus.voltage"]["sentence"]) == (1, True)


def test_an_unplugged_cable_is_a_missing_device(admin, seen):
    admin.unplug()
    try:
        code, checks = seen("ports,bus")
    finally:
        admin.replug()
    assert code == 3
    assert "make emulate" in checks["ports.emulator"]["fix"]


def test_a_port_that_another_process_owns_is_left_alone(admin, seen):
    lock = PortLock(ROOT / "run" / f"{NAME}.lock")
    try:
        code, checks = seen("bus")
    finally:
        lock.release()
    assert code == 1
    assert f"pid {os.getpid()} owns the port" in checks["bus.owner"]["sentence"]


def test_cameras_are_watched_together_and_shown_with_their_names(admin, seen):
    _, checks = seen("cameras", "seconds=1")
    sheet = ROOT / "run" / f"{NAME}.cameras.png"
    assert sheet.is_file()
    assert checks["cameras.sheet"]["status"] == "PASS"
    assert "cameras.missing" not in checks


@pytest.mark.parametrize(
    ("picture", "ended", "fix"),
    [
        ("black", 1, "take the lens cap off, give it light"),
        ("missing", 3, "lerobot-find-cameras twin, then correct cameras.side in conf/arm/"),
    ],
)
def test_a_broken_camera_is_named_with_what_mends_it(admin, seen, picture, ended, fix, monkeypatch):
    monkeypatch.setattr(camera_watch, "FIRST_S", 1.0)
    admin.camera_fault("side", picture)
    code, checks = seen("cameras", "seconds=1")
    check = checks[f"cameras.{picture}"]
    assert (code, "side" in check["sentence"]) == (ended, True)
    assert check["fix"].startswith(fix)


def test_a_bundle_for_helpers_holds_no_home_and_no_token(admin, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    path = folder / "bundle.zip"
    main([f"arm_id={NAME}", f"folder={folder}", "only=bus,calib,security", f"bundle={path}"])
    with zipfile.ZipFile(path) as bundle:
        texts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert {"report.json", "report.txt", f"{NAME}.yaml", "emulated.json"} <= set(texts)
    assert not any("/home/" in text or "/root/" in text for text in texts.values())


def sweep(admin, keys):
    """Move the joints from stop to stop as a person would, and press Enter."""
    for pose in zip(*HANDS.values(), strict=True):
        admin.push(dict(zip(HANDS, pose, strict=True)), seconds=0.4)
        wait_until_still(admin)
    keys.write("\n")
    keys.flush()


def wait_until_still(admin):
    ends, before = time.monotonic() + 10.0, None
    time.sleep(0.5)
    while time.monotonic() < ends:
        now = [servo["registers"][112:116] for servo in admin.servos().values()]
        if now == before:
            return
        before = now
        time.sleep(0.1)


HANDS = {
    "shoulder_pan": (-120, 120, 0),
    "shoulder_lift": (-110, 110, -60),
    "elbow_flex": (-105, 105, 60),
    "wrist_flex": (-105, 105, 0),
    "wrist_roll": (-90, 90, 0),
    "gripper": (-10, 110, 50),
}
"""Beyond both stops, and to a rest."""


@pytest.mark.usefixtures("patient")
def test_an_arm_whose_count_wraps_within_its_travel_is_calibrated_by_hand(
    admin, seen, folder, monkeypatch
):
    file = folder / "emulated.json"
    before, servos = file.read_text(), calibrate.registers_of(load(file))
    reader, writer = os.pipe()
    with joint(admin, "elbow_flex", "mount", {"ticks": 1500}, {"ticks": -1500}):
        with os.fdopen(reader) as stdin, os.fdopen(writer, "w") as keys:
            monkeypatch.setattr(sys, "stdin", stdin)
            keys.write("\n")
            keys.flush()
            hands = threading.Thread(target=sweep, args=(admin, keys))
            hands.start()
            assert calibrate.main([f"arm_id={NAME}", f"folder={folder}"]) == 0
            hands.join()
        admin.release()
        code, checks = seen("calib,bus")
        assert {check["status"] for check in checks.values()} == {"PASS"}
        assert code == 0
    assert file.read_text() != before
    file.write_text(before)
    with closing(Wire(open_line(folder / f"{NAME}.bus")(1_000_000))) as wire:
        calibrate.Sweeper(wire).store(servos)


def test_words_that_make_no_sense_end_with_code_2(capsys, folder):
    for word in ("only=bux", "colour=red", "arm_id=../x", "seconds=soon", "arm_id=arm99"):
        assert main([word]) == 2
    assert Path(folder).exists()
