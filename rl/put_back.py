"""The arm puts the thing back itself: by a learnt policy it lifts it, then lays it elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from envs.actions import OPEN
from envs.arm_env import CLEAR_HEIGHT, CONTROL_PERIOD_S, ArmEnv, Closing
from envs.homing import ArmStuckError, move_joints, move_tool
from policy_server.policy import Policy
from rewarder.goal import Goal
from rl.rollout import Eyes, decide
from rl.run_record import BadRun
from robot.arm import frozen
from robot.scene import Truth

SPOTS = ((0.17, 0.28), (-0.11, 0.11))
"""Where it lays the thing: least and greatest x and y, metres."""
LAY_HEIGHT = 0.025
"""Height of the tool over the table at which it lets go, metres."""
LAID = 0.05
"""How far from its spot a thing may have rolled, metres."""
FROM_PLACE = {"push": (0.08, 0.12)}
AWAY = (0.08, 1.0)
"""Least and greatest distance of a spot from the place where the thing belongs, metres: by task,
as the twin lays things out, and for the others."""
TRIES, DRAWS = 2, 1000
LAID_OUT_BY = "laid_out_by"
"""What an episode's configuration says of this, `arm` or `other`."""


class Untouched:
    """A scene that stays as it is."""

    def reset(self, seed: int) -> None:
        """Do nothing."""

    def truth(self) -> Truth:
        """Raise `NotImplementedError`: nothing is judged here."""
        raise NotImplementedError("the arm goes by its own eyes")


class PutBack:
    """A scene that the arm puts in order, where it can: at first, and where not, another does."""

    def __init__(self, env: ArmEnv, lift: Policy) -> None:
        """Take the place of an environment's scene; `lift` lifts the thing of its goal."""
        self._practice, self._other = env, env.scene
        self._lift = lift
        self._env = ArmEnv(
            env.arm,
            Untouched(),
            goal=Goal("lift", env.goal.thing),
            cameras=env.cameras,
            actions=env.actions,
            action_scale=env.action_scale,
            retreat_first=True,
            hz=env.hz,
        )
        self._begun = False
        self.laid_out_by: Literal["arm", "other"] = "other"
        """Who laid out what lies there now."""

    def reset(self, seed: int) -> None:
        """Lift the thing and lay it on a spot that follows from the seed; else have it laid out."""
        done = self._begun and any(self._tried(seed, number) for number in range(TRIES))
        self._begun, self.laid_out_by = True, "arm" if done else "other"
        if not done:
            self._other.reset(seed)

    def truth(self) -> Truth:
        """Return where everything is, as the other scene does."""
        return self._other.truth()

    def close(self) -> None:
        """Release the policy and the other scene, where they hold something."""
        for held in (self._lift, self._other):
            if isinstance(held, Closing):
                held.close()

    def _tried(self, seed: int, number: int) -> bool:
        try:
            return self._lifts(seed) and self._lays(self._spot([seed, number]))
        except ArmStuckError:
            return False

    def _lifts(self, seed: int) -> bool:
        """Return whether the thing hangs in the gripper, to the arm's own eyes."""
        env, late = self._env, False
        state, info = env.reset(seed=seed)
        if not info["look"].estimates.thing.seen:
            return False
        eyes = Eyes(env, info)
        while not late:
            action = decide(self._lift, env, state, info)
            state, _, _, late, info = env.step(action)
            if stopped := info["sensed"].stopped:
                raise stopped
            if eyes.see(info["sensed"]):
                return True
        return False

    def _spot(self, seed: Sequence[int]) -> NDArray[np.float64]:
        """Return a spot on the table, shape (2,), metres, away from the place if there is one."""
        low, high = np.array(SPOTS).T
        spots = np.random.default_rng(seed).uniform(low, high, (DRAWS, 2))
        place = self._practice.sensed.estimates.place
        if place is None:
            return spots[0]
        least, most = FROM_PLACE.get(self._practice.task.name, AWAY)
        off = np.linalg.norm(spots - place.pos[:2], axis=1)
        # A place that was knocked to the edge may have no such spot: then any will do.
        return spots[int(np.argmax((least <= off) & (off <= most)))]

    def _lays(self, spot: NDArray[np.float64]) -> bool:
        """Carry the thing to a spot and let go; return whether it then lies about there."""
        arm = self._env.arm
        for height in (CLEAR_HEIGHT, LAY_HEIGHT):
            move_tool(arm, np.append(spot, height), period_s=CONTROL_PERIOD_S)
        there = arm.observe(frames=False).joint_target
        move_joints(arm, frozen([*there[:5], OPEN]), period_s=CONTROL_PERIOD_S)
        self._env.look_after()
        thing = self._env.sensed.estimates.thing
        return thing.seen and bool(np.abs(thing.pos[:2] - spot).max() <= LAID)


def put_back(env: ArmEnv, lift: Path) -> PutBack:
    """Return what lays out an environment's scene by the lifting policy in a folder.

    Raise `BadRun` where that reads or does something else than the arm.
    """
    # torch costs seconds, and an arm whose table another puts in order has no use for it here.
    from policy_server.backends.learned import LearnedPolicy  # noqa: PLC0415

    policy = LearnedPolicy.load(lift, greedy=True)
    if policy.spec != env.policy_spec:
        raise BadRun(f"{lift} reads {policy.spec}, the arm gives {env.policy_spec}", code=2)
    return PutBack(env, policy)


def sentence(episodes: Iterable[Mapping[str, object]]) -> str:
    """Say, from the lines of a run's episodes, how often somebody else had to lay things out."""
    by = [line.get(LAID_OUT_BY) for line in episodes]
    return (
        f"the arms laid things out themselves before {by.count('arm')} of {len(by)} episodes; the "
        f"others took a person, or what stands for one: {by.count('other')}"
    )
