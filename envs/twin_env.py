"""The environment over a simulated arm."""

from collections.abc import Callable, Mapping
from pathlib import Path

from envs.actions import ActionSpace, EeDelta, JointAbsolute, JointDelta, JointPos
from envs.arm_env import CONTROL_PERIOD_S, HZ, ArmEnv
from rewarder.goal import Goal, parse_goal, task_goal
from robot.guard import Guard, GuardedArm
from robot.limits import SafetyLimits
from robot.perturbation import NOMINAL, Perturbation
from robot.scene import Layout
from robot.twin import Twin

SAFETY = Path(__file__).parents[1] / "conf" / "safety" / "default.yaml"
ACTION_SPACES: Mapping[str, Callable[[SafetyLimits], ActionSpace]] = {
    "ee_delta": EeDelta,
    "joint_delta": JointDelta,
    "joint_absolute": JointAbsolute,
    "joint_pos": JointPos,
}


def make_twin_env(  # noqa: PLR0913 - the function is the schema of conf/arm
    goal: Goal,
    *,
    preset: str = "stiff",
    actions: str = "ee_delta",
    safety: Path = SAFETY,
    images: bool = False,
    image_size: tuple[int, int] = (96, 96),
    realtime: bool = False,
    variation: float = 0.0,
    arm_variation: float = 0.0,
    perturbation: Perturbation = NOMINAL,
    hz: float = HZ,
    render_mode: str | None = None,
    layout: Layout | None = None,
    slide: float = 0.0,
) -> ArmEnv:
    """Return an environment over a new twin; with `images` its frames join the observation.

    `layout` says what lies on the table where that is not just what the goal names, and
    `perturbation` in what arm and table differ from the nominal ones; `slide` is the thing's speed
    along y, metres a second.
    """
    if actions not in ACTION_SPACES:
        raise ValueError(f"unknown actions {actions!r}; known: {', '.join(ACTION_SPACES)}")
    limits = SafetyLimits.load(safety)
    twin = Twin(
        layout or goal.layout,
        preset=preset,
        image_size=image_size,
        realtime=realtime,
        variation=variation,
        arm_variation=arm_variation,
        perturbation=perturbation,
        slide=slide,
    )
    arm = GuardedArm(twin, Guard(limits), twin.clock, period_s=min(CONTROL_PERIOD_S, 1 / hz))
    return ArmEnv(
        arm,
        twin,
        goal=goal,
        cameras=twin.cameras,
        actions=ACTION_SPACES[actions](limits),
        images=tuple(twin.cameras) if images else (),
        hz=hz,
        render_mode=render_mode,
    )


def make_task_env(
    task: str = "place",
    goal: str | None = None,
    *,
    preset: str = "stiff",
    actions: str = "ee_delta",
    images: bool = False,
    render_mode: str | None = None,
) -> ArmEnv:
    """Return the environment of a task, or of a goal sentence, for `gymnasium.make`."""
    return make_twin_env(
        parse_goal(goal) if goal else task_goal(task),
        preset=preset,
        actions=actions,
        images=images,
        render_mode=render_mode,
    )
