"""The environment over an arm's own process, whether its servos are real or emulated."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from envs.arm_env import HZ, ArmEnv
from envs.bench import Bench
from envs.homing import ArmStopped
from envs.live_arm import ArmLink, LiveArm
from envs.twin_env import ACTION_SPACES
from rewarder.goal import Goal
from robot.arm_config import ArmConfig
from robot.client import ArmUnavailable, RemoteArm
from robot.emulator.admin import EmulatorAdmin
from robot.scene import Layout, Scene, Truth
from robot.tokens import TokenError, own_token
from robot.vision import CameraModel, load_cameras

ROOT = Path(__file__).parents[1]
CAMERAS = Path("conf/cameras/twin.yaml")


def make_real_env(  # noqa: PLR0913 - the function is the schema of conf/arm
    goal: Goal,
    *,
    arm_id: str,
    actions: str = "ee_delta",
    scene: Literal["person", "emulator"] = "person",
    cameras: Path | str = CAMERAS,
    folder: Path | str = "conf/arm",
    images: bool = False,
    hz: float = HZ,
    render_mode: str | None = None,
) -> ArmEnv:
    """Return an environment over the arm that `<arm_id>.yaml` in `folder` describes.

    `scene` says who lays things out; `cameras` is where the cameras stand (`make
    calibrate-camera`). Raise `ArmStopped` while the arm's process is out of reach.
    """
    config = ArmConfig.load(arm_id, folder=ROOT / folder)
    models = load_cameras(ROOT / cameras)
    arm = LiveArm(arm_id, partial(connected, config))
    try:
        require_cameras(arm_id, arm.cameras, models)
        return live_env(
            arm,
            scene_of(config, goal, scene),
            goal=goal,
            cameras=models,
            actions=actions,
            action_scale=config.action_scale,
            images=images,
            hz=hz,
            render_mode=render_mode,
        )
    except BaseException:
        arm.close()
        raise


def live_env(  # noqa: PLR0913 - each is a different thing, and keyword-only
    arm: LiveArm,
    scene: Scene,
    *,
    goal: Goal,
    cameras: Mapping[str, CameraModel],
    actions: str = "ee_delta",
    action_scale: float = 1.0,
    images: bool = False,
    hz: float = HZ,
    render_mode: str | None = None,
) -> ArmEnv:
    """Return an environment over an arm that has been reached."""
    if actions not in ACTION_SPACES:
        raise ValueError(f"unknown actions {actions!r}; known: {', '.join(ACTION_SPACES)}")
    return ArmEnv(
        arm,
        scene,
        goal=goal,
        cameras=cameras,
        actions=ACTION_SPACES[actions](arm.limits),
        images=tuple(cameras) if images else (),
        action_scale=action_scale,
        retreat_first=True,
        hz=hz,
        about=arm.about,
        render_mode=render_mode,
    )


def connected(config: ArmConfig) -> ArmLink:
    """Return a connection to an arm's process; raise `ArmUnavailable` at once if there is none."""
    try:
        token = own_token()
    except TokenError as error:
        raise ArmUnavailable(str(error)) from error
    return RemoteArm(config.url, client=f"practice-{config.arm_id}", token=token, patience_s=0.0)


def scene_of(config: ArmConfig, goal: Goal, who: str) -> Scene:
    """Return who puts the table of an arm in order."""
    if who == "person":
        return Bench(goal)
    if who != "emulator":
        raise ValueError(f"unknown scene {who!r}; known: person, emulator")
    return EmulatedTable(goal.layout, partial(EmulatorAdmin, config.runtime("admin")))


def require_cameras(
    arm_id: str, offered: Mapping[str, tuple[int, int]], models: Mapping[str, CameraModel]
) -> None:
    """Raise ValueError where an arm lacks a camera, or it has another size than its model."""
    for name, model in models.items():
        expected = (model.height, model.width)
        if tuple(offered.get(name, ())) != expected:
            has = "x".join(map(str, reversed(offered[name]))) if name in offered else "missing"
            raise ValueError(
                f"camera {name} of {arm_id} is {has}, where it stands was measured at "
                f"{model.width}x{model.height}: mend conf/arm/{arm_id}.yaml or run "
                "make calibrate-camera"
            )


class EmulatedTable:
    """The table of an emulated arm; an emulator that went away is asked for again."""

    def __init__(self, layout: Layout, reach: Callable[[], EmulatorAdmin]) -> None:
        self._layout, self._reach = layout, reach
        self._admin: EmulatorAdmin | None = None

    def reset(self, seed: int) -> None:
        """Lay this table's things out anew."""
        try:
            self._there().reset(seed)
        except OSError as error:
            raise self._gone(error) from error

    def truth(self) -> Truth:
        """Return where everything is."""
        try:
            return self._there().truth()
        except OSError as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """Hang up."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def _there(self) -> EmulatorAdmin:
        if self._admin is None:
            admin = self._reach()
            # Another run, or a restart, may have left other things on it.
            admin.layout(self._layout)
            self._admin = admin
        return self._admin

    def _gone(self, error: OSError) -> ArmStopped:
        self.close()
        return ArmStopped(f"the emulator does not answer: {error}", end="lost_link")
