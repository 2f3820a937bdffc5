"""Six emulated servos that move a twin: what the bus writes drives it, what it does is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, from_radians
from robot.emulator.bus_faults import BusFaults
from robot.emulator.servo import STALL_A, SUPPLY_V, Calibration, Servo
from robot.emulator.servo_bus import ServoBus
from robot.emulator.twin_body import TwinBody
from robot.twin_model import TIMESTEP_S

MIDDLE: Final = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.785398])
"""Hinge angles in the middle of the joints' travels, radians."""
MOUNTS: Final = (120.0, -340.0, 515.0, -56.0, 31.0, 430.0)
"""Where the encoders were mounted, ticks off the middle: what calibration has to find."""
HEALTH_S: Final = 0.05
_OHM_V = 0.05  # a volt less at the servos for each 20 A


class Judge(Protocol):
    """Whoever looks at what the servos are told."""

    def see(self, goals: NDArray[np.float64], now: float, *, measured: NDArray[np.float64]) -> None:
        """Look at hinge angles, shape (6,), radians; NaN where torque is off."""
        ...


def read_calibration(path: Path) -> dict[str, Calibration]:
    """Return what LeRobot's calibration file says of each joint."""
    content = cast("Mapping[str, Mapping[str, int]]", json.loads(path.read_text(encoding="utf-8")))
    return {
        joint: Calibration(
            homing_offset=content[joint]["homing_offset"],
            range_min=content[joint]["range_min"],
            range_max=content[joint]["range_max"],
        )
        for joint in JOINTS
    }


@dataclass(slots=True, kw_only=True)
class Hand:
    """A hand that moves joints evenly, by index, and then holds them; hinge angles in radians."""

    start: Mapping[int, float]
    end: Mapping[int, float]
    steps: int
    done: int = 0

    def move(self) -> dict[int, float]:
        """Return where the joints are one step later."""
        self.done = min(self.done + 1, self.steps)
        share = self.done / self.steps
        return {
            joint: self.start[joint] + share * (self.end[joint] - self.start[joint])
            for joint in self.end
        }


class EmulatedArm:
    """Six servos on a bus, the body they move, and the supply they draw from."""

    def __init__(
        self,
        twin: TwinBody,
        *,
        calibration: Mapping[str, Calibration] | None,
        judge: Judge | None = None,
        seed: int = 0,
    ) -> None:
        """Power up the servos, torque off; without a calibration they are as from the factory."""
        self.twin, self.judge = twin, judge
        self.servos = {
            joint: Servo(
                index, mount=mount, calibration=calibration[joint] if calibration else None
            )
            for index, (joint, mount) in enumerate(zip(JOINTS, MOUNTS, strict=True), 1)
        }
        self.bus = ServoBus(list(self.servos.values()), BusFaults(seed))
        self.bus.on_goals = self.drive
        self.supply_v = SUPPLY_V
        self.now = 0.0
        """The moment at which the bus is served, for the judge; seconds."""
        self._steps = 0
        self._sensed_at = -1
        self._told: tuple[float, ...] = ()
        self._hand: Hand | None = None
        self.drive()

    def feed(self, data: bytes) -> list[tuple[float, bytes]]:
        """Return what the bus answers, as (delay in seconds, bytes)."""
        if self._sensed_at != self._steps:
            self._sense()
        return [(reply.delay_s, reply.data) for reply in self.bus.feed(data)]

    def step(self) -> None:
        """Run the physics for 5 ms, and what is slow every 50 ms."""
        if self._hand is not None and self._hand.done < self._hand.steps:
            self.twin.hold_by_hand(self._hand.move())
        self.twin.step()
        self._steps += 1
        if self._steps % round(HEALTH_S / TIMESTEP_S) == 0:
            self._feel()

    def drive(self) -> None:
        """Hand the servos' goals and strengths to the twin, and the goals to the judge."""
        angles = self.twin.angles()
        goals = np.array([self._goal(index) for index in range(len(JOINTS))])
        strengths = np.array([servo.strength for servo in self.servos.values()])
        self.twin.strengthen(strengths)
        told = tuple(goals.tolist())
        if told != self._told:
            self._told = told
            self.twin.command(from_radians(np.where(np.isnan(goals), angles, goals)))
        if self.judge is not None:
            self.judge.see(goals, self.now, measured=angles)

    def push(self, angles: Mapping[int, float], *, seconds: float) -> None:
        """Move limp joints by hand to hinge angles and hold them, besides those held already."""
        for joint in angles:
            if self.servos[JOINTS[joint]].torque:
                raise ValueError(f"{JOINTS[joint]} has torque on: no hand moves it")
        now = self.twin.angles()
        ends = {**self.twin.held_by_hand(), **self.twin.within_reach(angles)}
        starts = {joint: float(now[joint]) for joint in ends}
        self._hand = Hand(start=starts, end=ends, steps=max(1, round(seconds / TIMESTEP_S)))

    def release(self) -> None:
        """Let go of the joints that a hand holds."""
        self._hand = None
        self.twin.hold_by_hand({})

    def replace_twin(self, twin: TwinBody) -> None:
        """Put the arm before another table."""
        twin.take_over(self.twin)
        self.twin = twin

    def _goal(self, index: int) -> float:
        servo = self.servos[JOINTS[index]]
        if servo.goal is None:
            return np.nan
        return np.deg2rad(servo.degrees_at(servo.goal)) + MIDDLE[index]

    def _sense(self) -> None:
        self._sensed_at = self._steps
        degrees = np.rad2deg(self.twin.angles() - MIDDLE).tolist()
        speeds = np.rad2deg(self.twin.speeds()).tolist()
        loads = self.twin.loads().tolist()
        for servo, angle, speed, load in zip(
            self.servos.values(), degrees, speeds, loads, strict=True
        ):
            servo.sense(degrees=angle, speed=speed, load=load)

    def _feel(self) -> None:
        self._sense()
        loads = np.abs(self.twin.loads())
        volts = self.supply_v - _OHM_V * STALL_A * float(loads.sum())
        before = [servo.strength for servo in self.servos.values()]
        for servo, load in zip(self.servos.values(), loads.tolist(), strict=True):
            servo.feel(HEALTH_S, load=load, volts=volts)
        if before != [servo.strength for servo in self.servos.values()]:
            self.drive()
