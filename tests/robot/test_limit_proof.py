"""A guard is driven past every limit before an arm may run; one with a hole is found out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from robot.arm import frozen
from robot.arm_config import ArmConfig
from robot.guard import Command, Guard
from robot.limits import SafetyLimits
from robot.process.limit_proof import Drive, prove_limits

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
START = ArmConfig.load("arm01").start_pose


@pytest.fixture(scope="module")
def proof():
    return prove_limits(Guard(LIMITS), start=START)


def by_name(proof):
    return {drive.limit: drive for drive in proof.drives}


def test_the_guard_holds_at_every_limit(proof):
    assert proof.holds
    assert [drive.limit for drive in proof.drives if drive.excess > 0] == []


def test_every_joint_stop_every_side_of_the_tool_box_and_the_table_are_reached(proof):
    drives = by_name(proof)
    missed = [name for name, drive in drives.items() if not drive.reached]
    # The arm itself is in the elbow's way.
    assert missed == ["elbow_flex upper"]
    assert len(drives) == 12 + 6 + 6 + 1 + 1


def test_the_proof_is_a_table(proof):
    lines = str(proof).splitlines()
    assert len(lines) == len(proof.drives)
    assert "held" in lines[0]


class Hole(Guard):
    """A guard that does not look at volumes."""

    def _shorten(self, target, *, last):
        return target, []


class Unclamped(Guard):
    """A guard that does not look at joints."""

    def _clamp(self, wanted, *, last, measured, dt):
        return wanted, []


class Credulous(Guard):
    """A guard that takes whatever it gets."""

    def _refusal(self, proposal, *, measured, dt, age_s):
        return None


class Short(Guard):
    """A guard that has another idea of where the table is."""

    def __init__(self, limits):
        super().__init__(dataclasses.replace(limits, table_z=limits.table_z - 0.05))
        self.limits = limits


@pytest.mark.parametrize(
    ("guard", "limit"),
    [
        (Hole, "tool_box x upper"),
        (Hole, "arm_box y lower"),
        (Unclamped, "elbow_flex lower"),
        (Credulous, "random goals"),
        (Short, "table"),
    ],
)
def test_a_guard_with_a_hole_is_found_out(guard, limit):
    proof = prove_limits(guard(LIMITS), start=START)
    assert not proof.holds
    assert by_name(proof)[limit].excess > 0
    assert "BROKEN" in str(by_name(proof)[limit])


def test_a_start_outside_the_limits_proves_nothing():
    below = frozen([0, -97, 92, 90, 90, 45])
    assert not prove_limits(Guard(LIMITS), start=below).holds


def test_a_guard_that_never_moves_proves_nothing():
    class Frozen(Guard):
        def check(self, proposal, *, last, measured, dt, age_s=0.0):
            return Command(joint_target=last, events=())

    proof = prove_limits(Frozen(LIMITS), start=START)
    assert not any(drive.reached for drive in proof.drives if drive.limit.startswith("tool_box"))
    assert not proof.holds


def test_a_command_that_is_not_finite_breaks_a_limit():
    assert "BROKEN" in str(
        Drive(limit="table", unit="m", steps=1, nearest=0.0, excess=float(np.inf))
    )
