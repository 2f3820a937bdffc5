"""Guarded motions without a policy: `python -m robot.teleop.motions do=home|park|jog arm_id=arm01`.

`do=home` goes to the median start pose of `dataset=` where one is named, else to the arm's own;
`do=jog joint=elbow_flex by=5` moves one joint; `do=park` rests the arm and switches torque off.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import closing

import numpy as np

from robot.arm import JOINTS, Joints, Observation, frozen
from robot.arm_config import ArmConfig
from robot.client import open_arm
from robot.guard import Guard, SafeArm
from robot.journal import Journal, read_episode
from robot.process.arm_state import Mode
from robot.process.parking import parking_way
from robot.recording.dataset import known_journal
from robot.teleop.takeover import FAILURES, HumanArm, fail, say, take_free_arm
from robot.words import UsageError, parse_words

SPEED, JOG_SPEED = 45.0, 15.0
"""Degrees (gripper: hundredths) a second."""
PERIOD_S, SETTLE_S = 0.05, 2.0
ARRIVED, SINGLE_ARRIVED = 4.0, 2.0
"""A compliant arm sags: a pose is reached when every joint is this near, degrees."""
LIMP = 25.0
"""This near its park pose an arm without torque may have sunk onto itself, degrees."""
WORDS = {"do": "home", "arm_id": "arm01", "dataset": "", "joint": "", "by": ""}


class NotThere(Exception):
    """A motion that did not arrive; the message names the joint."""


def start_pose(episodes: Journal) -> Joints:
    """Return the median of the poses in which recorded episodes began, shape (6,).

    Raise `UsageError` where there is none.
    """
    starts = [
        (episode := read_episode(path)).joint_pos[episode.first_step]
        for path in episodes.episodes()
    ]
    if not starts:
        raise UsageError(f"{episodes.folder} has no episode; record one, or leave dataset= out")
    return frozen(np.median(starts, axis=0))


def go(arm: SafeArm, goal: Joints, *, park: Joints, period_s: float = PERIOD_S) -> None:
    """Move to a pose, shape (6,), on a way that is free; or raise `NotThere`.

    An arm that has sunk onto itself where it was parked, at `park`, goes back there first: its
    wrist would hook into the shoulder otherwise.
    """
    start = arm.observe(frames=False).joint_target
    if np.abs(start - park)[:5].max() <= LIMP:
        start = frozen([*park[:5], start[5]])
        _follow(arm, start, speed=SPEED, period_s=period_s)
    # Backwards, the way that would park it at the start: it leaves a fold as it came into it.
    way = parking_way(Guard(arm.limits), goal, start) or [start]
    for pose in [*way[-2::-1], goal]:
        _follow(arm, pose, speed=SPEED, period_s=period_s)
    _settle(arm, goal, within=ARRIVED, period_s=period_s)


def jog(arm: SafeArm, joint: str, by: float, *, period_s: float = PERIOD_S) -> Joints:
    """Move one joint by degrees (gripper: hundredths), slowly; return the measured pose."""
    last = arm.observe(frames=False).joint_target
    index = JOINTS.index(joint)
    goal = last.copy()
    goal[index] += by
    limits = arm.limits
    if not limits.joint_lower[index] <= goal[index] <= limits.joint_upper[index]:
        raise NotThere(
            f"{joint} would be at {goal[index]:.1f}; it goes from {limits.joint_lower[index]:.1f} "
            f"to {limits.joint_upper[index]:.1f}"
        )
    _follow(arm, frozen(goal), speed=JOG_SPEED, period_s=period_s)
    return _settle(arm, frozen(goal), within=SINGLE_ARRIVED, period_s=period_s).joint_pos


def _follow(arm: SafeArm, goal: Joints, *, speed: float, period_s: float) -> None:
    """Command a straight way to `goal` in even steps."""
    start = arm.observe(frames=False).joint_target
    ticks = max(1, int(np.ceil(np.abs(goal - start).max() / (speed * period_s))))
    for tick in range(1, ticks + 1):
        _tick(arm, start + (goal - start) * tick / ticks, period_s)


def _settle(arm: SafeArm, goal: Joints, *, within: float, period_s: float) -> Observation:
    """Wait until the arm is at `goal`; the gripper may hold something."""
    observation = _tick(arm, goal, period_s)
    for _ in range(round(SETTLE_S / period_s)):
        if np.abs(observation.joint_pos - goal)[:5].max() <= within:
            return observation
        observation = _tick(arm, goal, period_s)
    off = np.abs(observation.joint_pos - goal)[:5]
    worst = int(off.argmax())
    raise NotThere(
        f"{JOINTS[worst]} stays {off[worst]:.0f} degrees short after {SETTLE_S:.0f} s: is its way "
        "free, and does it turn by hand without torque?"
    )


def _tick(arm: SafeArm, target: Joints, period_s: float) -> Observation:
    """Send one target and return what was sensed before; raise `NotThere` where none is taken."""
    now = arm.clock.now()
    observation = arm.observe(frames=False)
    command = arm.command(target, stamp=observation.stamp)
    for event in command.events:
        if event.rule == "refused":
            raise NotThere(f"the arm takes no commands ({event.detail}); see its state")
    arm.clock.sleep_until(now + period_s)
    return observation


# The program


def home(arm: HumanArm, config: ArmConfig, words: Mapping[str, str]) -> str:
    """Go to the start pose."""
    dataset = words["dataset"]
    goal = start_pose(known_journal(dataset)) if dataset else config.start_pose
    _with_arm(arm, lambda: go(arm, goal, park=config.park_pose))
    return f"{config.arm_id} is at its start pose"


def park(arm: HumanArm, config: ArmConfig, words: Mapping[str, str]) -> str:  # noqa: ARG001
    """Let the arm's process park it."""
    arm.mode(Mode.PARK)
    while (state := arm.state()).mode is Mode.PARK:
        arm.clock.sleep_until(arm.clock.now() + PERIOD_S)
    if state.mode is not Mode.IDLE:
        raise NotThere(f"{config.arm_id} did not park and is in {state.mode}: {state.reason}")
    return f"{config.arm_id} rests, without torque"


def jog_one(arm: HumanArm, config: ArmConfig, words: Mapping[str, str]) -> str:  # noqa: ARG001
    """Move the joint that the words name."""
    joint = words["joint"]
    if joint not in JOINTS:
        raise UsageError(f"joint={joint!r}; expected one of {', '.join(JOINTS)}")
    try:
        by = float(words["by"])
    except ValueError:
        raise UsageError(f"by={words['by']!r}; expected degrees, e.g. by=5") from None
    poses: list[Joints] = []
    _with_arm(arm, lambda: poses.append(jog(arm, joint, by)))
    return f"{joint} is at {poses[0][JOINTS.index(joint)]:.1f}"


def _with_arm(arm: HumanArm, motion: Callable[[], None]) -> None:
    """Do a motion as a person who has taken over, and let the arm hold afterwards."""
    take_free_arm(arm)
    try:
        motion()
    finally:
        if arm.state().mode is Mode.TAKEOVER:
            arm.mode(Mode.HOLD)


MOTIONS = {"home": home, "park": park, "jog": jog_one}


def main(argv: list[str]) -> int:
    """Do one motion; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        if words["do"] not in MOTIONS:
            raise UsageError(f"do={words['do']!r} is none of {', '.join(MOTIONS)}")
        config = ArmConfig.load(words["arm_id"])
        with closing(open_arm(config, client="motions", human=True)) as arm:
            say(MOTIONS[words["do"]](arm, config, words))
    except KeyboardInterrupt:
        return 130
    except (*FAILURES, NotThere) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
