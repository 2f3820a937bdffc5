"""An arm's process on a clock that is set by hand, with servos that are made up."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from ops.safety_checks.clock import SetClock
from ops.safety_checks.guard import SAFETY, START
from ops.safety_checks.judge import Floats, Rules
from robot.arm import Joints, frozen
from robot.arm_config import ArmConfig
from robot.guard import Command, Guard
from robot.limits import SafetyLimits
from robot.process.arm_process import PERIOD_S, ArmProcess, Mode, ModeRefused
from robot.process.servos import LostReply, ServoHealth

POLICY, PERSON = "policy#1", "person#2"
PROPOSE_EVERY = 2
"""Cycles of 20 ms between two goals of a client: 25 Hz."""
RULES = Rules.load(SAFETY)
GUARD = Guard(SafetyLimits.load(SAFETY))
PARK = ArmConfig.load("arm01").park_pose
GOAL = frozen([20.0, -55.0, 45.0, 70.0, 90.0, 60.0])
ON_CLOCK = "on a clock set by hand, so exact: what a real process adds is in the rows below"
"""How sure such a check is."""
BLEND_S = 1.5
"""In which speed rises after a change of mode: the promise, not the process's own constant."""


class Servos:
    """Six servos that go where they are told, but for what is stuck or limp."""

    def __init__(self, clock: SetClock, pose: Joints) -> None:
        """Stand at a pose without torque."""
        self._clock, self.pos = clock, np.array(pose)
        self.sent: list[tuple[float, Floats]] = []
        """When and what was sent."""
        self.torque_on = False
        self.stuck = np.zeros(6, bool)
        self.lost = 0
        """Replies that will be lost."""
        self.reading: ServoHealth | None = None
        self.let_go: list[tuple[float, Floats]] = []
        """When and where torque went off."""

    def joint_pos(self) -> Joints:
        """Return where they are; raise `LostReply`."""
        if self.lost > 0:
            self.lost -= 1
            raise LostReply("elbow_flex (id 3) did not answer")
        return frozen(self.pos)

    def command(self, joint_target: Joints) -> None:
        """Go there."""
        self.sent.append((self._clock.time, np.array(joint_target)))
        if self.torque_on:
            self.pos = np.where(self.stuck, self.pos, joint_target)

    def health(self) -> ServoHealth | None:
        """Return what a check has set."""
        return self.reading

    def torque(self, *, on: bool) -> None:
        """Switch torque."""
        if not on:
            self.let_go.append((self._clock.time, self.pos.copy()))
        self.torque_on = on

    def close(self) -> None:
        """Do nothing."""


class Bench:
    """A process, its servos and its clients, of whom those in `beating` live."""

    def __init__(
        self,
        pose: Joints = START,
        *,
        stop_file: Path | None = None,
        beating: Iterable[str] = (POLICY, PERSON),
    ) -> None:
        """Start the process and let it do one cycle."""
        self.pose, self.stop_file, self.beating = pose, stop_file, set(beating)
        self.clock = SetClock()
        self.servos = Servos(self.clock, self.pose)
        self.process = ArmProcess(
            self.servos, GUARD, self.clock, park_pose=PARK, stop_file=self.stop_file
        )
        self._cycles = 0
        self.tick()

    @property
    def mode(self) -> Mode:
        """Return what the arm is doing."""
        return self.process.mode

    def tick(self, count: int = 1, *, goal: Joints | None = None, human: bool = False) -> Self:
        """Let cycles of 20 ms run; propose `goal` in every second one."""
        for _ in range(count):
            self.clock.time += PERIOD_S
            self._cycles += 1
            for client in self.beating:
                self.process.beat(client)
            if goal is not None and self._cycles % PROPOSE_EVERY == 0:
                self.propose(goal, human=human)
            self.process.tick()
        return self

    def propose(self, goal: object, *, human: bool = False, age_s: float = 0.0) -> Command:
        """Propose a goal as one of the two clients."""
        return self.process.propose(
            goal,
            stamp=self.clock.time - age_s,
            client=PERSON if human else POLICY,
            human=human,
        )

    def ask(self, mode: Mode, *, human: bool = False) -> bool:
        """Ask for a mode; return whether it was granted."""
        try:
            self.process.request(mode, client=PERSON if human else POLICY, human=human)
        except ModeRefused:
            return False
        return True

    def run(self, *, warm: bool = True) -> Self:
        """Enter RUN, and pass the blend if `warm`."""
        self.ask(Mode.RUN)
        return self.tick(round(BLEND_S / PERIOD_S) + 10 if warm else 1)

    def outlast(self, mode: Mode, *, limit_s: float = 10.0) -> float:
        """Let cycles run as long as a mode lasts; return its seconds."""
        began = self.clock.time
        while self.mode is mode and self.clock.time - began < limit_s:
            self.tick()
        return self.clock.time - began

    def take_over(self) -> Self:
        """Have the person take over, and pass the blend."""
        self.ask(Mode.TAKEOVER, human=True)
        return self.tick(round(BLEND_S / PERIOD_S) + 10)


def too_fast(sent: list[tuple[float, Floats]], *, since: float | None = None) -> int:
    """Return how many steps between two sent commands exceed the speed limit.

    `since` is when a blend began: within it the limit rises from nothing, evenly.
    """
    broken = 0
    for (before, here), (then, there) in pairwise(sent):
        share = 1.0 if since is None else min(1.0, max(0.0, (then - since) / BLEND_S))
        step = np.abs(there - here)
        broken += bool((step > RULES.speed * (then - before) * share + 1e-6).any())
    return broken
