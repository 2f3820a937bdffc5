"""The arm's own links keep apart, by MuJoCo's word."""

from importlib.resources import files

import mujoco
import numpy as np
import pytest

from envs.twin_env import SAFETY
from robot.arm import LOOK_POSE, to_radians
from robot.guard import Guard
from robot.kinematics import LINKS, frames
from robot.limits import SafetyLimits
from robot.own_links import CLEARANCE, FOLDING, OwnLinks, link_boxes

LIMITS = SafetyLimits.load(SAFETY)
OWN = OwnLinks(link_boxes())
CARRYING = {"shoulder", "upper_arm"}
JAMMED = np.array([0.0, -50.0, 62.0, 63.0, 90.0, 45.0])
"""Where the wrist camera's mount touches the shoulder."""


class Mujoco:
    """The contacts of the official model's own collision shapes."""

    def __init__(self):
        asset = files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
        self.model = mujoco.MjModel.from_xml_path(str(asset))
        self.data = mujoco.MjData(self.model)

    def touches(self, joints):
        """Return whether a link that folds touches one that carries it."""
        self.data.qpos[:6] = to_radians(joints)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_collision(self.model, self.data)
        pairs = (
            {self.model.body(self.model.geom_bodyid[geom]).name for geom in (c.geom1, c.geom2)}
            for c in self.data.contact[: self.data.ncon]
        )
        return any(pair & CARRYING and not pair <= CARRYING for pair in pairs)


@pytest.fixture(scope="module")
def judge():
    return Mujoco()


def poses(count, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(LIMITS.joint_lower, LIMITS.joint_upper, (count, 6))


def near(joints):
    return OWN.violations(frames(joints))


def test_a_pose_that_touches_itself_is_never_called_apart(judge):
    drawn = poses(2500, 1)
    # One by one: whether links are looked at at all depends on the poses that come together.
    said = np.array([near(pose[None]).max() for pose in drawn])
    touching = np.array([judge.touches(pose) for pose in drawn])
    assert touching.sum() > 200
    assert (said[touching] > CLEARANCE).all()


def test_most_poses_that_do_not_touch_are_free(judge):
    drawn = poses(1500, 2)
    free = np.array([not judge.touches(pose) for pose in drawn])
    refused = near(drawn).max(1) > 0
    assert (refused & free).sum() < 0.05 * free.sum()


def test_the_pose_of_rest_is_free_and_so_is_a_pose_over_the_table():
    rest, work = [*LOOK_POSE, 45.0], [8.0, -14.0, 10.0, 94.0, 90.0, 45.0]
    assert (near(np.array([rest])) < 0).all()
    assert (near(np.array([work])) < 0).all()


def test_the_link_that_is_too_near_is_named():
    guard = Guard(LIMITS)
    before = JAMMED - [0.0, 0.0, 6.0, 0.0, 0.0, 0.0]
    command = guard.check(JAMMED, last=before, measured=before, dt=0.05)
    assert [str(event) for event in command.events] == ["own_links:gripper"]
    assert near(command.joint_target[None]).max() <= 1e-9


def test_an_arm_that_touches_itself_may_unfold_and_not_fold_on():
    guard = Guard(LIMITS)
    folded, unfolded = JAMMED + [0, 0, 3.0, 0, 0, 0], JAMMED - [0, 0, 3.0, 0, 0, 0]
    on = guard.check(folded, last=JAMMED, measured=JAMMED, dt=0.05)
    back = guard.check(unfolded, last=JAMMED, measured=JAMMED, dt=0.05)
    assert np.array_equal(on.joint_target, JAMMED)
    assert np.array_equal(back.joint_target, unfolded)


@pytest.mark.parametrize("dt", [0.02, 0.05])
def test_no_command_of_a_wild_driver_makes_the_arm_touch_itself(judge, dt):
    guard, rng = Guard(LIMITS), np.random.default_rng(3)
    last, stopped = np.array([*LOOK_POSE, 45.0]), 0
    goal = last
    for step in range(1500):
        if step % 25 == 0:
            goal = rng.uniform(LIMITS.joint_lower, LIMITS.joint_upper)
            # Far bent, where it matters.
            goal[2:4] = rng.uniform(40.0, 96.0, 2)
        before, last = last, guard.check(goal, last=last, measured=last, dt=dt).joint_target
        stopped += np.array_equal(before, last)
        for share in (0.25, 0.5, 0.75, 1.0):
            assert not judge.touches(before + share * (last - before))
    assert stopped < 1500


def test_every_link_that_folds_is_looked_at():
    links = {LINKS[1:][box.link] for box in link_boxes()}
    assert links == {*LINKS[1:]}
    assert near(np.zeros((2, 6))).shape == (2, len(FOLDING))
