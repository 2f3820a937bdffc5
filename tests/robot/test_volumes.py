"""What is said of a way between its points holds for every point of it."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robot.guard import Guard
from robot.limits import SafetyLimits
from robot.volumes import Volumes

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
VOLUMES = Volumes(LIMITS)
units = arrays(np.float64, 6, elements=st.floats(-1, 1))
MIDDLE = (LIMITS.joint_upper + LIMITS.joint_lower) / 2
HALF = (LIMITS.joint_upper - LIMITS.joint_lower) / 2
poses = units.map(lambda values: MIDDLE + HALF * values)


@settings(max_examples=150, deadline=None)
@given(start=poses, change=units.map(lambda values: 20.0 * values))
def test_a_way_bulges_no_further_than_its_bend_allows(start, change):
    shares = np.linspace(0, 1, 41)[:, None]
    found = VOLUMES.violations(start + shares * change)[:-1]
    straight = found[:, :1] + shares * (found[:, -1:] - found[:, :1])
    bulge = 0.5 * VOLUMES.bend(change) * shares * (1 - shares)
    assert (found <= straight + bulge + 1e-9).all()


@settings(max_examples=300, deadline=None)
@given(start=poses, change=units, size=st.sampled_from([0.1, 1.0, 20.0]))
def test_nothing_comes_nearer_to_a_bound_than_it_is_said_to(start, change, size):
    one, other = VOLUMES.violations(np.array([start, start + size * change])).transpose(1, 0, 2)
    # A link that is beyond what can touch counts as far as the spheres around it, not its boxes.
    nearer = np.maximum(other[:14] - one[:14], 0.0)
    assert (nearer <= VOLUMES.change(size * change)[:14] + 1e-9).all()
    own = np.maximum(one[14] + VOLUMES.change(size * change)[14], 0.0)
    assert (other[14] <= own + 1e-9).all()


@settings(max_examples=100, deadline=None)
@given(start=poses, change=st.floats(-100, 100))
def test_a_jaw_that_is_said_to_be_free_touches_nothing(start, change):
    now = VOLUMES.violations(start[None])[:, 0]
    if not VOLUMES.jaw_is_free(now, change):
        return
    way = np.repeat(start[None], 21, axis=0)
    way[:, 5] += np.linspace(0, change, 21)
    assert (VOLUMES.violations(way) <= np.maximum(now[:, None], 0.0) + 1e-9).all()


def test_a_jaw_far_from_everything_is_free_and_one_on_the_table_is_not():
    high = VOLUMES.violations(np.array([[0.0, -40.0, 10.0, 60.0, 90.0, 20.0]]))[:, 0]
    low = VOLUMES.violations(np.array([[0.0, -97.0, 92.0, 69.0, 90.0, 45.0]]))[:, 0]
    assert VOLUMES.jaw_is_free(high, 8.0)
    assert not VOLUMES.jaw_is_free(low, 8.0)


def test_what_is_sent_stays_legal_between_its_points_too():
    guard, rng = Guard(LIMITS), np.random.default_rng(0)
    last = np.array([0.0, -30.0, 20.0, 85.0, 90.0, 30.0])
    shares, shortened = np.linspace(0, 1, 33)[:, None], 0
    for _ in range(1500):
        wanted = last + rng.uniform(-8, 8, 6)
        command = guard.check(wanted, last=last, measured=last, dt=0.05)
        if any(event.rule in {"tool_box", "arm_box", "table"} for event in command.events):
            shortened += 1
            way = last + shares * (command.joint_target - last)
            # The bow between two of the nine checked points, as for whole ways.
            assert guard.volumes.violations(way).max() <= 1e-4
        last = command.joint_target
    assert shortened > 100
