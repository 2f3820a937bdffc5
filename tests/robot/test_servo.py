import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.emulator.servo import Calibration, Error, Register, Servo, decode, encode

CALIBRATION = Calibration(homing_offset=-340, range_min=910, range_max=3185)


@pytest.fixture
def servo():
    made = Servo(2, mount=-340.0, calibration=CALIBRATION)
    made.sense(degrees=0.0, speed=0.0, load=0.0)
    return made


def word(servo, address):
    return int.from_bytes(servo.read(address, 2), "little")


def write_word(servo, address, value):
    servo.write(address, value.to_bytes(2, "little"))


def pass_time(servo, seconds, *, load=0.0, volts=7.4):
    for _ in range(round(seconds / 0.05)):
        servo.feel(0.05, load=load, volts=volts)


@given(st.integers(-2047, 2047))
def test_what_is_encoded_decodes_to_the_same(value):
    assert decode(encode(value, 11), 11) == value


def test_the_middle_of_a_calibrated_joint_reads_as_half_a_turn(servo):
    assert word(servo, Register.PRESENT_POSITION) == 2048


def test_a_calibration_of_another_arm_shifts_what_is_read(servo):
    servo.calibrate(Calibration(homing_offset=-240, range_min=910, range_max=3185))
    assert word(servo, Register.PRESENT_POSITION) == 2048 - 100


def test_without_multi_turn_readings_wrap(servo):
    servo.mount = 2100.0
    servo.write(Register.PHASE, b"\x0c")
    servo.sense(degrees=0.0, speed=0.0, load=0.0)
    assert word(servo, Register.PRESENT_POSITION) == round(2047.5 + 2100 + 340 - 4096)


def test_a_limp_servo_goes_nowhere(servo):
    write_word(servo, Register.GOAL_POSITION, 1500)
    assert (servo.goal, servo.strength) == (None, 0.0)


def test_torque_that_comes_on_holds_the_joint_where_it_is(servo):
    write_word(servo, Register.GOAL_POSITION, 1500)
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    assert servo.degrees_at(servo.goal) == pytest.approx(0.0, abs=0.1)


def test_a_servo_that_keeps_its_goal_heads_for_it_at_once(servo):
    servo.keeps_goal = True
    write_word(servo, Register.GOAL_POSITION, 1500)
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    assert servo.degrees_at(servo.goal) == pytest.approx(-48.2, abs=0.1)


@given(st.integers(0, 0xFFFF))
def test_no_goal_leaves_the_stored_position_limits(goal):
    servo = Servo(2, mount=-340.0, calibration=CALIBRATION)
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    write_word(servo, Register.GOAL_POSITION, goal)
    assert -100.1 < servo.degrees_at(servo.goal) < 100.1


def test_an_unlocked_register_survives_a_power_cycle_and_a_locked_one_does_not(servo):
    servo.write(Register.LOCK, b"\x00")
    servo.write(Register.ID, b"\x09")
    servo.write(Register.LOCK, b"\x01")
    servo.write(Register.MAX_TEMPERATURE, b"\x50")
    servo.power_cycle()
    assert servo.read(Register.ID, 1) + servo.read(Register.MAX_TEMPERATURE, 1) == b"\x09\x46"


def test_a_power_cycle_switches_torque_off(servo):
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    servo.power_cycle()
    assert not servo.torque


def test_the_lower_of_both_torque_limits_holds(servo):
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    write_word(servo, Register.MAX_TORQUE, 500)
    assert servo.strength == 0.5


def test_lasting_overload_leaves_protective_torque_and_says_so(servo):
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    pass_time(servo, 1.9, load=0.95)
    assert (servo.strength, servo.error) == (1.0, 0)
    pass_time(servo, 0.3, load=0.95)
    assert (servo.strength, servo.error) == (0.2, Error.OVERLOAD)


def test_a_goal_that_turns_the_joint_back_ends_an_overload(servo):
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    write_word(servo, Register.GOAL_POSITION, 2200)
    pass_time(servo, 2.5, load=0.95)
    write_word(servo, Register.GOAL_POSITION, 2300)
    assert servo.strength == 0.2
    write_word(servo, Register.GOAL_POSITION, 1900)
    assert servo.strength == 1.0


def test_switching_torque_off_ends_an_overload(servo):
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    pass_time(servo, 2.5, load=0.95)
    servo.write(Register.TORQUE_ENABLE, b"\x00")
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    assert (servo.strength, servo.error) == (1.0, 0)


def test_a_load_heats_a_servo_toward_its_steady_temperature(servo):
    pass_time(servo, 300.0, load=1.0)
    assert servo.temperature_c == pytest.approx(30 + 45 * (1 - 0.3679), abs=0.2)


def test_a_servo_that_is_too_hot_lets_go(servo):
    servo.write(Register.TORQUE_ENABLE, b"\x01")
    servo.temperature_c = 75.0
    pass_time(servo, 0.05)
    assert (servo.torque, servo.error) == (False, Error.OVERHEAT)


@pytest.mark.parametrize("volts", [3.5, 8.5])
def test_a_voltage_outside_its_limits_is_an_error(servo, volts):
    pass_time(servo, 0.05, volts=volts)
    assert servo.error == Error.VOLTAGE


def test_load_speed_and_current_are_read_with_their_signs(servo):
    servo.sense(degrees=0.0, speed=-10.0, load=-0.5)
    assert word(servo, Register.PRESENT_LOAD) == 0x400 | 500
    assert word(servo, Register.PRESENT_VELOCITY) == 0x8000 | 114
    assert word(servo, Register.CURRENT) == 200


def test_reading_past_the_end_of_the_memory_gives_zeros(servo):
    assert servo.read(95, 4)[1:] == b"\0\0\0"
