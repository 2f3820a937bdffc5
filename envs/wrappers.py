"""Rewards in process, for plain Gymnasium and Stable-Baselines3 users."""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.arm_env import ArmEnv, EnvState, Info
from rewarder.heuristic import Judge
from robot.arm import Observation

HOLD_STEPS = 5
"""Steps in a row that must look done before an episode ends: half a second."""


class HeuristicReward(
    gymnasium.Wrapper[EnvState, NDArray[np.float32], EnvState, NDArray[np.float32]]
):
    """Pays `progress - 1` a step, judged from the frames at once, and terminates at success.

    Where the pictures allow no judgement the progress of the step before is paid again.
    """

    def __init__(self, env: gymnasium.Env[EnvState, NDArray[np.float32]]) -> None:
        """Wrap an `ArmEnv`, or what `gymnasium.make` put around one."""
        super().__init__(env)
        if not isinstance(env.unwrapped, ArmEnv):
            raise TypeError(f"HeuristicReward wraps an ArmEnv, not {type(env.unwrapped).__name__}")
        self._arm_env = env.unwrapped
        self._judge = Judge(self._arm_env.goal, self._arm_env.cameras)
        self._progress = 0.0
        self._done = deque[bool](maxlen=HOLD_STEPS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[EnvState, Info]:
        """Begin an episode; the look before it tells the judge where everything is."""
        state, info = self.env.reset(seed=seed, options=options)
        self._judge = Judge(self._arm_env.goal, self._arm_env.cameras)
        self._progress = 0.0
        self._done.clear()
        self._watch(info["look"].observation)
        self._watch(info["sensed"].observation)
        return state, info

    def step(self, action: NDArray[np.float32]) -> tuple[EnvState, float, bool, bool, Info]:
        """Act, and pay for what the frames show."""
        state, _, _, truncated, info = self.env.step(action)
        self._done.append(self._watch(info["sensed"].observation))
        terminated = len(self._done) == HOLD_STEPS and all(self._done)
        reward = 0.0 if terminated else self._progress - 1.0
        return state, reward, terminated, truncated and not terminated, info

    def _watch(self, observation: Observation) -> bool:
        """Return whether the goal looks reached."""
        success, progress, valid = self._judge.update(
            {name: frame.image for name, frame in observation.frames.items()},
            observation.joint_pos,
            observation.joint_target,
            observation.stamp,
        )
        if valid:
            self._progress = progress
        return success and valid
