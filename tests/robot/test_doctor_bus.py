import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.doctor.bus import chain, diagnose
from robot.doctor.report import Status, exit_code
from robot.doctor.servo_packets import Wire, error_words
from robot.doctor.servo_scan import scan
from tests.robot.servo_line import RANGES, ServoLine, memory

PORT = "run/arm01.bus"


def examine(line, **options):
    return diagnose(scan(line.open, clock=line.clock, **options), PORT)


def the(checks, code):
    """Return the one check of this code."""
    found = [check for check in checks if check.code == code]
    assert len(found) == 1, [check.code for check in checks]
    return found[0]


def without(*missing):
    line = ServoLine()
    for servo_id in missing:
        del line.servos[servo_id], line.bauds[servo_id]
    return line


def test_six_healthy_servos_pass():
    checks = examine(ServoLine())
    assert [check.status for check in checks] == [Status.PASS, Status.PASS]


def test_a_cut_names_the_cable_segment_and_counts_as_a_missing_device():
    checks = examine(without(4, 5, 6))
    found = the(checks, "bus.cable")
    assert "wrist_flex (id 4), wrist_roll (id 5), gripper (id 6)" in found.sentence
    assert "the cable from elbow_flex (id 3) to wrist_flex (id 4)" in found.fix
    assert exit_code(checks) == 3


def test_a_cut_is_drawn_where_it_is():
    line = without(4, 5, 6)
    picture = chain(scan(line.open, clock=line.clock))
    assert "[3 elbow_flex ✓]─//─[4 wrist_flex ?]" in picture


def test_a_silent_bus_asks_for_the_supply():
    found = the(examine(ServoLine({})), "bus.silent")
    assert "servo supply" in found.fix


def test_a_servo_that_is_missing_in_the_middle_is_not_called_a_cut_cable():
    found = the(examine(without(3)), "bus.missing")
    assert "elbow_flex (id 3)" in found.sentence


def test_a_wrong_id_is_named_beside_the_joint_that_lacks_it():
    line = without(3)
    line.servos[9], line.bauds[9], line.answered[9] = memory(9), 1_000_000, 0
    found = the(examine(line), "bus.id")
    assert found.sentence == "elbow_flex (id 3) is missing, and id 9 answers instead"
    assert found.fix.startswith("lerobot-setup-motors --robot.type=so101_follower")


def test_the_last_servo_with_a_wrong_id_is_not_called_a_cut_cable():
    line = without(6)
    line.servos[9], line.bauds[9], line.answered[9] = memory(9), 1_000_000, 0
    assert "id 9 answers instead" in the(examine(line), "bus.id").sentence


def test_a_wrong_baud_rate_is_found():
    line = ServoLine()
    line.bauds[5] = 115_200
    found = the(examine(line), "bus.baud")
    assert found.sentence == "wrist_roll (id 5) answers at 115200 baud; expected 1000000"


def test_two_servos_of_one_id_are_told_from_a_missing_one():
    line = without(3)
    line.damage[2] = lambda _, whole: whole + whole
    assert "two servos answer as shoulder_lift (id 2)" in the(examine(line), "bus.id").sentence


def test_colliding_replies_of_a_duplicate_are_recognised():
    line = without(3)
    line.damage[2] = lambda count, whole: whole[:4] + bytes([whole[4] ^ 0x40]) + whole[5:]
    assert "two servos answer as shoulder_lift" in the(examine(line), "bus.id").sentence


def test_duplicated_replies_on_a_whole_bus_are_reported():
    line = ServoLine()
    line.damage[2] = lambda _, whole: whole + whole
    assert "shoulder_lift" in the(examine(line), "bus.duplicate").sentence


def test_lost_replies_name_the_first_cable_behind_which_they_start():
    line = ServoLine()
    for servo_id in (4, 5, 6):
        line.damage[servo_id] = lambda count, whole: b"" if count % 4 == 0 else whole
    found = the(examine(line), "bus.replies")
    assert found.sentence.startswith("wrist_flex (id 4): 5 of 20 replies lost")
    assert "elbow_flex (id 3) to wrist_flex (id 4)" in found.fix


def test_a_damaged_reply_is_counted_and_never_believed():
    line = ServoLine()
    line.damage[1] = lambda count, whole: whole[:-1] + b"\x00" if count == 3 else whole
    assert "1 damaged" in the(examine(line), "bus.replies").sentence


def test_a_servo_whose_registers_do_not_come_through_is_no_healthy_one():
    line = ServoLine()
    line.damage[4] = lambda _, whole: whole if len(whole) < 20 else b""
    found = the(examine(line), "bus.replies")
    assert (found.status, "wrist_flex (id 4)" in found.sentence) == (Status.FAIL, True)


def test_an_echo_is_recognised():
    line = ServoLine()
    line.echo = True
    checks = examine(line)
    assert "jumper" in the(checks, "bus.echo").fix
    assert len(checks) == 1


@pytest.mark.parametrize(
    ("registers", "code", "said"),
    [
        ({"r3": 2825 & 255, "r4": 2825 >> 8}, "bus.model", "a STS3250"),
        ({"r1": 9}, "bus.firmware", "elbow_flex (id 3) 3.9"),
        ({"r62": 95}, "bus.voltage", "9.5 V; expected 4.0 to 8.0 V"),
        ({"r63": 64}, "bus.hot", "64 °C; it switches off at 70 °C"),
        ({"r33": 1}, "bus.mode", "operating mode 1"),
        ({"r56": 0, "r57": 7}, "bus.short", "22° short of its goal"),
    ],
)
def test_what_a_servo_says_of_itself_is_read(registers, code, said):
    line = ServoLine()
    line.servos[3] = memory(3, **registers)
    found = the(examine(line), code)
    assert "elbow_flex (id 3)" in found.sentence
    assert said in found.sentence


def test_error_bits_are_said_in_words():
    line = ServoLine()
    line.errors[2] = 32 | 4
    found = the(examine(line), "bus.error")
    assert found.sentence == "shoulder_lift (id 2) reports: overheated, overload"


def test_a_voltage_that_drops_along_the_chain_names_the_cable():
    line = ServoLine({i: memory(i, r62=74 if i < 5 else 66) for i in RANGES})
    assert "cable from wrist_flex (id 4) to wrist_roll (id 5)" in the(examine(line), "bus.drop").fix


def test_every_id_is_asked_when_told_to():
    line = ServoLine()
    line.servos[200], line.bauds[200], line.answered[200] = memory(200), 1_000_000, 0
    result = scan(line.open, clock=line.clock, every_id=True)
    assert result.strange == [200]


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_no_noise_is_taken_for_more_than_it_is(noise):
    line = ServoLine()
    line.damage[1] = lambda _, whole: noise
    answer = Wire(line.open(1_000_000), line.clock).read(1, 56, 2)
    heard = sum(6 + len(reply.params) for reply in answer.replies)
    assert heard <= len(noise)
    assert answer.garbled == (heard < len(noise))


@settings(deadline=None)
@given(st.integers(0, 255))
def test_every_error_byte_has_words(bits):
    assert bool(error_words(bits)) == (bits != 0)
