"""Short films of the twin for sets of clips: goals reached, and goals missed by a little."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.tasks import HOLD_S, TASKS
from envs.tasks.task import place_of
from envs.twin_env import make_twin_env
from policy_server.backends.scripted import STEP_M, ScriptedPolicy
from rewarder.clip_set import SetClip
from rewarder.goal import task_goal
from rewarder.reward import Clip
from rl.rollout import request_of
from robot.arm import Observation
from robot.kinematics import jaw_centre
from robot.scene import COLOURS, Truth
from robot.vision import Image

VARIATION = 0.6
"""How much light, colours and cameras differ from film to film, see `robot.twin_variation`."""
MOMENTS = 4
DARK = 0.45
SHIFT_PIXELS = (8, 12)
"""How far the picture of a camera that was knocked lies off, of 96 pixels."""
OPEN, CLOSE = 1.0, -1.0
TABLE = 0.013
"""Height at which the jaws go around a cube, metres."""
ARRIVED = 0.006
SHOVED = 0.015
"""How far a thing has to lie from its start to have been shoved aside, metres."""
KINDS: Mapping[str, str] = {
    "done": "goal reached",
    "hover": "the hand, or the thing in it, over the place where it should be, or too low",
    "near": "the goal missed by little",
    "wrong": "done, or begun, with another thing or place than the goal names",
    "pushed": "the thing shoved aside",
    "dropped": "the thing held, then let go in the wrong moment",
    "occluded": "the arm between a camera and what the goal is about",
    "early": "the attempt broken off",
    "noise": "the attempt spoilt by noise",
}
"""What each kind of clip shows; `_dark` and `_shifted` say what was done to its pictures."""

type Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is to be filmed."""

    task: str
    kind: str
    thing: str
    """Colour of the cube that is acted on."""
    other: str
    """Colour of the bowl, the marker or the second cube."""
    beside: bool
    """Whether a second cube lies there that the task has no use for."""
    seed: int
    spoilt: str = ""
    """`dark` or `shifted`: what is done to the pictures."""

    @property
    def stage(self) -> tuple[str, str, str]:
        """Return whose goal lays the table: task, thing and place."""
        return ("stack" if self.beside else self.task), self.thing, self.other

    @property
    def goal(self) -> str:
        """Return the goal sentence: of another thing or place where `kind` is `wrong`."""
        if self.kind != "wrong":
            return str(task_goal(self.task, self.thing, self.other))
        if self.beside:
            return str(task_goal(self.task, self.other))
        [third] = set(COLOURS) - {self.thing, self.other}
        named = (third, self.other) if self.seed % 2 else (self.thing, third)
        return str(task_goal(self.task, *named))


class Stage:
    """A twin on which one film after another is made of the same things."""

    def __init__(self, task: str, thing: str, other: str) -> None:
        """Lay the table for a goal."""
        self._env = make_twin_env(task_goal(task, thing, other), variation=VARIATION)
        self._spec = self._env.policy_spec

    def begin(self, script: Script) -> None:
        """Lay out a fresh scene."""
        self._state, self._info = self._env.reset(seed=script.seed)
        self._task, self._held = TASKS[script.task], 0
        self.seen = [self._info[moment].observation for moment in ("look", "sensed")]
        self.rng = np.random.default_rng(script.seed)
        self._seed = script.seed

    @property
    def truth(self) -> Truth:
        """Return where everything is."""
        return self._env.scene.truth()

    @property
    def jaw(self) -> Vector:
        """Return the middle between the jaws, shape (3,)."""
        return jaw_centre(self.seen[-1].joint_pos)

    @property
    def done(self) -> bool:
        """Return whether the task's success has held for long enough, up to this moment."""
        return self._held > round(HOLD_S / self._env.step_s)

    @property
    def missed(self) -> bool:
        """Return whether the task's success does not hold at all at this moment."""
        return self._held == 0

    def act(self, action: Vector) -> None:
        """Do one step."""
        self._state, *_, self._info = self._env.step(np.clip(action, -1, 1).astype(np.float32))
        self._keep(self._info["sensed"].observation)

    def go(self, point: Vector, gripper: float, *, most: int = 30) -> None:
        """Bring the middle between the jaws to a point (3,), or near it after `most` steps."""
        for _ in range(most):
            off = point - self.jaw
            self.act(np.array([*(off / STEP_M), gripper]))
            if np.linalg.norm(off) < ARRIVED:
                return

    def hold(self, gripper: float, steps: int) -> None:
        """Stay, and open or close the gripper."""
        for _ in range(steps):
            self.act(np.array([0.0, 0.0, 0.0, gripper]))

    def attempt(
        self, until: Callable[[], bool], *, noise: float = 0.0, off: Vector | None = None
    ) -> None:
        """Let the expert try until something is so or time is up, the place `off` (3,) aside."""
        expert = ScriptedPolicy(self._spec, self._task.name, noise=noise, seed=self._seed)
        for _ in range(round(1.2 * self._task.limit_s / self._env.step_s)):
            request = request_of(self._spec, self._env, self._state, self._info)
            if off is not None:
                place = request.state["place"] + np.array([*off, 0.0], np.float32)
                request = replace(request, state={**request.state, "place": place})
            [chunk] = expert.infer_batch([request])
            self.act(chunk.actions[0].astype(np.float64))
            if until():
                return

    def look(self) -> None:
        """Retreat and look once more."""
        self._keep(self._env.look_after())

    def _keep(self, seen: Observation) -> None:
        self.seen.append(seen)
        self._held = self._held + 1 if self._task.success(self.truth) else 0


@cache
def stage_of(task: str, thing: str, other: str) -> Stage:
    """Return this process's stage for a goal: a renderer is dear to make."""
    return Stage(task, thing, other)


def film(script: Script) -> tuple[SetClip, bool] | None:
    """Return a clip and whether its last moment shows its goal reached.

    None where the scene did not turn out as its script has it.
    """
    stage = stage_of(*script.stage)
    stage.begin(script)
    MOTIONS[script.kind](stage, script)
    if not _turned_out(stage, script):
        return None
    kind = f"{script.kind}_{script.spoilt}" if script.spoilt else script.kind
    origin: dict[str, str | int] = {"seed": script.seed}
    clip = _cut(stage, script)
    return SetClip(clip=clip, task=script.task, kind=kind, origin=origin), script.kind == "done"


def _turned_out(stage: Stage, script: Script) -> bool:
    """Return whether truth bears the script out."""
    truth = stage.truth
    if script.kind == "wrong":
        # Reaching for one of two neighbours may be a reach for the other, too.
        both = script.task == "reach" and np.linalg.norm(truth.tool - place_of(truth)) < 0.1
        return not both
    if script.kind == "pushed" and np.linalg.norm(truth.thing - truth.thing_start) < SHOVED:
        return False
    return stage.done if script.kind == "done" else stage.missed


def _cut(stage: Stage, script: Script) -> Clip:
    """Return the look before, a moment half-way, and the last two."""
    last = len(stage.seen) - 1
    kept = [stage.seen[i] for i in (0, (1 + last) // 2, last - 1, last)]
    return Clip(
        goal=script.goal,
        stamps=np.array([seen.stamp for seen in kept]),
        frames={
            name: [_jpeg(_spoil(seen.frames[name].image, name, script)) for seen in kept]
            for name in kept[0].frames
        },
        joint_pos=np.array([seen.joint_pos for seen in kept]),
        joint_target=np.array([seen.joint_target for seen in kept]),
    )


def _spoil(image: Image, camera: str, script: Script) -> Image:
    if script.spoilt == "dark":
        return (DARK * image).astype(np.uint8)
    # One camera was knocked, which of them the seed says.
    if script.spoilt == "shifted" and camera == ("front", "side")[script.seed % 2]:
        rng = np.random.default_rng(script.seed)
        x, y = rng.integers(*SHIFT_PIXELS, 2, endpoint=True) * rng.choice([-1, 1], 2)
        move = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
        size = image.shape[1], image.shape[0]
        shifted = cv2.warpAffine(image, move, size, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(shifted, np.uint8)
    return image


def _jpeg(image: Image) -> bytes:
    """Return a picture as `robot.camera.encode_jpeg` gives it, with shorter codes: 12 % smaller."""
    settings = (cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
    whole_colours = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, (*settings, *whole_colours))[1].tobytes()


def _aside(rng: np.random.Generator, nearest: float, farthest: float) -> Vector:
    """Return an offset on the table of a length between these, shape (3,), metres."""
    angle = rng.uniform(-np.pi, np.pi)
    return rng.uniform(nearest, farthest) * np.array([np.cos(angle), np.sin(angle), 0.0])


def _up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


def _done(stage: Stage, script: Script) -> None:
    stage.attempt(lambda: stage.done, noise=stage.rng.uniform(0.0, 0.25))
    # Half of what outlasts the retreat is seen from there, where nothing hides it.
    if script.task in ("place", "push", "stack") and stage.rng.random() < 0.5:
        stage.look()


def _hover(stage: Stage, script: Script) -> None:
    rng, held = stage.rng, lambda: stage.truth.held
    if script.task in ("lift", "place", "stack") and rng.random() < 0.6:
        stage.attempt(held)
        low = stage.jaw + _up(rng.uniform(0.012, 0.035))
        over = low
        if script.task != "lift":
            over = place_of(stage.truth) + _up(rng.uniform(0.07, 0.1))
        stage.go(np.array([*stage.jaw[:2], over[2]]), CLOSE)
        stage.go(over, CLOSE)
        return
    height = rng.uniform(0.04, 0.07) if script.task != "reach" else rng.uniform(0.11, 0.14)
    gripper = rng.choice([OPEN, CLOSE])
    stage.go(stage.truth.thing + _up(height), gripper)
    stage.hold(gripper, 4)


def _near(stage: Stage, script: Script) -> None:
    rng, thing = stage.rng, stage.truth.thing
    if script.task == "place":
        stage.attempt(lambda: False, off=_aside(rng, 0.066, 0.09))
    elif script.task in ("push", "stack"):
        stage.attempt(lambda: False, off=_aside(rng, 0.036, 0.05))
    elif script.task == "reach":
        stage.attempt(lambda: stage.done)
        stage.go(stage.jaw + _aside(rng, 0.03, 0.045), OPEN)
    else:
        beside = thing + _aside(rng, 0.03, 0.045)
        stage.go(np.array([*beside[:2], 0.05]), OPEN)
        stage.go(np.array([*beside[:2], TABLE]), OPEN)
        stage.hold(CLOSE, 6)
        stage.go(np.array([*beside[:2], 0.1]), CLOSE)


def _wrong(stage: Stage, script: Script) -> None:
    stage.attempt(lambda: stage.done, noise=stage.rng.uniform(0.0, 0.2))
    if script.task in ("place", "push", "stack") and stage.rng.random() < 0.5:
        stage.look()


def _pushed(stage: Stage, script: Script) -> None:
    way, thing = _aside(stage.rng, 0.05, 0.06), stage.truth.thing
    start, end = thing - way, thing + stage.rng.uniform(0.2, 0.8) * way
    stage.go(np.array([*start[:2], 0.06]), CLOSE)
    stage.go(np.array([*start[:2], TABLE]), CLOSE)
    stage.go(np.array([*end[:2], TABLE]), CLOSE)
    if script.task == "reach" or stage.rng.random() < 0.5:
        stage.go(np.array([*start[:2], 0.1]), CLOSE)


def _dropped(stage: Stage, script: Script) -> None:
    rng = stage.rng
    high = rng.uniform(0.03, 0.07)
    stage.attempt(lambda: stage.truth.held and stage.truth.thing[2] > high)
    if script.task == "place":
        middle = stage.jaw + rng.uniform(0.1, 0.4) * (place_of(stage.truth) - stage.truth.thing)
        stage.go(np.array([*middle[:2], 0.08]), CLOSE)
    stage.hold(OPEN, 7)
    if rng.random() < 0.5:
        stage.go(stage.jaw + _up(0.04), OPEN)


def _occluded(stage: Stage, script: Script) -> None:
    """Put the shut hand in front of the thing, or over the place, as a camera sees it."""
    truth, rng = stage.truth, stage.rng
    spot = place_of(truth) if script.task == "place" else truth.thing
    front = rng.random() < 0.5
    before = np.array([0.034, 0.0, 0.0]) if front else np.array([0.0, -0.034, 0.0])
    point = spot + (before if script.task != "place" else _up(0.02))
    stage.go(np.array([*point[:2], 0.07]), CLOSE)
    stage.go(np.array([*point[:2], max(TABLE + 0.004, point[2])]), CLOSE)


def _early(stage: Stage, script: Script) -> None:
    steps = round(stage.rng.uniform(0.06, 0.18) * 10 * TASKS[script.task].limit_s)
    count = iter(range(steps))
    stage.attempt(lambda: next(count, None) is None)


def _noise(stage: Stage, script: Script) -> None:  # noqa: ARG001 - of one form with the others
    stage.attempt(lambda: False, noise=stage.rng.uniform(0.9, 1.8))


MOTIONS: Mapping[str, Callable[[Stage, Script], None]] = {
    "done": _done,
    "hover": _hover,
    "near": _near,
    "wrong": _wrong,
    "pushed": _pushed,
    "dropped": _dropped,
    "occluded": _occluded,
    "early": _early,
    "noise": _noise,
}
