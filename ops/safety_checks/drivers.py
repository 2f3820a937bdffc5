"""Clients that drive an arm until something is done to them."""

import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robot.arm import Joints
from robot.client import RemoteArm
from robot.link import ArmUnavailable
from robot.tokens import own_token

PERIOD_S = 0.05


class Wish(NamedTuple):
    """What a driver is told."""

    url: str
    client: str
    amplitude: float
    """Degrees to each side of where the arm was."""


def drive(said: Connection, wish: Wish) -> None:
    """Drive back and forth at 20 Hz until the link is lost; say `ready` once, or why not."""
    try:
        arm = RemoteArm(wish.url, client=wish.client, token=own_token(), timeout_s=10.0)
        arm.latch()
        start = arm.observe(frames=False).joint_target
    except ArmUnavailable as error:
        said.send(str(error))
        return
    said.send("ready")
    with suppress(ArmUnavailable):
        while True:
            began = time.monotonic()
            observation = arm.observe(frames=False)
            arm.command(swing(start, began, wish.amplitude), stamp=observation.stamp)
            time.sleep(max(0.0, began + PERIOD_S - time.monotonic()))


class EvilWish(NamedTuple):
    """What an evil policy is told."""

    url: str
    client: str
    seed: int
    frames: bool


MOODS = (
    "good",
    "NaN",
    "huge",
    "frozen",
    "late",
    "wrong shape",
    "old chunk",
    "extremes",
    "flood",
    "radians",
)
MOOD_S = 4.0


class Evil:
    """A policy client that is in another mood every few seconds."""

    def __init__(self, wish: EvilWish) -> None:
        """Say hello through thick and thin."""
        self._wish, self._rng = wish, np.random.default_rng(wish.seed)
        self._arm: RemoteArm | None = None
        self._mood, self._until = "good", 0.0
        self._start = np.zeros(6)
        self._first_stamp = 0.0
        self._count = 0

    def step(self) -> float:
        """Do one evil thing; return the seconds until the next."""
        try:
            if self._arm is None:
                self._connect()
            return self._propose()
        except ArmUnavailable:
            if self._arm is not None:
                self._arm.close()
                self._arm = None
            return float(self._rng.uniform(0.1, 1.0))

    def _connect(self) -> None:
        wish = self._wish
        self._arm = RemoteArm(wish.url, client=wish.client, token=own_token(), patience_s=1.0)
        self._arm.latch()
        observation = self._arm.observe(frames=False)
        self._start, self._first_stamp = observation.joint_target, observation.stamp

    def _propose(self) -> float:
        arm, now = self._arm, time.monotonic()
        assert arm is not None  # noqa: S101 - `step` has connected
        if now > self._until:
            self._mood = str(self._rng.choice(MOODS))
            self._until = now + float(self._rng.uniform(0.5, 1.5)) * MOOD_S
        self._count += 1
        observation = arm.observe(frames=self._wish.frames)
        stamp = self._first_stamp if self._mood == "old chunk" else observation.stamp
        command = arm.command(self._goal(arm, observation.joint_target), stamp=stamp)
        if any((event.detail or "").startswith("mode:") for event in command.events):
            arm.latch()
        return {"flood": 0.0, "late": float(self._rng.uniform(0.1, 2.0))}.get(self._mood, PERIOD_S)

    def _goal(self, arm: RemoteArm, last: Joints) -> object:  # noqa: PLR0911 - one a mood
        limits, rng = arm.limits, self._rng
        match self._mood:
            case "NaN":
                broken = last.copy()
                broken[rng.integers(6)] = rng.choice([np.nan, np.inf, -np.inf])
                return broken
            case "huge":
                return rng.choice([-1e12, 1e12], 6)
            case "frozen":
                return self._start
            case "wrong shape":
                return rng.uniform(-90, 90, int(rng.choice([0, 1, 5, 7, 100])))
            case "extremes" | "flood":
                return limits.joint_upper if self._count % 2 else limits.joint_lower
            case "radians":
                return np.deg2rad(last)
            case _:
                return swing(self._start, time.monotonic(), 25.0)


def misbehave(wish: EvilWish) -> None:
    """Be an evil policy for ever."""
    evil = Evil(wish)
    while True:
        time.sleep(evil.step())


def swing(start: Joints, moment: float, amplitude: float) -> Joints:
    """Return a pose beside `start`, on a slow wave."""
    way = amplitude * np.sin(2.0 * moment) * np.array([1.0, 0.3, -0.3, 0.3, 1.0, 2.0])
    return np.asarray(start + way, np.float64)


def hog(said: Connection, wish: Path) -> None:
    """Use a whole core until `wish` is gone or the parent is."""
    parent = os.getppid()
    said.send("ready")
    while wish.exists() and os.getppid() == parent:
        for _ in range(100_000):
            pass
