"""Devices for tests, moved by the test itself."""

from pathlib import Path

from robot.arm import Observation, frozen
from robot.limits import SafetyLimits

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
START = frozen([8, -14, 10, 94, 90, 45])


class Pressed:
    """Keys that are pressed by a test."""

    def __init__(self, *keys):
        self.keys = list(keys)

    def read(self):
        keys, self.keys = self.keys, []
        return keys


class Fixed:
    """A device that wants one pose, or none."""

    def __init__(self, goal=None):
        self.goal, self.requests, self.closed = goal, [], False

    def poll(self):
        requests, self.requests = self.requests, []
        return requests

    def read(self, observation):
        return self.goal

    def close(self):
        self.closed = True


def seen(target=START, stamp=100.0):
    return Observation(stamp=stamp, joint_pos=target, joint_target=target, frames={})
