from itertools import pairwise

import numpy as np
import pytest

from robot.arm import frozen
from robot.arm_config import ArmConfig
from robot.guard import Guard
from robot.limits import SafetyLimits
from robot.process.parking import parking_way

ARM = ArmConfig.load("arm01")
GUARD = Guard(SafetyLimits.load(ARM.safety))
PARK = ARM.park_pose
OVER_THE_TABLE = (20, -40, 30, 60, 90, 20)
WRIST_NEAR_THE_SHOULDER = (-9.2, -38.4, 39.4, 83.2, 80.6, 10.8)
FOLDED_UP = (38, 79, -53, -85, -111, 7)


@pytest.mark.parametrize("start", [OVER_THE_TABLE, WRIST_NEAR_THE_SHOULDER, FOLDED_UP])
def test_a_way_to_the_park_pose_makes_nothing_worse(start):
    start = frozen(start)
    way = parking_way(GUARD, start, PARK)
    assert way is not None
    np.testing.assert_array_equal(way[-1], PARK)
    share = np.linspace(0, 1, 100)[:, None]
    path = np.concatenate([a + share * (b - a) for a, b in pairwise([start, *way])])
    assert GUARD.volumes.violations(path).max() <= 1e-3


def test_a_way_that_has_to_be_searched_for_is_the_same_every_time():
    ways = [parking_way(GUARD, frozen(FOLDED_UP), PARK) or [] for _ in range(2)]
    assert len(ways[0]) > 2
    np.testing.assert_array_equal(*ways)


def test_no_way_is_invented_where_the_park_pose_is_forbidden():
    under_the_table = frozen([0, 60, 30, 60, 0, 20])
    assert GUARD.volumes.violations(under_the_table[None]).max() > 0
    assert parking_way(GUARD, frozen(OVER_THE_TABLE), under_the_table) is None
