import importlib.metadata
import os
import shutil
from dataclasses import replace

import pytest

from robot.arm import frozen
from robot.arm_config import ArmConfig
from robot.doctor import machine, safety
from robot.doctor.machine import Adapter, check_clock, check_disk, check_environment, check_port
from robot.doctor.report import Status
from robot.doctor.safety import check_safety, check_security, check_teleop

ARM = ArmConfig.load("arm01")
REAL = replace(ARM, port="usb:5A46083062")
FITTING = {"lerobot": "0.6.1", "numpy": "2.2.6", "opencv-python-headless": "4.13.0.92"} | {
    "pyserial": "3.5",
    "feetech-servo-sdk": "1.0.0",
    "websockets": "15.0",
}
ADAPTER = Adapter(device="/dev/ttyACM0", serial="5A46083099", name="USB Single Serial")


def by_code(checks):
    return {check.code: check for check in checks if check.status is not Status.PASS}


def installed(**versions):
    """Return a look-up of versions; None is not installed."""
    known = FITTING | {name.replace("_", "-"): version for name, version in versions.items()}

    def version_of(name):
        if known.get(name) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    return version_of


def test_the_packages_of_this_project_fit():
    assert by_code(check_environment(installed())) == {}


@pytest.mark.parametrize(
    ("versions", "code", "fix"),
    [
        ({"lerobot": "0.7.0"}, "env.package", "uv pip install 'lerobot>=0.6.1,<0.7'"),
        ({"numpy": "2.3.0"}, "env.package", "uv pip install 'numpy>=2,<2.3'"),
        ({"pyserial": None}, "env.package", "make setup-arm"),
        ({"opencv_python": "4.12.0"}, "env.opencv", "uv pip uninstall opencv-python"),
        ({"pygame": "2.6.1", "pygame_ce": "2.5.0"}, "env.pygame", "uv pip uninstall pygame-ce"),
    ],
)
def test_packages_that_do_not_fit_are_named_with_the_command(versions, code, fix):
    assert by_code(check_environment(installed(**versions)))[code].fix.startswith(fix)


def test_a_port_that_is_not_there_lists_those_that_are():
    check = by_code(check_port(REAL, [ADAPTER], None))["ports.missing"]
    assert check.device_missing
    assert "found /dev/ttyACM0 (usb:5A46083099)" in check.sentence
    assert check.fix.startswith("port: usb:5A46083099 in conf/arm/arm01.yaml")


def test_without_any_adapter_the_cable_is_asked_for():
    assert "carries data" in by_code(check_port(REAL, [], None))["ports.missing"].fix


def test_a_port_without_permission_names_the_group(tmp_path, monkeypatch):
    port = tmp_path / "ttyACM0"
    port.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    check = by_code(check_port(replace(ARM, port=str(port)), [], None))["ports.permission"]
    assert check.fix == "sudo usermod -aG dialout $USER, then log in again"


def test_a_port_by_name_is_better_by_serial_number(tmp_path):
    port = tmp_path / "ttyACM0"
    port.touch()
    adapter = Adapter(device=str(port), serial="77", name="")
    check = by_code(check_port(replace(ARM, port=str(port)), [adapter], None))["ports.name"]
    assert check.fix == "port: usb:77 in conf/arm/arm01.yaml"


@pytest.mark.parametrize(("free", "status"), [(5e8, "FAIL"), (5e9, "WARN"), (5e11, "PASS")])
def test_a_full_disk_is_told_in_episodes(free, status, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check = check_disk(tmp_path)[0]
    assert (check.code, check.status) == ("disk.space", status)
    assert f"about {int(free / 2e6)} episodes" in check.sentence


def test_a_slow_disk_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "FLUSH_S", -1.0)
    assert "SSD" in by_code(check_disk(tmp_path))["disk.slow"].fix


def test_a_machine_that_wakes_late_is_told(monkeypatch):
    monkeypatch.setattr(machine, "LATE_S", -1.0)
    assert "a cycle is 20 ms" in by_code(check_clock(3))["clock.late"].sentence


def test_a_date_before_any_episode_is_told(monkeypatch):
    monkeypatch.setattr(machine.time, "time", lambda: 0.0)
    assert "clock.wrong" in by_code(check_clock(1))


def test_the_configured_arm_is_safe():
    assert by_code(check_safety(ARM)) == {}


@pytest.mark.parametrize(
    ("pose", "said"),
    [
        ([0, 120, 0, 0, 0, 0], "start_pose: shoulder_lift 120 is outside -100 to 100"),
        ([0, 90, 60, 60, 0, 0], "mm outside the"),
    ],
)
def test_a_pose_that_is_outside_is_named(pose, said):
    check = by_code(check_safety(replace(ARM, start_pose=frozen(pose))))["safety.pose"]
    assert said in check.sentence


def test_a_limits_file_that_is_none_is_told(tmp_path):
    found = by_code(check_safety(replace(ARM, safety=tmp_path / "none.yaml")))
    assert list(found) == ["safety.limits"]


def test_a_stop_file_is_told_with_the_command_that_removes_it(monkeypatch, tmp_path):
    (tmp_path / "arm01.stop").touch()
    monkeypatch.setattr(ArmConfig, "runtime", lambda self, suffix: tmp_path / f"arm01.{suffix}")
    assert by_code(check_safety(ARM))["safety.stop_file"].fix.endswith("rm run/arm01.stop")


def test_a_real_arm_is_asked_for_its_switch_and_a_small_action_scale():
    found = by_code(check_safety(REAL))
    assert "action_scale: 0.3" in found["safety.scale"].fix
    assert "the arm must go limp" in found["safety.switch"].fix


def test_a_secret_that_others_can_read_is_told(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("ARM_TOKEN=x")
    (tmp_path / ".env").chmod(0o644)
    monkeypatch.setattr(safety, "ROOT", tmp_path)
    assert by_code(check_security(ARM))["security.mode"].fix == "chmod 600 .env"


def test_an_arm_that_other_machines_reach_is_told():
    assert "security.remote" in by_code(check_security(replace(ARM, host="0.0.0.0")))


def test_a_gamepad_counts_as_a_way_to_take_over(tmp_path):
    (tmp_path / "js0").touch()
    assert "teleop.none" not in by_code(check_teleop(tmp_path))
    assert "teleop.none" in by_code(check_teleop(tmp_path / "none"))
