"""Where an arm was told to go, and the part of the way that one cycle sends; both guarded."""

import math
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

from robot.arm import Joints, frozen
from robot.guard import Command, Guard

LONGEST_STEP_S = 0.05
"""What one step may make up for, however long the last one is ago."""
BLEND_S = 1.5
"""Time in which the speed limit rises from nothing to its full value."""


class Motion:
    """The accepted goal, the way to it, and the last command; every step of both is guarded.

    A goal is reached one interval after it was accepted, on a straight way at constant speed, so
    that goals at 20 Hz become a smooth motion at 50 Hz.
    """

    def __init__(self, guard: Guard, pose: Joints) -> None:
        """Start at a measured `pose`, at full speed."""
        self._guard = guard
        self.goal = self.sent = frozen(pose)
        """The last accepted goal, and the last command to the servos."""
        self.events: Counter[str] = Counter()
        """How often each rule changed a goal, or stopped a step on its way."""
        self._way: deque[tuple[float, Joints]] = deque()
        self._from: tuple[float, Joints] = (-math.inf, self.goal)
        self._blend_at = -math.inf
        self._proposed_at = self._sent_at = -math.inf

    def latch(self, pose: Joints) -> None:
        """Take the measured `pose` as goal and as last command."""
        self.goal = self.sent = frozen(pose)
        self._way.clear()

    def freeze(self) -> None:
        """Stay at the last command."""
        self.latch(self.sent)

    def blend(self, now: float) -> None:
        """Let the speed rise from nothing, starting at `now`."""
        self._blend_at = now

    def pace(self, now: float) -> float:
        """Return the share of the full speed that is allowed."""
        return min(1.0, max(0.0, (now - self._blend_at) / BLEND_S))

    def propose(self, proposal: object, *, measured: Joints, now: float, age_s: float) -> Command:
        """Accept the nearest allowed goal and head for it."""
        interval = max(0.0, min(now - self._proposed_at, LONGEST_STEP_S))
        command = self._guard.check(
            proposal,
            last=self.goal,
            measured=measured,
            dt=interval * self.pace(now),
            age_s=age_s,
        )
        self.events.update(event.rule for event in command.events)
        if any(event.rule == "refused" for event in command.events):
            return command
        self._proposed_at = now
        self._append(command.joint_target, now=now, seconds=interval)
        return command

    def follow(self, poses: Sequence[Joints], *, now: float, speed: float) -> None:
        """Head for each pose in turn; no joint is meant to be faster than `speed` a second."""
        for pose in poses:
            seconds = float(np.abs(pose - self.goal).max()) / speed
            self._append(frozen(pose), now=now, seconds=seconds)

    @property
    def arrived(self) -> bool:
        """Return whether the last command is the goal."""
        return not self._way and bool(np.abs(self.sent - self.goal).max() < 1e-6)

    @property
    def blocked(self) -> bool:
        """Return whether the way is over, but the guard kept the last command from the goal."""
        return not self._way and not self.arrived

    def step(self, *, measured: Joints, now: float, share: float = 1.0) -> Joints:
        """Return the next command; `share` of the full speed is the most that it uses."""
        interval = max(0.0, min(now - self._sent_at, LONGEST_STEP_S))
        self._sent_at = now
        wanted = self._wanted(now)
        if np.array_equal(wanted, self.sent):
            return self.sent
        command = self._guard.check(
            wanted,
            last=self.sent,
            measured=measured,
            dt=interval * min(share, self.pace(now)),
        )
        # A step that is due in the next cycle instead is no event.
        self.events.update(event.rule for event in command.events if event.rule != "step")
        self.sent = command.joint_target
        return self.sent

    def _append(self, pose: Joints, *, now: float, seconds: float) -> None:
        start = max(now, self._way[-1][0]) if self._way else now
        if not self._way:
            self._from = (now, self.goal)
        self._way.append((start + seconds, pose))
        self.goal = pose

    def _wanted(self, now: float) -> Joints:
        """Return the pose of the way at `now`."""
        while self._way and self._way[0][0] <= now:
            self._from = self._way.popleft()
        if not self._way:
            return self.goal
        (begin, here), (end, there) = self._from, self._way[0]
        return here + max(0.0, (now - begin) / (end - begin)) * (there - here)
