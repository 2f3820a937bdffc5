"""A task on the simulated arm, with the names that LeRobot's commands have for things."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.arm_env import Info
from envs.tasks import HOLD_S
from envs.twin_env import make_twin_env
from rewarder.goal import parse_goal
from robot.arm import JOINTS

CAMERAS = ("front", "side")

type Seen = dict[str, Any]
"""`agent_pos`, shape (6,), and in `pixels` RGB by camera, shape (height, width, 3)."""


class TwinTaskEnv(gymnasium.Env[Seen, NDArray[np.float32]]):
    """Joint targets in, joint positions and pictures out, behind the guard.

    An episode terminates once success has held on ground truth, which `info["is_success"]` says,
    at a reward of 1; all other steps earn 0. Running out of time truncates.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium's
    render_mode = "rgb_array"

    def __init__(
        self, *, goal: str, fps: int, pixels: int, preset: str = "stiff", variation: float = 0.0
    ) -> None:
        """Build a twin that takes `fps` joint targets a second."""
        self._env = make_twin_env(
            parse_goal(goal),
            preset=preset,
            actions="joint_pos",
            image_size=(pixels, pixels),
            variation=variation,
            hz=float(fps),
        )
        self.metadata = {**self.metadata, "render_fps": fps}
        self.task, self.task_description = self._env.task.name, goal
        self._max_episode_steps = round(self._env.task.limit_s * fps)
        self._enough, self._held = round(HOLD_S * fps), 0
        self.action_space = self._env.action_space
        picture = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)
        # Gymnasium types a Dict space by its spaces, not by what they hold.
        named: Any = {
            "agent_pos": spaces.Box(-np.inf, np.inf, (len(JOINTS),), np.float32),
            "pixels": spaces.Dict({name: picture for name in CAMERAS}),  # noqa: C420
        }
        space: Any = spaces.Dict(named)
        self.observation_space = space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Lay the table out and go to the start pose."""
        super().reset(seed=seed)
        _, info = self._env.reset(seed=seed, options=options)
        self._held = 0
        return _seen(info), {"is_success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Send joint targets, shape (6,), in degrees and the gripper from 0 to 100."""
        _, _, _, late, info = self._env.step(action)
        done = self._env.task.success(self._env.scene.truth())
        self._held = self._held + 1 if done else 0
        success = self._held > self._enough
        return _seen(info), float(success), success, late, {"is_success": success}

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what the first camera sees, RGB (height, width, 3)."""
        return self._env.arm.observe().frames[CAMERAS[0]].image

    def close(self) -> None:
        """Release the twin."""
        self._env.close()


def _seen(info: Info) -> Seen:
    observation = info["sensed"].observation
    pictures = {name: observation.frames[name].image for name in CAMERAS}
    return {"agent_pos": observation.joint_pos.astype(np.float32), "pixels": pictures}
