"""What a perturbation may say, and between which arms one is drawn."""

import math
from dataclasses import fields

import numpy as np
import pytest

from rl.reality_gap import ROWS
from robot.perturbation import LEAST_ARM, MOST_ARM, NOMINAL, Perturbation, drawn_arm

ARM = ("stiffness", "weight", "backlash_deg", "dropped", "joint_friction")


def test_two_at_once_multiply_their_shares_and_add_the_rest() -> None:
    both = Perturbation(stiffness=0.7, delay_s=0.05, dropped=0.1).plus(
        Perturbation(stiffness=0.5, delay_s=0.02, backlash_deg=1.0)
    )
    assert both.stiffness == pytest.approx(0.35)
    assert both.delay_s == pytest.approx(0.07)
    assert (both.backlash_deg, both.dropped, both.weight) == (1.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("stiffness", 0.0, "above 0"),
        ("jitter_s", -0.01, "of 0 or more"),
        ("delay_s", math.nan, "of seconds"),
        ("dropped", 1.0, "of 0 or more and below 1"),
        ("light", math.nan, "above 0"),
        ("camera_m", math.inf, "of 0 or more"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a number {expected}"):
        Perturbation(**{name: value})


def test_an_arm_of_no_strength_is_the_nominal_one() -> None:
    assert drawn_arm(np.random.default_rng(0), 0.0) == NOMINAL


def test_arms_are_drawn_between_the_least_and_the_most() -> None:
    rng = np.random.default_rng(1)
    drawn = [drawn_arm(rng, 1.0) for _ in range(200)]
    for field in fields(Perturbation):
        values = [getattr(arm, field.name) for arm in drawn]
        least, most = getattr(LEAST_ARM, field.name), getattr(MOST_ARM, field.name)
        assert least <= min(values) <= least + 0.1 * (most - least)
        assert most - 0.1 * (most - least) <= max(values) <= most


@pytest.mark.parametrize("name", ARM)
def test_training_meets_every_arm_that_the_suite_tries(name: str) -> None:
    tried = [getattr(row.change, name) for row in ROWS.values()]
    assert getattr(LEAST_ARM, name) <= min(tried)
    assert max(tried) <= getattr(MOST_ARM, name)
    assert max(tried) != min(tried)
