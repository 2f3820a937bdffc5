import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.arm import JOINTS
from robot.doctor.calibration import BadCalibration, check_calibration, load
from robot.doctor.report import Status
from robot.doctor.servo_scan import scan
from tests.robot.servo_line import RANGES, ServoLine, memory

MEND = "make calibrate ARM_ID=arm01"


def content(**joints):
    """Return a plausible calibration; `gripper={"range_max": 9}` changes an entry."""
    made = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": low, "range_max": high}
        for name, (i, (low, high)) in zip(JOINTS, RANGES.items(), strict=True)
    }
    for name, changes in joints.items():
        made[name] |= changes
    return made


@pytest.fixture
def checks_of(tmp_path):
    def check(made, line=None):
        path = tmp_path / "arm.json"
        path.write_text(made if isinstance(made, str) else json.dumps(made))
        return check_calibration(path, scan(line.open, clock=line.clock) if line else None, MEND)

    return check


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return tmp_path_factory.mktemp("calibration")


def codes(checks):
    return [check.code for check in checks if check.status is not Status.PASS]


def test_a_usual_calibration_that_the_servos_hold_passes(checks_of):
    assert codes(checks_of(content(), ServoLine())) == []


def test_an_offset_beyond_what_a_servo_keeps_is_refused_with_the_way_to_mend_it(checks_of):
    found = checks_of(content(elbow_flex={"homing_offset": -2048}))
    assert codes(found) == ["calib.offset"]
    assert "elbow_flex has the offset -2048; a servo holds at most 2047" in found[0].sentence
    assert "in the middle of its travel" in found[0].fix


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"range_min": 5, "range_max": 4090}, "calib.wrap"),
        ({"range_min": 2000, "range_max": 2400}, "calib.span"),
        ({"range_min": 1100, "range_max": 2700}, "calib.span"),
        ({"range_min": 30, "range_max": 2300}, "calib.edge"),
        ({"range_min": 3000, "range_max": 1000}, "calib.range"),
        ({"range_max": 5000}, "calib.range"),
        ({"id": 4}, "calib.id"),
    ],
)
def test_an_implausible_joint_is_named(checks_of, changes, code):
    found = checks_of(content(elbow_flex=changes))
    assert codes(found) == [code]
    assert "elbow_flex" in found[0].sentence


def test_a_wrist_roll_without_stops_is_as_it_should_be(checks_of):
    assert codes(checks_of(content(wrist_roll={"range_min": 0, "range_max": 4095}))) == []


def test_servos_that_hold_another_calibration_are_told_apart(checks_of):
    line = ServoLine()
    line.servos[3] = memory(3, r31=20, r32=8)
    found = [check for check in checks_of(content(), line) if check.status is Status.FAIL]
    assert codes(found) == ["calib.registers"]
    assert found[0].sentence.startswith("elbow_flex's servo holds offset -20")


def test_a_file_that_is_not_there_is_a_missing_device(tmp_path):
    found = check_calibration(tmp_path / "none.json", None, MEND)
    assert (found[0].device_missing, found[0].fix) == (True, MEND)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"elbow": {}}', "\x00"])
def test_what_is_no_calibration_is_refused(checks_of, text):
    assert codes(checks_of(text)) == ["calib.file"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(JOINTS), st.integers() | st.none() | st.text()))
def test_wrong_values_are_refused_by_name(written, values):
    path = written / "arm.json"
    path.write_text(json.dumps(content() | {"gripper": {}} | values))
    with pytest.raises(BadCalibration):
        load(path)
