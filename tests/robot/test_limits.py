"""Limits files: what they hold, and one line for what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from robot.limits import LimitsError, SafetyLimits

DEFAULT = Path(__file__).parents[2] / "conf" / "safety" / "default.yaml"


@pytest.fixture
def content():
    return yaml.safe_load(DEFAULT.read_text())


def loading(folder, content):
    path = folder / "limits.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return SafetyLimits.load(path)


@pytest.mark.parametrize("path", sorted(DEFAULT.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_limits_file_of_the_project_loads(path):
    limits = SafetyLimits.load(path)
    assert (limits.joint_lower < limits.joint_upper).all()


def test_arrays_of_limits_are_read_only():
    limits = SafetyLimits.load(DEFAULT)
    with pytest.raises(ValueError, match="read-only"):
        limits.max_speed[0] = 1e9


def without(content, *keys):
    *way, last = keys
    for key in way:
        content = content[key]
    del content[last]


def with_value(content, value, *keys):
    *way, last = keys
    for key in way:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(
    "keys", [("max_speed",), ("tool_box",), ("joint_lower", "elbow_flex"), ("arm_box", "z")]
)
def test_a_missing_entry_is_named(tmp_path, content, keys):
    without(content, *keys)
    with pytest.raises(LimitsError, match=f"lacks '{keys[-1]}'"):
        loading(tmp_path, content)


@pytest.mark.parametrize("keys", [("max_sped",), ("max_lead", "elbow"), ("tool_box", "w")])
def test_a_misspelt_entry_is_named(tmp_path, content, keys):
    with_value(content, 1.0, *keys)
    with pytest.raises(LimitsError, match=f"unknown '{keys[-1]}'"):
        loading(tmp_path, content)


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (111.0, ("joint_lower", "shoulder_pan")),
        ([0.3, 0.1], ("tool_box", "x")),
        ([0.2, 0.2], ("arm_box", "y")),
    ],
)
def test_swapped_bounds_are_called_so(tmp_path, content, value, keys):
    with_value(content, value, *keys)
    with pytest.raises(LimitsError, match=f"{keys[-1]}.*swapped"):
        loading(tmp_path, content)


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (float("nan"), ("joint_upper", "gripper")),
        (float("inf"), ("max_speed", "gripper")),
        ("fast", ("max_speed", "gripper")),
        (True, ("max_lead", "gripper")),
        (None, ("table_z",)),
        ([0.1, float("nan")], ("tool_box", "z")),
        (0.0, ("max_speed", "elbow_flex")),
        (-1.0, ("max_lead", "elbow_flex")),
        (-0.001, ("finger_clearance",)),
        (0.0, ("max_age_s",)),
        ([0.1], ("tool_box", "z")),
        (0.1, ("tool_box", "z")),
        ([1, 2, 3, 4, 5, 6], ("joint_lower",)),
    ],
)
def test_what_is_no_limit_is_refused_in_one_line_that_names_it(tmp_path, content, value, keys):
    with_value(content, value, *keys)
    with pytest.raises(LimitsError, match=keys[-1]) as caught:
        loading(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1", "joint_lower: [", "\x00"])
def test_a_file_that_holds_no_limits_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(LimitsError, match=r"limits\.yaml") as caught:
        loading(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(LimitsError, match=r"none\.yaml: No such file"):
        SafetyLimits.load(tmp_path / "none.yaml")


def test_limits_made_in_code_are_checked_too():
    limits = SafetyLimits.load(DEFAULT)
    values = {name: getattr(limits, name) for name in SafetyLimits.__slots__}
    with pytest.raises(LimitsError, match="joint_lower has shape"):
        SafetyLimits(**{**values, "joint_lower": np.zeros(5)})
