"""What is no proposal, or comes too late, holds the arm and says why."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from robot.arm import frozen
from robot.guard import Guard
from robot.limits import SafetyLimits

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
GUARD = Guard(LIMITS)
START = frozen([0, -40, 30, 85, 90, 20])
DT = 0.05


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        (np.full(6, np.nan), "not_finite"),
        (np.array([0, 0, 0, 0, 0, np.inf]), "not_finite"),
        (np.zeros(6, np.longdouble), "wrong_dtype"),
        (np.zeros(5), "wrong_shape"),
        (np.zeros((1, 6)), "wrong_shape"),
        (np.zeros(()), "wrong_shape"),
        (np.ones(6, bool), "wrong_dtype"),
        (np.array(["0"] * 6), "wrong_dtype"),
        (np.zeros(6, object), "wrong_dtype"),
        (np.zeros(6, complex), "wrong_dtype"),
        (np.ma.masked_array(np.zeros(6), mask=[1] * 6), "not_an_array"),
        ([0.0] * 6, "not_an_array"),
        ({"shoulder_pan": 0.0}, "not_an_array"),
        (None, "not_an_array"),
        ("stop", "not_an_array"),
    ],
)
def test_what_is_not_six_numbers_is_refused_and_the_arm_held(proposal, reason):
    command = GUARD.check(proposal, last=START, measured=START, dt=DT)
    np.testing.assert_array_equal(command.joint_target, START)
    assert [str(event) for event in command.events] == [f"refused:{reason}"]


@settings(max_examples=150, deadline=None)
@given(
    scalar_dtypes().flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, max_side=7))
    )
)
def test_no_array_whatsoever_breaks_the_guard(proposal):
    command = GUARD.check(proposal, last=START, measured=START, dt=DT)
    assert np.isfinite(command.joint_target).all()
    assert (np.abs(command.joint_target - START) <= LIMITS.max_speed * DT + 1e-9).all()
    numeric = proposal.dtype.kind in "fiu" and proposal.shape == (6,)
    assert ("refused" in {event.rule for event in command.events}) or (
        numeric and np.isfinite(proposal).all()
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int64, ">f8"])
def test_any_real_number_type_is_understood(dtype):
    wanted = np.array([1, -40, 30, 85, 90, 20], dtype)
    command = GUARD.check(wanted, last=START, measured=START, dt=DT)
    np.testing.assert_array_equal(command.joint_target, wanted.astype(float))
    assert command.events == ()


@pytest.mark.parametrize("age_s", [0.501, 5.0, 3600.0, -3600.0, np.nan, np.inf])
def test_an_answer_to_an_old_or_future_observation_is_refused(age_s):
    command = GUARD.check(START + 1.0, last=START, measured=START, dt=DT, age_s=age_s)
    np.testing.assert_array_equal(command.joint_target, START)
    assert [str(event) for event in command.events] == ["refused:stale"]


def test_a_broken_encoder_holds_the_arm():
    broken = START.copy()
    broken[2] = np.nan
    command = GUARD.check(START + 1.0, last=START, measured=broken, dt=DT)
    np.testing.assert_array_equal(command.joint_target, START)
    assert [str(event) for event in command.events] == ["refused:measured_not_finite"]


@pytest.mark.parametrize("dt", [-0.05, np.nan, np.inf])
def test_a_broken_interval_holds_the_arm(dt):
    command = GUARD.check(START + 1.0, last=START, measured=START, dt=dt)
    assert [str(event) for event in command.events] == ["refused:bad_interval"]


def test_the_guard_changes_none_of_its_arguments():
    proposal = START + 1.0
    GUARD.check(proposal, last=START, measured=START, dt=DT)
    np.testing.assert_array_equal(proposal, START + 1.0)
