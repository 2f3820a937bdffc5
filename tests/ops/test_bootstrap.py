import tomllib
from pathlib import Path

import pytest
import torch

from ops import bootstrap
from ops.bootstrap import MACHINES, CheckError, Machine

ROOT = Path(__file__).resolve().parents[2]


def machine(*checks):
    return Machine(extras=("train",), system="Linux", checks=checks)


def found():
    return "a device"


def missing():
    raise CheckError("no device: plug it in")


def test_extras_are_installed_before_they_are_checked(capsys):
    installed = []
    bootstrap.bootstrap(machine(found), system="Linux", install=installed.append)
    assert installed == [("train",)]
    assert "ok: a device" in capsys.readouterr().out


def test_nothing_is_installed_on_another_kind_of_machine():
    installed = []
    with pytest.raises(CheckError, match="this is Darwin"):
        bootstrap.bootstrap(machine(found), system="Darwin", install=installed.append)
    assert installed == []


def test_a_missing_device_ends_with_3_and_one_line(monkeypatch, capsys):
    monkeypatch.setitem(MACHINES, "gpu", machine(missing))
    monkeypatch.setattr(bootstrap.platform, "system", lambda: "Linux")
    monkeypatch.setattr(bootstrap, "install", lambda extras: None)
    assert bootstrap.main(["gpu"]) == 3
    assert capsys.readouterr().err == "error: no device: plug it in\n"


@pytest.mark.parametrize("argv", [[], ["toaster"], ["mac", "gpu"]])
def test_an_unknown_machine_is_a_usage_error(argv):
    assert bootstrap.main(argv) == 2


def test_every_extra_is_one_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {extra for kind in MACHINES.values() for extra in kind.extras}
    assert wanted <= set(project["optional-dependencies"])


def test_the_cpu_multiplies_as_the_cpu_does():
    assert bootstrap.check_product("cpu").startswith("cpu multiplies")


def test_a_device_that_computes_wrongly_is_refused(monkeypatch):
    monkeypatch.setattr(bootstrap, "matmul_error", lambda device: float("nan"))
    with pytest.raises(CheckError, match="computes wrongly"):
        bootstrap.check_product("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_machine_without_cuda_says_so():
    with pytest.raises(CheckError, match="no CUDA device"):
        bootstrap.check_cuda()


@pytest.mark.gpu
def test_a_cuda_device_computes():
    assert "multiplies matrices" in bootstrap.check_cuda()


def test_only_usb_serial_ports_are_shown(tmp_path):
    for name in ("tty.usbmodem1", "tty.Bluetooth"):
        (tmp_path / name).touch()
    assert [port.name for port in bootstrap.serial_ports(tmp_path)] == ["tty.usbmodem1"]
