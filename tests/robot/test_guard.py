"""No proposal gets an arm past its limits; MuJoCo judges, with shapes of its own."""

import dataclasses
from importlib.resources import files
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import ConvexHull

from robot.arm import JOINTS, frozen, to_radians
from robot.guard import Guard, GuardedArm
from robot.kinematics import inverse, tool_position
from robot.limits import Box, SafetyLimits
from robot.scene import Item, Layout
from robot.twin import Twin

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
GUARD = Guard(LIMITS)
START = frozen([0, -40, 30, 85, 90, 20])
FOLDED_BACK = frozen([0, -97, 30, 20, 0, 20])
ON_TABLE = frozen([0, -97, 92, 69, 90, 45])
DT = 0.05
FINGERS = ("gripper", "camera_mount", "moving_jaw_so101_v1")
ROUNDING = 1e-6
BOW = 1e-4
"""How far a tool may bow out between two checked poses of a 120 deg/s step, metres."""


class Judge:
    """The arm in MuJoCo: the hull of all meshes and collision boxes of each moving body."""

    def __init__(self):
        asset = files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
        self.model = mujoco.MjModel.from_xml_path(str(asset))
        self.data = mujoco.MjData(self.model)
        self.addresses = [self.model.joint(name).qposadr[0] for name in JOINTS]
        self.hulls = [
            (body, self.model.body(body).name in FINGERS, self._hull(body))
            for body in range(2, self.model.nbody)
        ]

    def _hull(self, body):
        """Return the vertices of the convex hull of a body's meshes and boxes, in its frame."""
        model, points = self.model, []
        for geom in np.flatnonzero(model.geom_bodyid == body):
            rot = np.zeros(9)
            mujoco.mju_quat2Mat(rot, model.geom_quat[geom])
            if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
                mesh = model.geom_dataid[geom]
                first = model.mesh_vertadr[mesh]
                shape = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
            elif model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX:
                shape = model.geom_size[geom] * (2.0 * np.array(list(np.ndindex(2, 2, 2))) - 1)
            else:
                continue
            points.append(shape @ rot.reshape(3, 3).T + model.geom_pos[geom])
        cloud = np.concatenate(points)
        return cloud[ConvexHull(cloud).vertices]

    def see(self, joints):
        self.data.qpos[self.addresses] = to_radians(joints)
        mujoco.mj_kinematics(self.model, self.data)

    def tool(self, joints):
        self.see(joints)
        return self.data.site("gripperframe").xpos.copy()

    def extent(self, joints):
        """Lower and upper corner of the box around all moving links."""
        self.see(joints)
        places = np.concatenate([self._places(body, hull) for body, _, hull in self.hulls])
        return places.min(0), places.max(0)

    def lowest(self, joints, name):
        self.see(joints)
        return min(
            self._places(body, hull)[:, 2].min()
            for body, _, hull in self.hulls
            if self.model.body(body).name == name
        )

    def _places(self, body, hull):
        return hull @ self.data.xmat[body].reshape(3, 3).T + self.data.xpos[body]

    def violations(self, joints):
        """Metres outside: tool box (6), arm box (6), fingers and links over the table (2)."""
        tool = self.tool(joints)
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        lowest = {True: np.inf, False: np.inf}
        for body, finger, points in self.hulls:
            places = self._places(body, points)
            low, high = np.minimum(low, places.min(0)), np.maximum(high, places.max(0))
            lowest[finger] = min(lowest[finger], places[:, 2].min())
        outside = [
            LIMITS.tool_box.lower - tool,
            tool - LIMITS.tool_box.upper,
            LIMITS.arm_box.lower - low,
            high - LIMITS.arm_box.upper,
            [LIMITS.finger_clearance - lowest[True], LIMITS.link_clearance - lowest[False]],
        ]
        return np.concatenate(outside)


JUDGE = Judge()


def poses(scale=1.0):
    middle, half = (
        (LIMITS.joint_upper + LIMITS.joint_lower) / 2,
        (LIMITS.joint_upper - LIMITS.joint_lower) / 2,
    )
    unit = arrays(np.float64, 6, elements=st.floats(-1, 1))
    return unit.map(lambda values: middle + scale * half * values)


def rules(command):
    return {event.rule for event in command.events}


def assert_servo_limits(command, last):
    step = np.abs(command.joint_target - last)
    assert (step <= LIMITS.max_speed * DT + 1e-9).all()
    assert (command.joint_target >= LIMITS.joint_lower).all()
    assert (command.joint_target <= LIMITS.joint_upper).all()


def follow(proposals, last):
    """Yield (last, command) of an ideal arm that is where it was told to be."""
    for proposal in proposals:
        command = GUARD.check(proposal, last=last, measured=last, dt=DT)
        yield last, command
        last = command.joint_target


def kept_promises(proposals):
    """Return how many commands kept all promises; the first that did not ends this."""
    kept = 0
    for last, command in follow(proposals, START):
        assert_servo_limits(command, last)
        for share in np.linspace(0, 1, 9):
            point = last + share * (command.joint_target - last)
            assert JUDGE.violations(point).max() <= ROUNDING
        between = last + 7 / 16 * (command.joint_target - last)
        assert JUDGE.violations(between).max() <= BOW
        kept += 1
    return kept


@settings(max_examples=60, deadline=None)
@given(st.lists(poses(scale=3.0), min_size=1, max_size=8))
def test_no_sequence_of_wild_proposals_leaves_the_limits(proposals):
    assert kept_promises(proposals) == len(proposals)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.1, 0.36), st.floats(-0.24, 0.24), st.floats(-0.05, 0.1)),
        min_size=1,
        max_size=4,
    )
)
def test_no_pushing_into_the_table_leaves_the_limits(goals):
    proposals, last = [], START
    for goal in goals:
        for _ in range(5):
            last = inverse(
                np.array(goal),
                start=last,
                lower=LIMITS.joint_lower,
                upper=LIMITS.joint_upper,
                roll=90.0,
            )
            proposals.append(last)
    assert kept_promises(proposals) == len(proposals)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=3000, deadline=None)
@given(st.lists(poses(scale=3.0), min_size=1, max_size=20))
def test_no_long_sequence_of_wild_proposals_leaves_the_limits(proposals):
    assert kept_promises(proposals) == len(proposals)


@settings(max_examples=150, deadline=None)
@given(last=poses(), proposal=poses(), measured=poses())
def test_from_any_pose_range_and_speed_hold_and_nothing_gets_worse(last, proposal, measured):
    command = GUARD.check(proposal, last=last, measured=measured, dt=DT)
    assert_servo_limits(command, last)
    # What MuJoCo measures exactly the guard may overestimate by its points' margin, 1 mm at most.
    allowed = np.maximum(JUDGE.violations(last), 0.0)
    for share in np.linspace(0, 1, 9)[1:]:
        point = last + share * (command.joint_target - last)
        worse = JUDGE.violations(point) - allowed
        assert worse[:6].max() <= ROUNDING
        assert worse[[8, 12, 13]].max() <= 1e-3


@pytest.mark.parametrize("size", [0.5, 3.0, 20.0])
def test_what_the_guard_remembers_changes_no_command(size):
    one, forgetful, rng, remembered = Guard(LIMITS), Guard(LIMITS), np.random.default_rng(3), 0
    nothing = forgetful._known
    last = goal = np.array([0.0, -40.0, 30.0, 60.0, 90.0, 30.0])
    for step in range(1500):
        if step % 25 == 0:
            goal = last + size * rng.uniform(-10, 10, 6)
        wanted = last + np.clip(goal - last, -size, size)
        ours = one.check(wanted, last=last, measured=last, dt=0.05)
        forgetful._known = nothing
        fresh = forgetful.check(wanted, last=last, measured=last, dt=0.05)
        assert np.array_equal(ours.joint_target, fresh.joint_target)
        assert ours.events == fresh.events
        remembered += one._has_room(last, ours.joint_target)
        last = ours.joint_target
    assert remembered > 0


@settings(max_examples=100, deadline=None)
@given(last=poses(), proposal=poses())
# Here the shortened way rises over its start between two points of the whole way.
@example(
    last=np.array([24.0625, 34.375, 78.65, 20.78125, 98.8640625, 89.84375]),
    proposal=np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0]),
)
def test_no_bound_that_the_guard_sees_gets_worse_on_the_way(last, proposal):
    command = GUARD.check(proposal, last=last, measured=last, dt=DT)
    path = last + np.linspace(0, 1, 9)[:, None] * (command.joint_target - last)
    found = GUARD.volumes.violations(path)
    assert (found <= np.maximum(found[:, :1], 0.0) + 1e-9).all()


def test_an_arm_below_its_table_may_only_rise():
    up, down = ON_TABLE.copy(), ON_TABLE.copy()
    up[3] -= 3.0
    down[3] += 3.0
    rising = GUARD.check(up, last=ON_TABLE, measured=ON_TABLE, dt=DT)
    sinking = GUARD.check(down, last=ON_TABLE, measured=ON_TABLE, dt=DT)
    np.testing.assert_array_equal(rising.joint_target, up)
    np.testing.assert_array_equal(sinking.joint_target, ON_TABLE)
    assert {"tool_box:z", "table:gripper"} <= {str(event) for event in sinking.events}


def test_a_pose_outside_its_ranges_comes_back_a_step_at_a_time():
    outside = START.copy()
    outside[5] = -20.0
    command = GUARD.check(START, last=outside, measured=outside, dt=DT)
    assert command.joint_target[5] == pytest.approx(-20.0 + LIMITS.max_speed[5] * DT)


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("way", [-1, 1])
def test_a_joint_is_driven_to_the_end_of_its_range_and_no_further(joint, way):
    free = Box(lower=frozen([-2, -2, -2]), upper=frozen([2, 2, 2]))
    guard = Guard(dataclasses.replace(LIMITS, tool_box=free, arm_box=free, table_z=-2.0))
    # Folded back every joint has its whole range, but for what the arm itself is in the way of.
    last, seen = FOLDED_BACK, set()
    for _ in range(60):
        beyond = FOLDED_BACK.copy()
        beyond[joint] = way * 1e6
        command = guard.check(beyond, last=last, measured=last, dt=DT)
        last = command.joint_target
        seen |= {str(event) for event in command.events}
    limit = (LIMITS.joint_lower if way < 0 else LIMITS.joint_upper)[joint]
    expected = {f"range:{JOINTS[joint]}"}
    if abs(FOLDED_BACK[joint] - limit) > LIMITS.max_speed[joint] * DT:
        expected.add(f"step:{JOINTS[joint]}")
    if (joint, way) == (2, 1):
        assert limit - 5.0 < last[joint] < limit
        assert seen == {*expected, "own_links:lower_arm"}
    else:
        assert last[joint] == limit
        assert seen == expected


@pytest.mark.parametrize("joint", range(6))
def test_a_joint_that_does_not_follow_is_led_only_so_far(joint):
    last = START
    events = ()
    for _ in range(20):
        proposal = last.copy()
        proposal[joint] += 2.0 if joint == 5 else -2.0
        command = GUARD.check(proposal, last=last, measured=START, dt=DT)
        last, events = command.joint_target, events + command.events
    assert abs(START[joint] - last[joint]) <= LIMITS.max_lead[joint] + 1e-9
    if joint not in {1, 2, 3}:
        assert f"lead:{JOINTS[joint]}" in {str(event) for event in events}


def test_the_step_outranks_the_lead():
    pushed_away = START + frozen([-40, 0, 0, 0, 0, 0])
    command = GUARD.check(START, last=START, measured=pushed_away, dt=DT)
    assert START[0] - command.joint_target[0] == pytest.approx(LIMITS.max_speed[0] * DT)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("way", [-1, 1])
def test_the_tool_is_driven_to_each_side_of_its_box_and_no_further(axis, way):
    last, seen = START, set()
    for _ in range(80):
        goal = tool_position(last)
        goal[axis] += way * 0.02
        proposal = inverse(
            goal, start=last, lower=LIMITS.joint_lower, upper=LIMITS.joint_upper, tilt_weight=0.0
        )
        command = GUARD.check(proposal, last=last, measured=last, dt=DT)
        last = command.joint_target
        seen |= rules(command)
    side = (LIMITS.tool_box.lower if way < 0 else LIMITS.tool_box.upper)[axis]
    assert way * (JUDGE.tool(last)[axis] - side) <= ROUNDING
    assert seen & {"tool_box", "arm_box", "table", "own_links"}


def wandering(guard, *, steps, seed):
    """Yield the commands of an arm that is pushed one way for a while, then another."""
    rng, last, way = np.random.default_rng(seed), START, np.zeros(6)
    for step in range(steps):
        if step % 15 == 0:
            way = 6.0 * rng.choice([-1.0, 0.0, 1.0], 6)
        command = guard.check(last + way, last=last, measured=last, dt=DT)
        last = command.joint_target
        yield command


def test_no_link_leaves_the_arm_box_on_any_side():
    low, high = JUDGE.extent(START)
    everywhere = Box(lower=frozen([-2, -2, -2]), upper=frozen([2, 2, 2]))
    box = Box(lower=frozen(low - [0.05, 0.05, 2.0]), upper=frozen(high + 0.05))
    guard = Guard(dataclasses.replace(LIMITS, tool_box=everywhere, arm_box=box, table_z=-2.0))
    sides = np.full((2, 3), -np.inf)
    for command in wandering(guard, steps=600, seed=0):
        low, high = JUDGE.extent(command.joint_target)
        sides = np.maximum(sides, [box.lower - low, high - box.upper])
    assert sides.max() <= ROUNDING
    # It came near every side that it can reach, so that each was really tried.
    assert (sides[[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]] > -0.045).all()


def test_links_that_are_no_fingers_keep_a_clearance_of_their_own():
    everywhere = Box(lower=frozen([-2, -2, -2]), upper=frozen([2, 2, 2]))
    guard = Guard(
        dataclasses.replace(
            LIMITS, tool_box=everywhere, arm_box=everywhere, table_z=-0.06, link_clearance=0.12
        )
    )
    # The shoulder, which only turns, is below that from the start and no worse for it.
    seen = set()
    for command in wandering(guard, steps=600, seed=2):
        assert JUDGE.lowest(command.joint_target, "wrist") >= 0.06 - ROUNDING
        seen |= {str(event) for event in command.events}
    assert "table:wrist" in seen


def test_an_arm_that_presses_on_its_floor_still_closes_its_gripper():
    low = inverse(
        np.array([0.2, 0.0, LIMITS.tool_box.lower[2] + 1e-9]),
        start=START,
        lower=LIMITS.joint_lower,
        upper=LIMITS.joint_upper,
        roll=90.0,
        iterations=60,
    )
    pressing = inverse(
        np.array([0.2, 0.0, 0.0]),
        start=low,
        lower=LIMITS.joint_lower,
        upper=LIMITS.joint_upper,
        roll=90.0,
    )
    pressing[5] = low[5] - 5.0
    command = GUARD.check(pressing, last=low, measured=low, dt=DT)
    np.testing.assert_array_equal(command.joint_target[:5], low[:5])
    assert command.joint_target[5] == pressing[5]


def test_a_grasp_just_above_the_table_is_allowed_over_the_workspace():
    last = START
    for x in np.linspace(0.175, 0.30, 4):
        for y in (-0.13, 0.0, 0.13):
            for goal in ([x, y, 0.05], [x, y, 0.0115], [x, y, 0.05]):
                last = drive(last, np.array(goal))
                assert np.linalg.norm(tool_position(last) - goal) < 1e-3, goal


def drive(last, goal):
    for _ in range(60):
        way = goal - tool_position(last)
        step = tool_position(last) + way * min(1.0, 0.0125 / max(np.linalg.norm(way), 1e-9))
        proposal = inverse(
            step, start=last, lower=LIMITS.joint_lower, upper=LIMITS.joint_upper, roll=90.0
        )
        last = GUARD.check(proposal, last=last, measured=last, dt=DT).joint_target
    return last


def test_a_compliant_arm_never_gets_a_command_past_its_limits():
    twin = Twin(Layout(thing=Item("cube", "red")), preset="compliant")
    arm = GuardedArm(twin, GUARD, twin.clock, period_s=DT)
    rng = np.random.default_rng(0)
    last = arm.observe(frames=False).joint_target
    for _ in range(100):
        now = arm.clock.now()
        command = arm.command(rng.uniform(-200, 200, 6), stamp=now)
        assert_servo_limits(command, last)
        assert JUDGE.violations(command.joint_target).max() <= ROUNDING
        last = command.joint_target
        arm.clock.sleep_until(now + DT)


def test_a_pose_in_radians_is_refused_and_says_so():
    near = START + np.array([2, -3, 1, 4, -2, 10])
    given = np.append(np.deg2rad(near[:5]), near[5])
    command = GUARD.check(given, last=START, measured=START, dt=DT)
    assert [str(event) for event in command.events] == ["refused:radians"]
    np.testing.assert_array_equal(command.joint_target, START)


def test_a_goal_near_the_middle_of_every_joint_is_in_degrees():
    middle = frozen([1, -2, 3, 2, 1, 20])
    command = GUARD.check(middle, last=START, measured=START, dt=DT)
    assert {event.rule for event in command.events} <= {"step", "tool_box", "arm_box", "table"}
    command = GUARD.check(middle, last=middle, measured=middle, dt=DT)
    assert "refused" not in {event.rule for event in command.events}
