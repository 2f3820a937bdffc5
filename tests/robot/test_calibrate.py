import io
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from robot.arm import JOINTS
from robot.arm_config import ROOT, ArmConfig
from robot.doctor import calibrate as module
from robot.doctor.calibrate import (
    EMULATED,
    BusFailed,
    Person,
    Sweeper,
    Travel,
    calibrate,
    calibration_of,
    main,
    registers_of,
    troubles,
)
from robot.doctor.calibration import LARGEST_OFFSET, TRAVEL_DEG, load
from robot.doctor.servo_packets import Wire
from tests.robot.servo_line import ServoLine, memory

SPANS = {name: round(degrees * 4096 / 360) for name, degrees in TRAVEL_DEG.items()}


def swept(start, span):
    """Return the travel of a joint whose lower stop is at a count, moved from stop to stop."""
    travel = Travel((start + span // 2) % 4096)
    for tick in [*range(span // 2, 0, -50), *range(0, span, 50), span, span // 2]:
        travel.see((start + tick) % 4096)
    return travel


def whole(start=800, **changes):
    spans = SPANS | {"wrist_roll": 1500} | changes
    return {name: swept(start, spans[name]) for name in JOINTS}


@settings(deadline=None)
@given(st.integers(0, 4095), st.integers(1000, 2800))
def test_however_a_horn_is_mounted_no_joint_wraps_and_no_offset_is_too_large(start, span):
    joint = calibration_of({"elbow_flex": swept(start, span)})["elbow_flex"]
    assert abs(joint.homing_offset) <= LARGEST_OFFSET
    assert 0 < joint.range_min < joint.range_max < 4095
    assert joint.span == pytest.approx(span, abs=2)
    for tick in (0, span // 2, span):
        present = ((start + tick) % 4096 - joint.homing_offset) % 4096
        assert joint.range_min - 1 <= present <= joint.range_max + 1


@pytest.mark.parametrize("start", [0, 800, 2500, 4000])
def test_an_arm_that_was_swept_is_plausible(start):
    assert troubles(whole(start)) == []


def test_a_joint_that_was_not_moved_is_named():
    found = troubles(whole(wrist_flex=500))
    assert len(found) == 1
    assert found[0].startswith("wrist_flex travels 44°")


class Hands(Person):
    """Moves the joints of a line in memory while it is asked whether it is done."""

    def __init__(self, line, ways):
        super().__init__(Console(file=io.StringIO()))
        self._servos, self._ways = line.servos, ways

    def ask(self, text):
        self.say(text)

    def has_swept(self, travels):
        if not self._ways:
            return True
        tick = self._ways.pop()
        for servo in self._servos.values():
            servo[56:58] = (tick % 4096).to_bytes(2, "little")
        return False


def test_servos_and_file_get_the_same(tmp_path):
    line = ServoLine()
    path = tmp_path / "deep" / "arm.json"
    calibrate(Sweeper(Wire(line.open(1_000_000), line.clock)), Hands(line, whole_ways()), path)
    calibration = load(path)
    for servo_id, (limits, offset) in registers_of(calibration).items():
        assert bytes(line.servos[servo_id][9:13]) == limits
        assert bytes(line.servos[servo_id][31:33]) == offset
        assert line.servos[servo_id][40] == 0


def test_a_calibration_that_is_broken_off_leaves_servos_as_they_were(tmp_path):
    class Impatient(Hands):
        def has_swept(self, travels):
            raise KeyboardInterrupt

    line = ServoLine({i: memory(i, r31=77) for i in range(1, 7)})
    before = {i: bytes(servo[9:13] + servo[31:33]) for i, servo in line.servos.items()}
    sweeper = Sweeper(Wire(line.open(1_000_000), line.clock))
    with pytest.raises(KeyboardInterrupt):
        calibrate(sweeper, Impatient(line, []), tmp_path / "arm.json")
    assert {i: bytes(servo[9:13] + servo[31:33]) for i, servo in line.servos.items()} == before
    assert list(tmp_path.iterdir()) == []


def test_a_servo_that_is_silent_is_named(tmp_path):
    line = ServoLine()
    del line.servos[4], line.bauds[4]
    with pytest.raises(BusFailed, match=r"wrist_flex \(id 4\) does not answer"):
        calibrate(
            Sweeper(Wire(line.open(1_000_000), line.clock)), Hands(line, []), tmp_path / "a.json"
        )


def test_the_end_of_input_breaks_off(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(KeyboardInterrupt):
        Person(Console(file=io.StringIO())).ask("Press Enter.")


def test_an_implausible_sweep_goes_on_until_it_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    said = io.StringIO()
    person = Person(Console(file=said, width=200))
    while "44°" not in said.getvalue():
        assert not person.has_swept(whole(wrist_flex=500))
    while not person.has_swept(whole()):
        pass
    assert "wrist_flex travels 44°" in said.getvalue()


@pytest.fixture
def written(monkeypatch):
    """Have nothing happen but the choice of a file; the files."""
    files = []
    line = ServoLine()
    monkeypatch.setattr(module, "PortLock", lambda _: SimpleNamespace(release=lambda: None))
    monkeypatch.setattr(module, "resolve_port", lambda _: "nowhere")
    monkeypatch.setattr(module, "open_line", lambda _: line.open)
    monkeypatch.setattr(module, "calibrate", lambda sweeper, person, path: files.append(path))
    return files


def test_the_emulated_arms_common_file_is_never_written(written, capsys):
    assert ArmConfig.load("arm01").calibration == EMULATED
    assert main(["arm_id=arm01"]) == 0
    assert written == [ROOT / "conf" / "calibration" / "arm01.json"]
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("conf/arm/arm01.yaml: calibration: conf/calibration/arm01.json")


def test_an_arm_with_a_file_of_its_own_gets_that_one_written(written, tmp_path, capsys):
    text = (ROOT / "conf" / "arm" / "arm01.yaml").read_text(encoding="utf-8")
    own = text.replace("calibration/emulated.json", "calibration/left.json")
    (tmp_path / "arm01.yaml").write_text(own)
    assert main(["arm_id=arm01", f"folder={tmp_path}"]) == 0
    assert written == [ROOT / "conf" / "calibration" / "left.json"]
    assert capsys.readouterr().out == ""


def test_words_and_ports_that_are_not_there_have_their_codes(tmp_path):
    assert main(["colour=red"]) == 2
    arm = json.dumps({"arm_id": "nobody"})
    (tmp_path / "nobody.yaml").write_text(arm)
    assert main(["arm_id=nobody", f"folder={tmp_path}"]) == 2


def whole_ways():
    """Return counts that go over more than any joint's usual travel, and back to the middle."""
    return [*range(2048, 900, -60), *range(900, 3200, 60), *range(3200, 2048, -60)]
