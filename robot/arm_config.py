"""What is particular to one arm: its port, calibration, cameras, limits, address and poses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self, cast

import numpy as np
import yaml

from robot.arm import JOINTS, Joints, frozen

ROOT = Path(__file__).resolve().parent.parent
JOURNALS = ROOT / "journal"
"""Where episodes of persons are sealed, in a folder for each dataset."""
ARM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")
_TEXTS = ("port", "calibration", "safety", "host")
_POSES = ("start_pose", "park_pose")


class ConfigError(ValueError):
    """An arm's file that is not what is expected; the program's exit code is 2."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmConfig:
    """One arm, as `conf/arm/<arm_id>.yaml` describes it."""

    arm_id: str
    port: str
    """A device's path, or `usb:` and the serial number of its USB adapter."""
    calibration: Path
    """LeRobot's calibration file of this arm."""
    safety: Path
    """The limits, a file of `conf/safety/`."""
    cameras: Mapping[str, Mapping[str, object]]
    """By name: `type` (`opencv`, `twin`, …) and what that kind of LeRobot camera takes."""
    host: str
    """Where the arm's process listens."""
    port_number: int
    start_pose: Joints
    """Where `make home` goes, shape (6,)."""
    park_pose: Joints
    """Where torque may be switched off: the arm rests there, shape (6,)."""
    action_scale: float
    """Share of an action that is carried out, 0 to 1: less than 1 for the first runs."""

    @classmethod
    def load(cls, arm_id: str, *, folder: Path = ROOT / "conf" / "arm") -> Self:
        """Read an arm's file; raise `ConfigError` with one line that says what to mend."""
        if not ARM_ID.fullmatch(arm_id):
            raise ConfigError(f"ARM_ID={arm_id!r}; expected letters, digits and -, e.g. arm01")
        path = folder / f"{arm_id}.yaml"
        try:
            content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; copy {folder / 'arm01.yaml'}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        try:
            config = cls(**_arguments(content))  # pyright: ignore[reportArgumentType]
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if config.arm_id != arm_id:
            raise ConfigError(f"{path} is of the arm {config.arm_id!r}, not of {arm_id!r}")
        return config

    @property
    def url(self) -> str:
        """Return the address of the arm's process."""
        return f"http://{self.host}:{self.port_number}"

    def runtime(self, suffix: str) -> Path:
        """Return a file of the running arm: `bus`, `admin`, `state`, `lock`, `stop` or `awake`."""
        return runtime(self.arm_id, suffix)


def runtime(arm_id: str, suffix: str) -> Path:
    """Return a file of a running arm: `bus`, `admin`, `state`, `lock`, `stop` or `awake`."""
    return ROOT / "run" / f"{arm_id}.{suffix}"


def _arguments(content: object) -> dict[str, object]:
    names = [field.name for field in fields(ArmConfig)]
    given = _mapping("the file", content)
    if set(given) != set(names):
        odd = sorted(set(given) ^ set(names))
        raise ConfigError(f"{', '.join(odd)}: unknown or missing; expected {', '.join(names)}")
    arguments: dict[str, object] = dict(given)
    for name in ("arm_id", *_TEXTS):
        if not isinstance(given[name], str) or not given[name]:
            raise ConfigError(f"{name} is {given[name]!r}; expected text")
    for name in ("calibration", "safety"):
        arguments[name] = ROOT / str(given[name])
    for name in _POSES:
        arguments[name] = _pose(name, given[name])
    cameras = _mapping("cameras", given["cameras"])
    arguments["cameras"] = {name: _camera(name, camera) for name, camera in cameras.items()}
    number, scale = given["port_number"], given["action_scale"]
    if type(number) is not int or not 0 < number < 65536:
        raise ConfigError(f"port_number is {number!r}; expected 1 to 65535")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise ConfigError(f"action_scale is {scale!r}; expected more than 0, at most 1")
    return arguments


def _mapping(name: str, content: object) -> Mapping[str, object]:
    if not isinstance(content, dict):
        raise ConfigError(f"{name} is {content!r}; expected names and values")
    return cast("Mapping[str, object]", content)


def _camera(name: str, content: object) -> Mapping[str, object]:
    camera = _mapping(f"cameras.{name}", content)
    if not isinstance(camera.get("type"), str):
        raise ConfigError(f"cameras.{name} has no type; expected e.g. type: opencv")
    return camera


def _pose(name: str, content: object) -> Joints:
    pose = _mapping(name, content)
    if list(pose) != list(JOINTS):
        raise ConfigError(f"{name} has {', '.join(pose)}; expected {', '.join(JOINTS)}")
    for joint, value in pose.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise ConfigError(f"{name}.{joint} is {value!r}; expected a finite number")
    return frozen(list(pose.values()))
