"""Whether the machine beside an arm is fit for it: packages, serial ports, disk, clock."""

import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from serial.tools import list_ports

from robot.arm_config import ROOT, ArmConfig
from robot.doctor.report import Check, failure, good, warning
from robot.process.port import USB, resolve_port
from robot.process.servos import ArmUnusable

PACKAGES = {
    "lerobot": ((0, 6, 1), (0, 7)),
    "numpy": ((2,), (2, 3)),
    "opencv-python-headless": ((4, 11), (4, 14)),
    "pyserial": ((3, 5), (4,)),
    "feetech-servo-sdk": ((1,), (2,)),
    "websockets": ((13,), (18,)),
}
"""What talks to an arm, and the versions that fit LeRobot 0.6: from, and below."""
GB = 10**9
EPISODE_BYTES = 2_000_000
LATE_S = 0.005
FLUSH_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A serial port that this machine has."""

    device: str
    serial: str
    """Of the USB adapter; empty where it has none."""
    name: str


def adapters() -> list[Adapter]:
    """Return the USB serial adapters of this machine."""
    return [
        Adapter(device=port.device, serial=port.serial_number or "", name=port.description or "")
        for port in list_ports.comports()
        if port.vid is not None
    ]


def find_port(port: str) -> Path | None:
    """Return the device of an arm's `port` setting; None where it is not there."""
    try:
        return Path(resolve_port(port))
    except ArmUnusable:
        return None


def is_emulated(config: ArmConfig) -> bool:
    """Return whether an arm's port is that of an emulator."""
    return config.port.endswith(".bus")


def owner_of(config: ArmConfig) -> str | None:
    """Return who holds an arm's lock; None where nobody does."""
    try:
        with config.runtime("lock").open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "a process"
    except OSError:
        return None
    return None


def check_environment(version_of: Callable[[str], str] = importlib.metadata.version) -> list[Check]:
    """Return what is wrong with Python and the packages that drive an arm."""
    checks = [check for name in PACKAGES for check in _package(name, version_of)]
    if sys.version_info[:2] != (3, 12):
        checks.append(
            failure(
                "env.python", f"Python {platform.python_version()}; expected 3.12", "make setup"
            )
        )
    if _has("opencv-python", version_of):
        checks.append(
            failure(
                "env.opencv",
                "opencv-python and opencv-python-headless are both here, and overwrite each other",
                "uv pip uninstall opencv-python opencv-python-headless; make setup",
            )
        )
    if _has("pygame", version_of) and _has("pygame-ce", version_of):
        checks.append(
            failure(
                "env.pygame",
                "pygame and pygame-ce are both here, and overwrite each other",
                "uv pip uninstall pygame-ce",
            )
        )
    said = f"Python {platform.python_version()}, LeRobot {_version('lerobot', version_of)}"
    return checks or [good("env.packages", f"{said}, {platform.system()} {platform.machine()}")]


def check_port(config: ArmConfig, found: Sequence[Adapter], owner: str | None) -> list[Check]:
    """Return whether the arm's port is there and may be opened."""
    path = find_port(config.port)
    if path is None:
        return [_no_port(config, found)]
    if not os.access(path, os.R_OK | os.W_OK):
        return [_no_permission(path)]
    said = f"{config.port} is {path.resolve()}"
    checks = [good("ports.port", said + (f", in use by {owner}" if owner else ""))]
    if not config.port.startswith(USB) and not is_emulated(config):
        serial = next((a.serial for a in found if Path(a.device) == path.resolve()), "")
        setting = f"port: usb:{serial}" if serial else "port: usb:<serial number>"
        checks.append(
            warning(
                "ports.name",
                f"{config.port} is a name that may change with every plug",
                f"{setting} in conf/arm/{config.arm_id}.yaml",
            )
        )
    return checks


def check_disk(folder: Path = ROOT) -> list[Check]:
    """Return whether episodes find room, and how long a durable write takes."""
    free = shutil.disk_usage(folder).free
    episodes = free // EPISODE_BYTES
    said = f"{free / GB:.0f} GB free, room for about {episodes} episodes"
    clean = "make room: old folders of runs/, logs/ and journal/"
    if free < GB:
        checks = [failure("disk.space", said, clean)]
    elif free < 10 * GB:
        checks = [warning("disk.space", said, clean)]
    else:
        checks = [good("disk.space", said)]
    try:
        seconds = _flush_seconds(folder)
    except OSError as error:
        fix = f"chmod u+w {folder.name}, or a disk that can be written"
        return [*checks, failure("disk.write", f"cannot write here: {error.strerror}", fix)]
    if seconds > FLUSH_S:
        checks.append(
            warning(
                "disk.slow",
                f"a durable write takes {1000 * seconds:.0f} ms; expected below 100",
                "put runs/ and journal/ on an SSD, not on a memory card",
            )
        )
    return checks


def check_clock(samples: int = 50, period_s: float = 0.01) -> list[Check]:
    """Return whether time runs evenly here, and whether it is the right time."""
    wall, steady = time.time(), time.monotonic()
    waits: list[float] = []
    due = steady
    for _ in range(samples):
        due += period_s
        time.sleep(max(0.0, due - time.monotonic()))
        waits.append(max(0.0, time.monotonic() - due))
        due = max(due, time.monotonic())
    step = abs((time.time() - wall) - (time.monotonic() - steady))
    checks = list(_wall_clock(wall, step))
    worst = max(waits)
    if worst > LATE_S:
        checks.append(
            warning(
                "clock.late",
                f"this machine wakes up to {1000 * worst:.0f} ms late; a cycle is 20 ms",
                "end what computes beside the arm, or give it a machine of its own",
            )
        )
    return checks or [good("clock.even", f"even to {1000 * worst:.1f} ms")]


def _wall_clock(wall: float, step: float) -> Iterable[Check]:
    fix = "timedatectl set-ntp true"
    if wall < 1_767_225_600:  # 2026-01-01
        yield failure("clock.wrong", "the date is before 2026: episodes get wrong dates", fix)
    if step > 0.05:
        yield warning(
            "clock.step",
            f"the clock stepped by {1000 * step:.0f} ms within half a second: "
            "LeRobot's time-outs stretch",
            fix,
        )


def _package(name: str, version_of: Callable[[str], str]) -> Iterable[Check]:
    lowest, below = PACKAGES[name]
    wanted = f"{_dotted(lowest)} to below {_dotted(below)}"
    version = _version(name, version_of)
    if version is None:
        yield failure(
            "env.package", f"{name} is not installed; expected {wanted}", "make setup-arm"
        )
    elif not lowest <= _numbers(version) < below:
        fix = f"uv pip install '{name}>={_dotted(lowest)},<{_dotted(below)}'"
        yield failure("env.package", f"{name} is {version}; expected {wanted}", fix)


def _no_port(config: ArmConfig, found: Sequence[Adapter]) -> Check:
    if is_emulated(config):
        return failure(
            "ports.emulator",
            f"{config.port} leads nowhere: no emulated arm runs",
            "make emulate ARMS=4",
            device_missing=True,
        )
    there = ", ".join(f"{a.device} (usb:{a.serial})" if a.serial else a.device for a in found)
    serial = next((a.serial for a in found if a.serial), None)
    fix = (
        f"port: usb:{serial} in conf/arm/{config.arm_id}.yaml, if that is this arm"
        if serial
        else "plug the arm's USB cable in (one that carries data), and look again"
    )
    return failure(
        "ports.missing",
        f"{config.port} is not there; found {there or 'no USB serial adapter'}",
        fix,
        device_missing=True,
    )


def _no_permission(path: Path) -> Check:
    mode = stat.filemode(path.stat().st_mode)
    return failure(
        "ports.permission",
        f"{path} may not be opened by this user ({mode})",
        "sudo usermod -aG dialout $USER, then log in again",
    )


def _flush_seconds(folder: Path) -> float:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        started = time.perf_counter()
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
        return time.perf_counter() - started


def _version(name: str, version_of: Callable[[str], str]) -> str | None:
    try:
        return version_of(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has(name: str, version_of: Callable[[str], str]) -> bool:
    return _version(name, version_of) is not None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in cast("list[str]", re.findall(r"\d+", version)[:3]))


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)
