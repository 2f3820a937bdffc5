"""An arm's file that is not what is expected is refused, with what to mend."""

import pytest
import yaml

from robot.arm import JOINTS
from robot.arm_config import ROOT, ArmConfig, ConfigError

CONTENT = yaml.safe_load((ROOT / "conf" / "arm" / "arm01.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def load(tmp_path):
    """Load the file of arm01 with some of it changed."""

    def load(**changes):
        path = tmp_path / "arm01.yaml"
        path.write_text(yaml.safe_dump(CONTENT | changes, sort_keys=False))
        return ArmConfig.load("arm01", folder=tmp_path)

    return load


def test_a_file_of_another_arm_is_refused(load):
    with pytest.raises(ConfigError, match=r"arm01\.yaml is of the arm 'arm02', not of 'arm01'"):
        load(arm_id="arm02")


@pytest.mark.parametrize("name", ["start_pose", "park_pose"])
def test_a_pose_in_another_order_is_refused_with_the_right_one(load, name):
    turned = dict(reversed(CONTENT[name].items()))
    expected = f"{name} has gripper, .*; expected {', '.join(JOINTS)}"
    with pytest.raises(ConfigError, match=expected):
        load(**{name: turned})


def test_a_pose_of_other_joints_is_refused(load):
    joints = ("base", "shoulder", "elbow", "wrist", "roll", "hand")
    pose = dict(zip(joints, CONTENT["start_pose"].values(), strict=True))
    with pytest.raises(ConfigError, match="start_pose has base, shoulder, elbow"):
        load(start_pose=pose)


@pytest.mark.parametrize("value", [float("nan"), True, "8", None])
def test_a_joint_that_is_no_number_is_named(load, value):
    with pytest.raises(ConfigError, match=r"park_pose\.elbow_flex is .*; expected a finite number"):
        load(park_pose=CONTENT["park_pose"] | {"elbow_flex": value})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "colour: unknown or missing"),
        ({"port": ""}, "port is ''; expected text"),
        ({"port_number": 0}, "port_number is 0; expected 1 to 65535"),
        ({"action_scale": 1.5}, r"action_scale is 1\.5; expected more than 0"),
        ({"cameras": {"front": {"fps": 20}}}, r"cameras\.front has no type"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(load, changes, said):
    with pytest.raises(ConfigError, match=said):
        load(**changes)


def test_what_is_no_yaml_is_told_in_one_line(tmp_path):
    (tmp_path / "arm01.yaml").write_text("port: [")
    with pytest.raises(ConfigError, match="not YAML") as told:
        ArmConfig.load("arm01", folder=tmp_path)
    assert "\n" not in str(told.value)
