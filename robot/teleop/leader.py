"""A leader arm as a device: LeRobot's SO-101 leader, whose pose is where the arm shall be."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
from lerobot.teleoperators.so_leader import (  # pyright: ignore[reportMissingTypeStubs]
    SO101Leader,
    SO101LeaderConfig,
)

from robot.arm import JOINTS, Joints, Observation, frozen
from robot.teleop.devices import DeviceMissing, Request

log = structlog.get_logger(__name__)

MISSES = 5
"""Reads that may fail in a row: the arm holds meanwhile."""


class Poses(Protocol):
    """What is needed of LeRobot's leader."""

    def get_action(self) -> dict[str, float]:
        """Return `<joint>.pos` of every joint."""
        ...

    def disconnect(self) -> None:
        """Release the port."""
        ...


class Leader:
    """Wants the arm where the leader is."""

    def __init__(self, leader: Poses) -> None:
        """Read a leader that is connected."""
        self._leader, self._missed = leader, 0

    def poll(self) -> list[Request]:
        """Return nothing: a leader has no buttons."""
        return []

    def read(self, observation: Observation) -> Joints | None:  # noqa: ARG002 - every device's
        """Return the leader's pose; None where it could not be read this time."""
        try:
            action = self._leader.get_action()
        except (ConnectionError, RuntimeError) as error:
            self._missed += 1
            if self._missed >= MISSES:
                raise DeviceMissing(
                    f"the leader did not answer {MISSES} times in a row: check its cable and supply"
                ) from error
            return None
        self._missed = 0
        pose = frozen([action[f"{joint}.pos"] for joint in JOINTS])
        return pose if np.isfinite(pose).all() else None

    def close(self) -> None:
        """Release the port."""
        self._leader.disconnect()


def open_leader(port: str, calibration: Path) -> Leader:
    """Return the leader at `port`; raise `DeviceMissing` where it is none or not calibrated.

    Nothing is written to the servos before their calibration shows that they are this leader's:
    another arm would fall.
    """
    calibrate = (
        f"lerobot-calibrate --teleop.type=so101_leader --teleop.port={port} "
        f"--teleop.calibration_dir={calibration.parent} --teleop.id={calibration.stem}"
    )
    _refuse_strange(calibration, calibrate)
    leader: Any = SO101Leader(
        SO101LeaderConfig(port=port, calibration_dir=calibration.parent, id=calibration.stem)
    )
    try:
        _look_at(leader.bus)
        calibrated = leader.is_calibrated
        if calibrated:
            leader.configure()
    except (OSError, RuntimeError, ValueError) as error:
        _let_be(leader.bus)
        what = " ".join(str(error).split())
        raise DeviceMissing(f"no leader arm answers at {port}: {what}; see make doctor") from error
    if not calibrated:
        _let_be(leader.bus)
        raise DeviceMissing(
            f"the leader at {port} has another calibration than {calibration}: {calibrate}"
        )
    log.info("leader connected", port=port, calibration=str(calibration))
    return Leader(leader)


def _look_at(bus: Any) -> None:  # noqa: ANN401 - LeRobot has no types
    """Open the port for this process alone, and only read."""
    bus.connect(handshake=False)
    bus.port_handler.ser.exclusive = True
    bus._handshake()


def _let_be(bus: Any) -> None:  # noqa: ANN401 - LeRobot has no types
    """Close the port, and leave the torque of whoever is there as it was."""
    if bus.is_connected:
        bus.disconnect(disable_torque=False)


def _refuse_strange(calibration: Path, calibrate: str) -> None:
    try:
        joints = json.loads(calibration.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DeviceMissing(f"{calibration} is no calibration of a leader: {calibrate}") from None
    if set(joints) != set(JOINTS):
        raise DeviceMissing(f"{calibration} names other joints than an SO-101 has: {calibrate}")
