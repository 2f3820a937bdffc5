import numpy as np
import pytest

from robot.arm import JOINTS
from robot.emulator.emulated_arm import EmulatedArm, read_calibration
from robot.emulator.servo import Error, Register
from robot.emulator.servo_bus import BROADCAST, READ, SYNC_WRITE, frame
from robot.emulator.twin_body import TwinBody
from robot.scene import Item, Layout
from robot.twin import Twin
from tests.robot.emulated import CALIBRATION

LAYOUT = Layout(thing=Item("cube", "red"))
STRETCHED = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])
READY = np.array([0.0, -30.0, 30.0, 60.0, 90.0, 30.0])


class Watching:
    def __init__(self):
        self.goals = []

    def see(self, goals, now, *, measured):
        self.goals.append(goals)


def make_arm(preset="stiff", pose=READY, judge=None):
    twin = TwinBody(LAYOUT, preset=preset)
    twin.place_arm(pose)
    return EmulatedArm(twin, calibration=read_calibration(CALIBRATION), judge=judge)


@pytest.fixture
def arm():
    return make_arm()


def torque(arm, value):
    params = [Register.TORQUE_ENABLE, 1]
    for servo_id in range(1, 7):
        params += [servo_id, value]
    arm.feed(frame(BROADCAST, SYNC_WRITE, bytes(params)))


def word(arm, joint, address):
    return int.from_bytes(arm.servos[joint].read(address, 2), "little")


def go(arm, joint, ticks):
    data = ticks.to_bytes(2, "little")
    servo_id = JOINTS.index(joint) + 1
    arm.feed(frame(BROADCAST, SYNC_WRITE, bytes([Register.GOAL_POSITION, 2, servo_id]) + data))


def run(arm, seconds):
    for _ in range(round(seconds / 0.005)):
        arm.step()


def test_a_limp_arm_sinks_under_its_weight():
    arm = make_arm(pose=STRETCHED)
    run(arm, 1.0)
    assert arm.twin.joint_pos()[1] > 20.0


def test_torque_holds_a_stiff_arm_where_it_is(arm):
    torque(arm, 1)
    run(arm, 1.0)
    np.testing.assert_allclose(arm.twin.joint_pos(), READY, atol=0.5)


def test_a_compliant_arm_gives_way_by_degrees():
    arm = make_arm("compliant", STRETCHED)
    torque(arm, 1)
    run(arm, 1.0)
    assert 1.0 < arm.twin.joint_pos()[1] < 6.0


def test_a_goal_moves_the_joint_to_where_the_calibration_says(arm):
    torque(arm, 1)
    go(arm, "shoulder_pan", 2047 + 228)
    run(arm, 1.0)
    assert arm.twin.joint_pos()[0] == pytest.approx(20.0, abs=0.2)


def test_the_bus_reads_what_the_joint_does(arm):
    torque(arm, 1)
    go(arm, "shoulder_pan", 2047 + 228)
    run(arm, 1.0)
    ((_, status),) = arm.feed(frame(1, READ, bytes([Register.PRESENT_POSITION, 2])))
    assert int.from_bytes(status[5:7], "little") == pytest.approx(2275, abs=2)


def test_a_stuck_joint_pulls_until_its_overload_protection_speaks(arm):
    arm.servos["elbow_flex"].write(Register.PROTECTION_TIME, bytes([20]))
    torque(arm, 1)
    arm.twin.stick(2, stuck=True)
    go(arm, "elbow_flex", 1200)
    run(arm, 0.15)
    assert abs(arm.twin.loads()[2]) > 0.9
    run(arm, 0.5)
    assert arm.servos["elbow_flex"].error == Error.OVERLOAD
    assert abs(arm.twin.loads()[2]) == pytest.approx(0.2, abs=0.01)
    assert arm.twin.joint_pos()[2] == pytest.approx(READY[2], abs=2.0)


def test_a_servo_that_gets_too_hot_drops_its_joint():
    arm = make_arm(pose=STRETCHED)
    torque(arm, 1)
    arm.servos["shoulder_lift"].temperature_c = 90.0
    run(arm, 1.0)
    assert arm.twin.joint_pos()[1] > 20.0


@pytest.mark.parametrize("preset", ["stiff", "compliant"])
def test_a_joint_that_moves_freely_at_full_speed_is_not_overloaded(preset):
    arm, loads = make_arm(preset), []
    torque(arm, 1)
    for count in range(50):
        go(arm, "shoulder_pan", 2047 + round(count * 120 * 0.02 * 4095 / 360))
        run(arm, 0.02)
        loads.append(word(arm, "shoulder_pan", Register.PRESENT_LOAD) & 0x3FF)
    assert 0 < max(loads) < 700


def test_a_delayed_servo_that_is_switched_on_does_not_start_for_an_older_goal():
    arm, angles = make_arm("compliant"), []
    arm.push({0: 0.5}, seconds=0.2)
    run(arm, 0.3)
    arm.release()
    torque(arm, 1)
    for _ in range(20):
        run(arm, 0.01)
        angles.append(arm.twin.angles()[0])
    np.testing.assert_allclose(angles, 0.5, atol=0.02)


@pytest.mark.parametrize("preset", ["stiff", "compliant"])
def test_load_is_how_far_a_blocked_joint_is_kept_from_its_goal(preset):
    arm = make_arm(preset)
    torque(arm, 1)
    arm.twin.stick(0, stuck=True)
    for degrees, low, high in ((0.3, 0.0, 0.03), (4.0, 0.2, 0.38), (8.0, 0.45, 0.75)):
        go(arm, "shoulder_pan", 2047 + round(degrees * 4095 / 360))
        run(arm, 0.3)
        assert low <= (word(arm, "shoulder_pan", Register.PRESENT_LOAD) & 0x3FF) / 1000 <= high


def test_load_makes_the_supply_sag(arm):
    run(arm, 0.05)
    idle = arm.servos["gripper"].read(Register.VOLTAGE, 1)[0]
    torque(arm, 1)
    arm.twin.stick(2, stuck=True)
    arm.twin.stick(1, stuck=True)
    go(arm, "elbow_flex", 1200)
    go(arm, "shoulder_lift", 1200)
    run(arm, 0.2)
    assert arm.servos["gripper"].read(Register.VOLTAGE, 1)[0] < idle


def test_a_hand_moves_limp_joints_evenly_and_holds_them(arm):
    arm.push({1: 0.0, 2: 0.0}, seconds=0.5)
    run(arm, 0.25)
    assert arm.twin.joint_pos()[2] == pytest.approx(15.0, abs=0.5)
    run(arm, 1.0)
    assert arm.twin.joint_pos()[2] == pytest.approx(0.0, abs=0.2)
    arm.release()
    run(arm, 1.0)
    assert arm.twin.joint_pos()[2] > 10.0


def test_no_hand_moves_a_joint_beyond_its_stop(arm):
    arm.push({0: 3.0}, seconds=0.1)
    run(arm, 0.2)
    assert arm.twin.joint_pos()[0] == pytest.approx(110.0, abs=0.5)


def test_a_joint_with_torque_is_not_moved_by_hand(arm):
    torque(arm, 1)
    with pytest.raises(ValueError, match="torque on"):
        arm.push({0: 0.5}, seconds=0.0)


def test_a_new_scene_is_that_of_the_twin_and_the_arm_stays(arm):
    twin = Twin(LAYOUT, cameras=())
    twin.reset(seed=4)
    before = arm.twin.angles()
    arm.twin.reset_scene(4)
    np.testing.assert_allclose(arm.twin.truth().thing, twin.truth().thing, atol=1e-4)
    np.testing.assert_array_equal(arm.twin.angles(), before)


def test_another_table_leaves_the_arm_as_it_is(arm):
    torque(arm, 1)
    go(arm, "shoulder_pan", 2047 + 228)
    run(arm, 0.1)
    before, time = arm.twin.angles(), arm.twin.time
    arm.replace_twin(TwinBody(Layout(thing=Item("cube", "green"), place=Item("bowl", "blue"))))
    np.testing.assert_array_equal(arm.twin.angles(), before)
    assert arm.twin.time == pytest.approx(time)
    run(arm, 1.0)
    assert arm.twin.joint_pos()[0] == pytest.approx(20.0, abs=0.2)
    assert arm.twin.truth().place is not None


def test_bodies_do_not_share_what_is_done_to_them(arm):
    other = make_arm(pose=STRETCHED)
    torque(other, 1)
    torque(arm, 0)
    run(other, 0.5)
    assert other.twin.joint_pos()[1] == pytest.approx(0.0, abs=0.5)


def test_the_judge_is_shown_goals_of_servos_with_torque_only():
    judge = Watching()
    arm = make_arm(judge=judge)
    torque(arm, 1)
    go(arm, "shoulder_pan", 2047 + 228)
    assert np.isnan(judge.goals[0]).all()
    assert np.rad2deg(judge.goals[-1][0]) == pytest.approx(20.0, abs=0.1)
