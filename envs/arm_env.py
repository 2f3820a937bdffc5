"""One arm and its table as a Gymnasium environment; every command passes the guard."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.actions import OPEN, TOOL_ROLL_DEG, ActionSpace
from envs.homing import ArmStopped, move_joints, move_tool
from envs.state import sizes, state_of, state_space
from envs.tasks import TASKS
from policy_server.policy import PolicySpec
from rewarder.goal import Goal
from robot.arm import LOOK_POSE, Joints, Observation, frozen
from robot.guard import Command, SafeArm
from robot.kinematics import tool_position
from robot.scene import Scene
from robot.tracking import Estimates, Tracker
from robot.vision import CameraModel

CONTROL_PERIOD_S = 0.05
"""Commands go out this often, or as often as a quicker policy decides."""
HZ = 10.0
"""Steps a second, where a policy was not made for another pace."""
STEP_S = 1 / HZ
START_POSE = (8.0, -14.0, 10.0, 94.0, TOOL_ROLL_DEG)
"""Tool down, the open jaws about 90 mm over the middle of the workspace, degrees."""
NEARLY_FOLDED = 25.0
"""Up to here from the look pose, degrees, as far as a limp arm sags, nothing is in the way; a
detour could hook the wrist's camera mount into the shoulder."""
CLEAR_HEIGHT = 0.12
"""The tool goes up this far before it leaves, metres."""
MIDDLE = (0.20, 0.0, CLEAR_HEIGHT)

type EnvState = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sensed:
    """What `info["sensed"]` says of one moment, beyond what the policy sees."""

    observation: Observation
    estimates: Estimates
    commands: tuple[Command, ...] = ()
    """What the guard made of the step's proposals; none at a reset."""
    taken: NDArray[np.float32] | None = None
    """The step's action as it was done: the person's, as near as can be, where one took over."""
    stopped: ArmStopped | None = None
    """Why the arm allows no further step; the rest is of the moment before that step."""

    @property
    def human(self) -> bool:
        """Return whether a person moved the arm in this step."""
        return any(command.human for command in self.commands)

    def __eq__(self, other: object) -> bool:
        """Return whether pose and command are the same; pictures and time aside."""
        return (
            isinstance(other, Sensed)
            and _same(self.observation.joint_pos, other.observation.joint_pos)
            and _same(self.observation.joint_target, other.observation.joint_target)
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]


type Info = dict[str, Sensed]


@runtime_checkable
class Closing(Protocol):
    """A scene that holds something to be released."""

    def close(self) -> None:
        """Release it."""
        ...


def policy_spec(
    actions: ActionSpace, images: tuple[str, ...] = (), *, hz: float = HZ
) -> PolicySpec:
    """Return what a policy reads and writes that acts in this space and sees these frames."""
    return PolicySpec(
        action_space=actions.name,
        action_dim=actions.dim,
        state=sizes(actions.dim),
        images=images,
        hz=hz,
    )


class ArmEnv(gymnasium.Env[EnvState, NDArray[np.float32]]):
    """A guarded arm that practises one goal.

    `step` returns a reward of 0 and never terminates: whether the goal is reached is not known
    while the arm moves. Rewards come afterwards, from `rl.label`; the clock truncates.
    `info["sensed"]` carries the `Observation`, the tracker's `Estimates` and the guard's
    `Command`s.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / STEP_S)}  # noqa: RUF012

    def __init__(  # noqa: PLR0913 - the constructor is the schema
        self,
        arm: SafeArm,
        scene: Scene,
        *,
        goal: Goal,
        cameras: Mapping[str, CameraModel],
        actions: ActionSpace,
        images: Collection[str] = (),
        action_scale: float = 1.0,
        retreat_first: bool = False,
        hz: float = HZ,
        about: Callable[[], Mapping[str, object]] = dict,
        render_mode: str | None = None,
    ) -> None:
        """Wrap an arm seen by `cameras`; `images` names those whose frames join the observation.

        `action_scale` is the share of every action that is carried out. With `retreat_first` the
        arm leaves the table before a reset, where that does not put the arm itself elsewhere. `hz`
        is how many steps a second there are. `about()` says what an episode keeps of the arm.
        """
        self.arm, self.scene, self.goal, self.cameras = arm, scene, goal, cameras
        self.about = about
        self.task = TASKS[goal.task]
        self.render_mode = render_mode
        self.action_space = spaces.Box(*actions.bounds, dtype=np.float32)
        self.hz, self.step_s = hz, 1 / hz
        self._ticks = max(1, round(self.step_s / CONTROL_PERIOD_S))
        self._period_s = self.step_s / self._ticks
        self._images = tuple(images)
        seen = {name: cameras[name] for name in self._images}
        # Gymnasium types a Dict space by its spaces, not by what they hold.
        self.observation_space = _observation_space(actions, seen)  # pyright: ignore[reportAttributeAccessIssue]
        self._tracker, self.actions = Tracker(cameras, goal.layout), actions
        self.action_scale, self._retreat_first = action_scale, retreat_first
        self._last_action = np.zeros(actions.dim, np.float32)
        self._sensed: Sensed | None = None
        self._steps = 0
        self._due = 0.0

    @property
    def sensed(self) -> Sensed:
        """Return the newest moment; raise `RuntimeError` before the first reset."""
        if self._sensed is None:
            raise RuntimeError("the environment was used before reset")
        return self._sensed

    @property
    def policy_spec(self) -> PolicySpec:
        """Return what a policy for this environment reads and writes."""
        return policy_spec(self.actions, self._images, hz=self.hz)

    @property
    def offers(self) -> PolicySpec:
        """Return what a policy elsewhere may read of this arm: its cameras as well."""
        return policy_spec(self.actions, tuple(self.cameras), hz=self.hz)

    def hold_action(self) -> NDArray[np.float32]:
        """Return the action that stays at the last command."""
        last = self.sensed.observation.joint_target
        return self.actions.action(last, last)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's signature
    ) -> tuple[EnvState, Info]:
        """Put the scene in order, look, and go to the start pose.

        `info["look"]` is what was seen before. Raise `ArmStuckError` if a guarded motion does not
        arrive, `ArmStopped` if the arm does not obey.
        """
        super().reset(seed=seed)
        if self._retreat_first:
            self.arm.latch()
            self._retreat()
        self.scene.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        self.arm.latch()
        self._tracker.reset()
        move_joints(self.arm, frozen([*LOOK_POSE, OPEN]), period_s=CONTROL_PERIOD_S)
        look = self._sense()
        move_joints(self.arm, frozen([*START_POSE, OPEN]), period_s=CONTROL_PERIOD_S)
        self._last_action = np.zeros_like(self._last_action)
        self._steps = 0
        sensed = self._sense()
        self._due = self.arm.clock.now()
        return self._state(sensed), {"sensed": sensed, "look": look}

    def step(self, action: NDArray[np.float32]) -> tuple[EnvState, float, bool, bool, Info]:
        """Do one policy step; `info["sensed"]` says what was sent.

        A step that the arm's stop or a lost link cuts short is truncated and leaves the moment
        before it as it was; `info["sensed"].stopped` says why.
        """
        before = self.sensed
        if not np.isfinite(action).all():
            raise ValueError(f"the action is not finite: {action}")
        try:
            sensed = self._act(np.asarray(action, np.float32), before.observation)
        except ArmStopped as stopped:
            sensed = replace(before, commands=(), stopped=stopped)
            return self._state(sensed), 0.0, False, True, {"sensed": sensed}
        self._steps += 1
        late = self._steps * self.step_s >= self.task.limit_s - 1e-9
        return self._state(sensed), 0.0, False, late, {"sensed": sensed}

    def look_after(self) -> Observation:
        """Retreat under the guard to the look pose, the gripper as it is, and return what is seen.

        Raise `ArmStuckError` or `ArmStopped` as `reset` does.
        """
        self._retreat()
        self._sensed = self._sense()
        return self._sensed.observation

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the newest frame of the first camera, RGB (height, width, 3)."""
        if self.render_mode is None or self._sensed is None:
            return None
        return next(iter(self._sensed.observation.frames.values())).image

    def close(self) -> None:
        """Release the arm, and the scene where that holds something."""
        self.arm.close()
        if isinstance(self.scene, Closing):
            self.scene.close()

    def _act(self, action: NDArray[np.float32], before: Observation) -> Sensed:
        """Carry out an action and return what came of it."""
        commands = self._move(action, before)
        sensed = replace(self._sense(), commands=commands)
        taken = np.clip(action, *self.actions.bounds)
        if sensed.human:
            way = sensed.observation.joint_target - before.joint_target
            target = before.joint_target + way / self.action_scale
            taken = self.actions.action(target, before.joint_target)
        self._last_action = taken
        return replace(sensed, taken=taken)

    def _move(self, action: NDArray[np.float32], before: Observation) -> tuple[Command, ...]:
        """Send the action's joint target in equal parts over the control ticks of a step.

        The ticks keep to their period, however long it takes to see and to decide in between; an
        arm that is a whole tick late begins a period of its own.
        """
        clock, start = self.arm.clock, before.joint_target
        way = self.action_scale * (self.actions.joint_target(action, start) - start)
        commands: list[Command] = []
        for tick in range(1, self._ticks + 1):
            now = clock.now()
            if now - self._due >= self._period_s:
                self._due = now
            part = start + way * tick / self._ticks
            commands.append(self.arm.command(part, stamp=before.stamp))
            self._due += self._period_s
            clock.sleep_until(self._due)
        return tuple(commands)

    def _retreat(self) -> None:
        """Go to the look pose, the gripper as it is.

        First straight up, then over the middle of the table: from there every joint turns freely.
        """
        seen = self.arm.observe(frames=False)
        look = frozen([*LOOK_POSE, seen.joint_target[5]])
        if np.abs(seen.joint_pos - look)[:5].max() > NEARLY_FOLDED:
            x, y, z = tool_position(seen.joint_target)
            for goal in ((x, y, max(z, CLEAR_HEIGHT)), MIDDLE):
                move_tool(self.arm, np.array(goal), period_s=CONTROL_PERIOD_S)
        move_joints(self.arm, look, period_s=CONTROL_PERIOD_S)

    def _sense(self) -> Sensed:
        observation = self.arm.observe()
        images = {name: frame.image for name, frame in observation.frames.items()}
        return Sensed(observation=observation, estimates=self._tracker.update(images))

    def _state(self, sensed: Sensed) -> EnvState:
        self._sensed = sensed
        time_left = max(0.0, 1.0 - self._steps * self.step_s / self.task.limit_s)
        state = state_of(
            sensed.observation, sensed.estimates, action=self._last_action, time_left=time_left
        )
        return {**state, **{name: sensed.observation.frames[name].image for name in self._images}}


def _same(a: Joints, b: Joints) -> bool:
    """Return whether two poses differ by no more than a running clock's rounding."""
    return np.allclose(a, b, rtol=0.0, atol=1e-6)


def _observation_space(actions: ActionSpace, cameras: Mapping[str, CameraModel]) -> spaces.Dict:
    """Return the space of the state, and of the frames of these cameras."""
    pictures = {
        name: spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
        for name, camera in cameras.items()
    }
    return spaces.Dict({**state_space(*actions.bounds), **pictures})
