"""The simulated SO-101 before its table: an `Arm` with cameras and a `Scene`, in MuJoCo."""

import atexit
import copy
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints, from_radians, to_radians
from robot.camera import Frame
from robot.kinematics import tool_position
from robot.perturbation import NOMINAL, Perturbation
from robot.scene import CUBE_EDGE, Layout, Truth
from robot.twin_model import PRESETS, TIMESTEP_S, VIEWS, WRIST_CAMERA, shared_model
from robot.twin_variation import Variation
from robot.vision import CameraModel

REST_POSE = (-80.0, -97.0, 92.0, 45.0, 90.0, 45.0)
"""Where the arm is when the scene is reset, near the look pose."""
ENCODER_STEP_DEG = 360 / 4096
CUBE_X, CUBE_Y, CUBE_YAW = (0.17, 0.28), (-0.11, 0.11), (-np.pi / 4, np.pi / 4)
BOWL_CENTRE, BOWL_SPREAD = (0.20, 0.15), 0.02
BOWL_CLEARANCE = 0.09
"""Least distance between the centres of cube and bowl at the start, metres."""
MARKER_DISTANCE = (0.08, 0.12)
STACK_CLEARANCE = 0.065
_SETTLE_S = 0.25
_ARRIVED_RAD = 1e-6
DROPPED_FOR_S = 0.25
"""A frame older than this does not stand in for one that was dropped."""


class TwinClock:
    """Simulated time: waiting for a moment runs the physics until then.

    `realtime` also waits for the wall clock, so that the twin takes as long as an arm would.
    """

    def __init__(self, twin: "Twin", *, realtime: bool) -> None:
        self._twin = twin
        self._lag = time.monotonic() if realtime else None

    def now(self) -> float:
        """Return the simulated time, seconds since the twin was made."""
        return self._twin.time

    def sleep_until(self, moment: float) -> None:
        """Run the physics up to `moment`."""
        self._twin.advance(moment)
        if self._lag is not None:
            time.sleep(max(0.0, self._lag + moment - time.monotonic()))


class Twin:
    """A simulated arm, its cameras and what lies on its table."""

    def __init__(  # noqa: PLR0913 - all but the layout have defaults
        self,
        layout: Layout,
        *,
        preset: str = "stiff",
        cameras: Sequence[str] = ("front", "side"),
        image_size: tuple[int, int] = (96, 96),
        realtime: bool = False,
        variation: float = 0.0,
        arm_variation: float = 0.0,
        perturbation: Perturbation = NOMINAL,
        slide: float = 0.0,
    ) -> None:
        """Build the twin; `image_size` is (height, width) in pixels.

        `variation`, 0 to 1, is how much the table differs from scene to scene, `arm_variation` how
        much servos, links and frames do; `perturbation` is the same in every scene. The thing
        slides at `slide` metres a second along y, and back from where the cubes' range ends.
        """
        _check(preset, cameras)
        self._servo = PRESETS[preset]
        self._model = shared_model(layout, self._servo)
        self._variation: Variation | None = None
        if variation or arm_variation or perturbation != NOMINAL:
            self._model = copy.deepcopy(self._model)
            self._variation = Variation(
                self._model, variation, arm=arm_variation, always=perturbation
            )
        self._beyond, self._chance = NOMINAL, np.random.default_rng(0)
        self._data = mujoco.MjData(self._model)
        self._layout = layout
        self._views = {name: WRIST_CAMERA if name == "wrist" else name for name in cameras}
        self._image_size = image_size
        self._joints = np.array([self._model.joint(name).qposadr[0] for name in JOINTS])
        self._links = np.flatnonzero(self._model.body_rootid == self._model.body("base").id)
        self._base_time = 0.0
        self._pending: deque[tuple[float, NDArray[np.float64]]] = deque()
        self._goal = np.zeros(6)
        self._frames: dict[str, Frame] = {}
        self._thing_start = np.zeros(3)
        self._slide = slide
        self.clock = TwinClock(self, realtime=realtime)
        self.reset(seed=0)

    @property
    def time(self) -> float:
        """Return simulated seconds since the twin was made; a reset does not turn it back."""
        return self._base_time + self._data.time

    @property
    def cameras(self) -> Mapping[str, CameraModel]:
        """Return the fixed cameras as they were calibrated."""
        return {name: self._camera_model(name) for name in self._views if name in VIEWS}

    def _camera_model(self, name: str) -> CameraModel:
        height, width = self._image_size
        model = shared_model(self._layout, self._servo)
        camera = model.camera(name).id
        return CameraModel.from_fov(
            name,
            width,
            height,
            float(model.cam_fovy[camera]),
            model.cam_pos[camera].copy(),
            model.cam_mat0[camera].reshape(3, 3).copy(),
        )

    # As an arm

    def joint_pos(self) -> Joints:
        """Return the encoders' joint positions, shape (6,), in steps of 1/4096 turn."""
        degrees: NDArray[np.float64] = np.rad2deg(self._data.qpos[self._joints])
        return from_radians(np.deg2rad(np.round(degrees / ENCODER_STEP_DEG) * ENCODER_STEP_DEG))

    def frames(self) -> Mapping[str, Frame]:
        """Return a frame of each camera, drawn unless it is dropped."""
        self._frames = {name: self._frame(name) for name in self._views}
        return self._frames

    def _frame(self, name: str) -> Frame:
        before, share = self._frames.get(name), self._beyond.dropped
        is_dropped = share > 0 and self._chance.random() < share
        if is_dropped and before and self.time - before.stamp <= DROPPED_FOR_S:
            return before
        drawing = renderer(self._model, *self._image_size)
        drawing.update_scene(self._data, self._views[name])
        return Frame(image=drawing.render().copy(), stamp=self.time)

    def command(self, joint_target: Joints) -> None:
        """Send a goal to the simulated servos; they react after their delay."""
        radians = to_radians(np.asarray(joint_target, np.float64))
        due = self._data.time + max(0.0, self._servo.delay_s + self._beyond.delay_s)
        if self._beyond.jitter_s:
            due += self._chance.uniform(0.0, self._beyond.jitter_s)
            due = max(due, self._pending[-1][0] if self._pending else due)
        self._pending.append((due, radians))

    def close(self) -> None:
        """Do nothing: a twin holds nothing that must be released."""

    def advance(self, moment: float) -> None:
        """Run the physics up to `moment`, seconds of the twin's clock."""
        steps = round((moment - self.time) / TIMESTEP_S)
        while steps > 0:
            self._apply_due()
            is_moving = self._smooth()
            self._push_on()
            burst = 1 if self._pending or is_moving or self._slide else steps
            mujoco.mj_step(self._model, self._data, burst)
            steps -= burst

    def _apply_due(self) -> None:
        while self._pending and self._pending[0][0] <= self._data.time + 1e-9:
            radians = self._pending.popleft()[1]
            play = np.deg2rad(self._servo.backlash_deg + self._beyond.backlash_deg) / 2
            self._goal = np.clip(self._goal, radians - play, radians + play)
            if not self._beyond.smoothing_s:
                self._data.ctrl[:] = self._goal

    def _smooth(self) -> bool:
        """Bring the servos nearer to their goals; return whether they are still on the way."""
        if not self._beyond.smoothing_s:
            return False
        way = self._goal - self._data.ctrl
        self._data.ctrl += way * -np.expm1(-TIMESTEP_S / self._beyond.smoothing_s)
        return bool(np.abs(way).max() > _ARRIVED_RAD)

    def _push_on(self) -> None:
        """Carry the thing on by a time step, as a belt does: the table's friction would stop it."""
        if not self._slide:
            return
        where = self._data.joint("thing").qpos
        if not CUBE_Y[0] <= where[1] <= CUBE_Y[1]:
            self._slide = -np.sign(where[1]) * abs(self._slide)
        where[1] += self._slide * TIMESTEP_S

    # As a scene

    def reset(self, seed: int) -> None:
        """Lay cube and place out anew and put the arm at rest; the same seed, the same scene."""
        rng = np.random.default_rng(seed)
        self._base_time = self.time
        if self._variation:
            self._chance = rng.spawn(1)[0]
            self._beyond = self._variation.draw(self._chance)
        mujoco.mj_resetData(self._model, self._data)
        pull = (self._beyond.weight - 1.0) * self._model.opt.gravity
        self._data.xfrc_applied[self._links, :3] = self._model.body_mass[self._links, None] * pull
        self._pending.clear()
        self._frames.clear()
        self._slide = abs(self._slide)
        pose = to_radians(np.array(REST_POSE))
        self._data.qpos[self._joints] = pose
        self._data.ctrl[:] = self._goal = pose
        self._lay_out(rng)
        mujoco.mj_step(self._model, self._data, round(_SETTLE_S / TIMESTEP_S))
        self._thing_start = self._data.body("thing").xpos.copy()

    def _lay_out(self, rng: np.random.Generator) -> None:
        place = self._layout.place
        kind = place.kind if place else None
        bowl = np.array(BOWL_CENTRE) + rng.uniform(-BOWL_SPREAD, BOWL_SPREAD, 2)
        thing = _spot(rng)
        while kind == "bowl" and np.linalg.norm(thing - bowl) < BOWL_CLEARANCE:
            thing = _spot(rng)
        self._put_cube("thing", thing, rng)
        if kind == "bowl":
            self._put_flat(bowl)
        elif kind == "marker":
            self._put_flat(_marker_spot(rng, thing))
        elif kind == "cube":
            other = _spot(rng)
            while np.linalg.norm(thing - other) < STACK_CLEARANCE:
                other = _spot(rng)
            self._put_cube("place", other, rng)

    def _put_cube(self, name: str, spot: NDArray[np.float64], rng: np.random.Generator) -> None:
        yaw = rng.uniform(*CUBE_YAW)
        turn = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self._data.joint(name).qpos[:] = [*spot, CUBE_EDGE / 2 + 0.001, *turn]

    def _put_flat(self, spot: NDArray[np.float64]) -> None:
        self._data.mocap_pos[0] = [*spot, 0.0]

    def put(
        self, *, joint_pos: Joints | None = None, thing: NDArray[np.float64] | None = None
    ) -> None:
        """Put the arm into a pose, or the thing's centre (3,) somewhere, at once and at rest.

        No motion leads there, so nothing passes a guard: for making scenes to look at.
        """
        if joint_pos is not None:
            self._pending.clear()
            self._data.qpos[self._joints] = self._goal = to_radians(joint_pos)
            self._data.ctrl[:] = self._goal
        if thing is not None:
            self._data.joint("thing").qpos[:3] = thing
        self._data.qvel[:] = 0.0
        mujoco.mj_forward(self._model, self._data)

    def truth(self) -> Truth:
        """Return where everything really is."""
        data = self._data
        place = self._layout.place
        return Truth(
            thing=data.body("thing").xpos.copy(),
            thing_start=self._thing_start.copy(),
            thing_speed=self._thing_speed(),
            place=data.body("place").xpos.copy() if place else None,
            tool=tool_position(self._true_joints()),
            gripper=float(self._true_joints()[5]),
            held=self._held(),
        )

    def _thing_speed(self) -> float:
        carried = np.array([0.0, self._slide, 0.0])
        return float(np.linalg.norm(self._data.joint("thing").qvel[:3] + carried))

    def _true_joints(self) -> Joints:
        return from_radians(self._data.qpos[self._joints])

    def _held(self) -> bool:
        """Return whether both jaws touch the thing."""
        cube = self._model.geom("thing").id
        jaws = {self._model.body("gripper").id, self._model.body("moving_jaw_so101_v1").id}
        touched: set[int] = set()
        for contact in self._data.contact:
            if cube in contact.geom:
                touched.update(int(self._model.geom_bodyid[geom]) for geom in contact.geom)
        return jaws <= touched


def _spot(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.array([rng.uniform(*CUBE_X), rng.uniform(*CUBE_Y)])


def _marker_spot(rng: np.random.Generator, thing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a spot at the marker's distance from the thing, within the cubes' range."""
    while True:
        angle = rng.uniform(-np.pi, np.pi)
        spot = thing + rng.uniform(*MARKER_DISTANCE) * np.array([np.cos(angle), np.sin(angle)])
        if CUBE_X[0] <= spot[0] <= CUBE_X[1] and CUBE_Y[0] <= spot[1] <= CUBE_Y[1]:
            return spot


def _check(preset: str, cameras: Sequence[str]) -> None:
    """Raise ValueError for a preset or a camera that there is not."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    unknown = set(cameras) - {*VIEWS, "wrist"}
    if unknown:
        raise ValueError(f"unknown camera {min(unknown)!r}; known: {', '.join(VIEWS)}, wrist")


@cache
def renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """Return this process's renderer of a model; kept, since collecting one spoils the others."""
    try:
        made = mujoco.Renderer(model, height, width)
    except (RuntimeError, AttributeError, ImportError) as error:
        hint = "apt-get install libegl1 and set MUJOCO_GL=egl" if sys.platform == "linux" else ""
        raise NoRenderer(f"no picture can be drawn here: {error}; {hint}") from error
    # Freed before mujoco ends OpenGL, which it does at exit too.
    atexit.register(made.close)
    return made


class NoRenderer(RuntimeError):
    """OpenGL is missing or cannot be used without a screen."""
