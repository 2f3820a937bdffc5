"""What an environment of the type `so101_twin` takes, and what its features are called."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# LeRobot comes without types.

from dataclasses import dataclass
from functools import partial
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from envs.tasks import TASKS
from rewarder.goal import parse_goal, task_goal
from rl.lerobot_twin.task_env import CAMERAS, TwinTaskEnv
from robot.arm import JOINTS

STATE, ACTION, PICTURES = "observation.state", "action", "observation.images."


@EnvConfig.register_subclass("so101_twin")
@dataclass
class So101TwinConfig(EnvConfig):
    """A simulated SO-101 before its table."""

    task: str | None = "lift"
    goal: str | None = None
    """A sentence with other colours; it must be of the task."""
    fps: int = 20
    """Actions a second: those at which the policy's recordings were made."""
    pixels: int = 96
    """Height and width of the pictures."""
    preset: str = "stiff"
    variation: float = 0.0
    """0 to 1: how much the table differs from layout to layout."""

    def __post_init__(self) -> None:
        """Name the features; raise `ValueError` for what no environment can be made of."""
        if self.task not in TASKS:
            raise ValueError(f"env.task={self.task!r} is unknown; known: {', '.join(TASKS)}")
        goal = parse_goal(self.goal) if self.goal else task_goal(self.task)
        if goal.task != self.task:
            raise ValueError(f"env.goal is of the task {goal.task}, env.task={self.task}")
        self.goal = str(goal)
        size = (self.pixels, self.pixels, 3)
        joints = (len(JOINTS),)
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, joints),
            "agent_pos": PolicyFeature(FeatureType.STATE, joints),
            **{f"pixels/{name}": PolicyFeature(FeatureType.VISUAL, size) for name in CAMERAS},
        }
        self.features_map = {
            ACTION: ACTION,
            "agent_pos": STATE,
            **{f"pixels/{name}": PICTURES + name for name in CAMERAS},
        }

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Return what an environment is made of."""
        names = ("goal", "fps", "pixels", "preset", "variation")
        return {name: getattr(self, name) for name in names}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, VectorEnv[Any, Any, Any]]]:
        """Return `n_envs` environments of the task, in processes of their own if asked for."""
        makers = [partial(TwinTaskEnv, **self.gym_kwargs)] * n_envs
        mode = AutoresetMode.SAME_STEP
        if use_async_envs and n_envs > 1:
            vector = AsyncVectorEnv(makers, context="forkserver", autoreset_mode=mode)
        else:
            vector = SyncVectorEnv(makers, autoreset_mode=mode)
        return {str(self.task): {0: vector}}
