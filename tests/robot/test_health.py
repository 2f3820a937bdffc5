"""A trouble of a servo stops the arm when it persists, and only then."""

import dataclasses

import numpy as np
import pytest

from robot.arm import JOINTS, frozen
from robot.process.health import PERSISTS_S, HealthWatch
from robot.process.servos import ServoHealth

POSE = frozen([0, -40, 30, 85, 90, 20])
GOOD = ServoHealth(
    load=frozen([0.1] * 6),
    current_a=frozen([0.2] * 6),
    voltage_v=frozen([7.4] * 6),
    temperature_c=frozen([35.0] * 6),
)


def one(value, normal, joint="elbow_flex"):
    values = np.full(6, normal)
    values[JOINTS.index(joint)] = value
    return values


def watched(health, *, seconds, lag=0.0, moving=0.0, watch=None, begin=0.0):
    """Return when the watch spoke and what it said, of a reading that stays for `seconds`."""
    watch = watch or HealthWatch()
    for now in np.arange(begin, begin + seconds, 0.1):
        achieved = POSE + [0, 0, moving * now, 0, 0, moving * now]
        commanded = achieved + [0, 0, lag, 0, 0, lag]
        said = watch.update(now, health, commanded=commanded, achieved=achieved)
        if said is not None:
            return now, said
    return None


TROUBLES = [
    ({"load": one(0.97, 0.1)}, "elbow_flex is overloaded: 97% load"),
    ({"temperature_c": one(66.0, 35.0)}, "elbow_flex is hot: 66 °C"),
    ({"voltage_v": one(4.2, 7.4)}, "elbow_flex has a supply of 4.2 V"),
    ({"voltage_v": one(14.0, 7.4)}, "elbow_flex has a supply of 14.0 V"),
    ({"current_a": one(2.4, 0.2)}, "elbow_flex draws 2.4 A"),
    ({"errors": (0, 0, 32, 0, 0, 0)}, "elbow_flex reports a fault: overloaded"),
    ({"errors": (0, 0, 4, 0, 0, 0)}, "elbow_flex reports a fault: overheated"),
    ({"torque": (True, True, False, True, True, True)}, "elbow_flex has lost its torque"),
]


@pytest.mark.parametrize(("change", "sentence"), TROUBLES)
def test_a_trouble_that_persists_is_named_in_time(change, sentence):
    when, said = watched(dataclasses.replace(GOOD, **change), seconds=2.0)
    assert said.startswith(sentence)
    assert PERSISTS_S - 1e-6 <= when <= PERSISTS_S + 0.3


@pytest.mark.parametrize(("change", "sentence"), TROUBLES)
def test_a_trouble_that_passes_is_none(change, sentence):
    watch = HealthWatch()
    for begin in np.arange(0.0, 4.0, 0.8):
        trouble = dataclasses.replace(GOOD, **change)
        assert watched(trouble, seconds=0.4, watch=watch, begin=begin) is None
        assert watched(GOOD, seconds=0.4, watch=watch, begin=begin + 0.4) is None


def test_a_joint_that_pushes_and_does_not_move_is_stalled():
    pushing = dataclasses.replace(GOOD, load=one(-0.6, 0.1))
    when, said = watched(pushing, seconds=2.0, lag=6.0)
    assert said.startswith("elbow_flex is stalled: 6° from its command at 60% load")
    assert when <= PERSISTS_S + 0.3


def test_a_joint_at_full_speed_may_use_all_it_has_for_a_while():
    health = dataclasses.replace(GOOD, load=one(1.0, 0.1), current_a=one(2.6, 0.2))
    assert watched(health, seconds=1.9, moving=60.0) is None
    assert watched(health, seconds=3.0, moving=60.0) is not None


@pytest.mark.parametrize(
    ("load", "lag", "moving"), [(0.6, 6.0, 30.0), (0.6, 2.0, 0.0), (0.3, 6.0, 0.0)]
)
def test_moving_following_or_sagging_is_no_stall(load, lag, moving):
    health = dataclasses.replace(GOOD, load=one(load, 0.1))
    assert watched(health, seconds=2.0, lag=lag, moving=moving) is None


def test_a_gripper_may_hold_on_to_something():
    holding = dataclasses.replace(GOOD, load=one(0.5, 0.1, "gripper"))
    assert watched(holding, seconds=20.0, lag=20.0) is None


def test_a_gripper_that_protects_itself_goes_on_holding():
    holding = dataclasses.replace(GOOD, errors=(0, 0, 0, 0, 0, 32))
    assert watched(holding, seconds=20.0, lag=20.0) is None
    hot = dataclasses.replace(GOOD, errors=(0, 0, 0, 0, 0, 36))
    assert "gripper reports a fault: overheated" in watched(hot, seconds=1.0)[1]


def test_a_supply_that_sags_to_three_quarters_is_a_trouble():
    watch = HealthWatch()
    assert watched(GOOD, seconds=1.0, watch=watch) is None
    sagging = dataclasses.replace(GOOD, voltage_v=frozen([5.4] * 6))
    assert watched(sagging, seconds=2.0, watch=watch, begin=1.0) is not None


def test_an_arm_on_five_volts_is_healthy():
    five = dataclasses.replace(GOOD, voltage_v=frozen([4.9] * 6))
    assert watched(five, seconds=5.0) is None
