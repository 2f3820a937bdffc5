"""Whether an arm's limits and poses make sense, who may command it, and how a person can."""

import importlib.util
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from robot.arm import JOINTS, Joints
from robot.arm_config import ROOT, ArmConfig
from robot.doctor.machine import is_emulated
from robot.doctor.report import Check, failure, good, warning
from robot.limits import LimitsError, SafetyLimits
from robot.volumes import Volumes

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FIRST_SCALE = 0.5
PRIVATE = stat.S_IRWXG | stat.S_IRWXO


def check_safety(config: ArmConfig) -> list[Check]:
    """Return what is wrong with an arm's limits, its poses and its stop."""
    where = f"conf/arm/{config.arm_id}.yaml"
    try:
        limits = SafetyLimits.load(config.safety)
    except LimitsError as error:
        return [failure("safety.limits", str(error), "safety: conf/safety/default.yaml")]
    checks: list[Check] = []
    for name, pose in (("start_pose", config.start_pose), ("park_pose", config.park_pose)):
        checks += _pose(name, pose, limits, where)
    if config.runtime("stop").exists():
        checks.append(
            failure(
                "safety.stop_file",
                f"{config.runtime('stop').name} exists: a stop that holds until it is removed",
                f"mend the cause, then: rm run/{config.arm_id}.stop",
            )
        )
    checks += _first_runs(config, where)
    return checks or [good("safety.limits", f"{config.safety.name} loads; both poses are inside")]


def check_security(config: ArmConfig) -> list[Check]:
    """Return who could reach or read what they should not."""
    checks: list[Check] = []
    if config.host not in LOOPBACK:
        checks.append(
            warning(
                "security.remote",
                f"the arm's process listens on {config.host}: other machines can reach it",
                "host: 127.0.0.1, or a private network and tokens only",
            )
        )
    for path in (ROOT / ".env", *sorted((ROOT / "run").glob("*token*"))):
        if path.is_file() and path.stat().st_mode & PRIVATE:
            name = path.relative_to(ROOT)
            sentence = f"{name} can be read by other users of this machine"
            checks.append(failure("security.mode", sentence, f"chmod 600 {name}"))
    for path in sorted((ROOT / "conf" / "arm").glob("*.yaml")):
        if "token:" in path.read_text(encoding="utf-8"):
            sentence = f"{path.relative_to(ROOT)} holds a token, and is in version control"
            fix = "put it in .env, change it, and chmod 600 .env"
            checks.append(failure("security.token", sentence, fix))
    logs = ROOT / os.environ.get("LOG_DIR", "logs")
    if logs.is_dir() and logs.stat().st_mode & PRIVATE:
        sentence = f"{logs.name}/ can be read by other users of this machine"
        checks.append(warning("security.logs", sentence, f"chmod 700 {logs.name}"))
    return checks or [good("security.access", "loopback only, no secret in the open")]


def check_teleop(devices: Path = Path("/dev/input")) -> list[Check]:
    """Return with what a person can take over here."""
    ways: list[str] = []
    checks: list[Check] = []
    if sys.stdin.isatty():
        ways.append("the keyboard of this terminal")
    pads = sorted(devices.glob("js*")) if devices.is_dir() else []
    if pads:
        ways.append(f"{len(pads)} gamepad(s)")
        if importlib.util.find_spec("pygame") is None:
            sentence = "a gamepad is plugged in, and pygame is not installed"
            checks.append(warning("teleop.gamepad", sentence, "uv pip install 'pygame>=2.6,<3'"))
    if not ways:
        sentence = "no terminal and no gamepad here: only telnet, HTTP and the dashboard can stop"
        checks.append(warning("teleop.none", sentence, "start in a terminal, or plug a gamepad in"))
    return checks or [good("teleop.ways", f"a person can take over with {' and '.join(ways)}")]


def _pose(name: str, pose: Joints, limits: SafetyLimits, where: str) -> Iterable[Check]:
    outside = (pose < limits.joint_lower) | (pose > limits.joint_upper)
    for index in np.flatnonzero(outside):
        yield failure(
            "safety.pose",
            f"{name}: {JOINTS[index]} {pose[index]:g} is outside "
            f"{limits.joint_lower[index]:g} to {limits.joint_upper[index]:g}",
            f"correct {name} in {where}",
        )
    # Where an arm is parked the tool may be outside its box: nothing is grasped there.
    volumes = Volumes(limits)
    found = volumes.violations(pose[None])[:12, 0]
    if not outside.any() and found.max() > 0:
        row, axis = np.unravel_index(found.argmax(), found.shape)
        kind, what = volumes.bound(int(row), int(axis))
        yield failure(
            "safety.pose",
            f"{name} puts {what} {1000 * found.max():.0f} mm outside the {kind.replace('_', ' ')}",
            f"correct {name} in {where}, or the box in conf/safety/",
        )


def _first_runs(config: ArmConfig, where: str) -> Iterable[Check]:
    if is_emulated(config):
        return
    if config.action_scale > FIRST_SCALE:
        yield warning(
            "safety.scale",
            f"action_scale is {config.action_scale:g} on a real arm",
            f"action_scale: 0.3 in {where} until the first runs went well",
        )
    yield warning(
        "safety.switch",
        "no program can see the switch in the servo supply",
        "press it once before the first run: the arm must go limp",
    )
