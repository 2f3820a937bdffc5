"""Own kinematics against MuJoCo and the official model."""

from importlib.resources import files

import mujoco
import numpy as np
import pytest

from robot.arm import JOINTS, from_radians, frozen, to_radians
from robot.kinematics import (
    LINKS,
    OFFICIAL_SITE,
    forward,
    inverse,
    jaw_centre,
    jaw_gap,
    tool_axis,
    tool_jacobian,
    tool_position,
)

LOWER = frozen([-110, -100, -96.8, -95, -157.2, 0])
UPPER = frozen([110, 100, 96.8, 95, 157.2, 100])
TOOL_DOWN = frozen([0, -40, 38, 88, 90, 20])
BODIES = (*LINKS[:-1], "moving_jaw_so101_v1")

# degrees in; official gripperframe, wrist, gripper and moving jaw origins out, metres
REFERENCE = (
    (
        (0, 0, 0, 0, 0, 0),
        (0.39136, -0.00001, 0.22647),
        (0.23213, -0.01828, 0.23437),
        (0.29323, -0.00018, 0.23437),
        (0.31663, 0.01762, 0.25546),
    ),
    (
        (0, -90, 90, 60, 0, 0),
        (0.16434, -0.00001, 0.00795),
        (0.09156, -0.01828, 0.14980),
        (0.12211, -0.00018, 0.09689),
        (0.15208, 0.01762, 0.08717),
    ),
    (
        (30, -45, 60, 20, 0, 0),
        (0.23641, -0.11408, 0.08830),
        (0.11825, -0.06695, 0.18611),
        (0.17064, -0.07630, 0.15106),
        (0.20661, -0.07653, 0.15492),
    ),
    (
        (-60, 20, 40, -30, 90, 0),
        (0.19832, 0.26008, 0.01882),
        (0.13825, 0.13563, 0.09858),
        (0.14903, 0.19051, 0.06803),
        (0.13645, 0.21090, 0.04092),
    ),
    (
        (0, 60, -40, 60, -90, 0),
        (0.33708, 0.00772, -0.04940),
        (0.30927, -0.01828, 0.10738),
        (0.31988, -0.00018, 0.04721),
        (0.34146, -0.02127, 0.02726),
    ),
    (
        (90, -100, 96, 90, 0, 0),
        (0.03882, -0.05211, -0.02017),
        (0.02056, -0.04889, 0.13922),
        (0.03866, -0.05315, 0.07827),
        (0.05645, -0.07582, 0.05640),
    ),
    (
        (45, 0, 0, 0, 45, 30),
        (0.28412, -0.25327, 0.22867),
        (0.16259, -0.14961, 0.23437),
        (0.21860, -0.18001, 0.23437),
        (0.25459, -0.17712, 0.23670),
    ),
    (
        (-20, 10, -10, 80, 10, 60),
        (0.25767, 0.07818, 0.06963),
        (0.24470, 0.05548, 0.22780),
        (0.24848, 0.07611, 0.16763),
        (0.26141, 0.10337, 0.14765),
    ),
)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    asset = files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
    return mujoco.MjModel.from_xml_path(str(asset))


def random_poses(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(LOWER, UPPER, (count, 6))


def test_every_link_is_where_mujoco_has_it(model):
    data = mujoco.MjData(model)
    poses = random_poses(300)
    ours = forward(poses)
    addresses = [model.joint(name).qposadr[0] for name in JOINTS]
    for row, joints in enumerate(poses):
        data.qpos[addresses] = to_radians(joints)
        mujoco.mj_kinematics(model, data)
        bodies = [model.body(name).id for name in BODIES]
        np.testing.assert_allclose(ours.pos[row], data.xpos[bodies], atol=1e-6)
        np.testing.assert_allclose(ours.rot[row].reshape(7, 9), data.xmat[bodies], atol=1e-6)
        site = data.site("gripperframe").xpos
        np.testing.assert_allclose(tool_position(joints), site, atol=1e-6)


@pytest.mark.parametrize("reference", REFERENCE)
def test_the_official_model_has_its_links_in_the_same_places(reference):
    degrees, official_site, *origins = reference
    found = forward(from_radians(np.deg2rad(np.array(degrees, float))))
    gripper = LINKS.index("gripper")
    np.testing.assert_allclose(found.pos[[4, 5, 6]], origins, atol=1e-5)
    site = found.rot[gripper] @ OFFICIAL_SITE + found.pos[gripper]
    np.testing.assert_allclose(site, official_site, atol=1e-5)


def test_a_batch_of_any_shape_gives_the_poses_of_its_members():
    poses = random_poses(6)
    batch = forward(poses.reshape(2, 3, 6))
    single = forward(poses[4])
    np.testing.assert_allclose(batch.pos[1, 1], single.pos, atol=1e-12)
    np.testing.assert_allclose(batch.rot[1, 1], single.rot, atol=1e-12)


def test_the_jacobian_predicts_small_moves_of_the_tool():
    for joints in random_poses(30):
        jacobian = tool_jacobian(joints)
        for joint in range(6):
            nudge = np.zeros(6)
            nudge[joint] = 1e-3
            moved = tool_position(joints + nudge) - tool_position(joints - nudge)
            turned = tool_axis(joints + nudge) - tool_axis(joints - nudge)
            np.testing.assert_allclose(jacobian[:3, joint] * 2e-3, moved, atol=1e-10)
            predicted = np.cross(jacobian[3:, joint], tool_axis(joints)) * 2e-3
            np.testing.assert_allclose(predicted, turned, atol=1e-10)


def test_the_tool_does_not_move_when_the_gripper_opens():
    wide = TOOL_DOWN.copy()
    wide[5] = 90.0
    np.testing.assert_array_equal(tool_position(wide), tool_position(TOOL_DOWN))


@pytest.mark.parametrize(("radians", "gap_mm"), [(-0.17, 4), (0.0, 16), (0.2, 32), (0.4, 48)])
def test_the_gap_between_the_jaws_is_the_measured_one(radians, gap_mm):
    percent = from_radians(np.array([0, 0, 0, 0, 0, radians]))[5]
    assert jaw_gap(percent) == pytest.approx(gap_mm / 1000, abs=0.002)


def test_jaws_closed_on_a_cube_have_their_middle_7_mm_off_the_tool():
    holding = TOOL_DOWN.copy()
    holding[5] = from_radians(np.array([0, 0, 0, 0, 0, 0.12]))[5]
    off = np.linalg.norm(jaw_centre(holding) - tool_position(holding))
    assert off == pytest.approx(0.0075, abs=0.001)


def test_a_step_of_25_mm_over_the_workspace_is_solved_to_a_tenth_of_a_millimetre():
    rng = np.random.default_rng(0)
    joints, errors = TOOL_DOWN, []
    for _ in range(30):
        goal = rng.uniform([0.18, -0.13, 0.011], [0.29, 0.13, 0.09])
        way = goal - tool_position(joints)
        for share in np.linspace(0, 1, int(np.linalg.norm(way) / 0.025) + 2)[1:]:
            step = goal - (1 - share) * way
            joints = inverse(step, start=joints, lower=LOWER, upper=UPPER, roll=90.0)
            errors.append(np.linalg.norm(tool_position(joints) - step))
    assert np.percentile(errors, 95) < 1e-4


def test_a_joint_at_its_limit_does_not_keep_the_others_from_getting_there():
    # At 100 mm height and this distance a vertical tool would need more wrist_flex than there is.
    goal = np.array([0.30, 0.0, 0.10])
    found = inverse(goal, start=TOOL_DOWN, lower=LOWER, upper=UPPER, roll=90.0, iterations=40)
    assert np.linalg.norm(tool_position(found) - goal) < 1e-4


def test_what_is_out_of_reach_stays_within_the_limits():
    far = np.array([0.8, 0.5, 0.5])
    found = inverse(far, start=TOOL_DOWN, lower=LOWER, upper=UPPER, iterations=60)
    assert (found >= LOWER).all()
    assert (found <= UPPER).all()


def test_roll_and_gripper_are_as_asked():
    found = inverse(tool_position(TOOL_DOWN), start=TOOL_DOWN, lower=LOWER, upper=UPPER, roll=60.0)
    assert found[4] == pytest.approx(60.0)
    assert found[5] == TOOL_DOWN[5]


def test_fingers_are_turned_down_where_the_position_allows_it():
    tilted = frozen([0, -60, 70, 40, 90, 20])
    goal = np.array([0.2, 0.0, 0.05])
    found = inverse(goal, start=tilted, lower=LOWER, upper=UPPER, roll=90.0, iterations=100)
    assert tool_axis(found)[2] < -0.99
