"""The units start programs that are there, and give them time to park."""

import configparser
import importlib.util
import plistlib
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "ops" / "units"


def unit(name):
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string((UNITS / name).read_text(encoding="utf-8"))
    return parser


def systemd():
    service = unit("so101-arm@.service")["Service"]
    return service["ExecStart"].split(), int(service["TimeoutStopSec"])


def launchd():
    job = plistlib.loads((UNITS / "so101.arm01.plist").read_bytes())
    return job["ProgramArguments"], job["ExitTimeOut"]


@pytest.mark.parametrize("read", [systemd, launchd])
def test_an_arm_is_started_as_a_module_and_has_time_to_park(read):
    (_, flag, module, word), stop_s = read()
    assert flag == "-m"
    assert importlib.util.find_spec(module) is not None
    assert word.startswith("arm_id=")
    # From the far side of the table, 180 degrees at 15 a second, and then to rest.
    assert stop_s >= 180 / 15 + 20


def test_systemd_asks_the_parent_alone_to_end():
    assert unit("so101-arm@.service")["Service"]["KillMode"] == "mixed"


def test_the_nightly_copy_runs_the_script():
    command = unit("so101-nightly-copy.service")["Service"]["ExecStart"].split()
    assert (UNITS.parents[1] / command[-1]).is_file()
    assert unit("so101-nightly-copy.timer")["Timer"]["OnCalendar"]
