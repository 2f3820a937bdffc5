"""Pictures of the twin with the truth about every goal: what the shipped reward models learn from.

`python -m ops.reward_scenes out=FOLDER n=20000 seed=0 jobs=2`. Half of the moments come from
attempts of the scripted expert with noise of every size, half are put together: the thing near
where it belongs, on its rim, beside it, held or dropped, and the arm anywhere.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from envs.actions import EeDelta
from envs.tasks import TASKS
from envs.twin_env import SAFETY
from policy_server.backends.scripted import ScriptedPolicy
from policy_server.policy import PolicyRequest, PolicySpec
from rewarder.goal import Goal, task_goal
from rewarder.heuristic import GRIPPER
from rewarder.shaping import PROGRESS, Moment
from rl.progress import say
from robot.arm import Joints, frozen
from robot.guard import Guard, GuardedArm
from robot.kinematics import forward, inverse, jaw_centre, jaw_gap, tool_position
from robot.limits import SafetyLimits
from robot.scene import COLOURS, CUBE_EDGE, Item, Layout, Truth
from robot.twin import CUBE_X, CUBE_Y, Twin
from robot.words import UsageError, parse_words

STEP_S, TICK_S = 0.1, 0.05
CAMERAS = ("front", "side")
CHUNK = 500
"""Moments in a file."""
FARTHEST = 0.6
"""Things farther from the base than this, metres, are lost."""
NOISES = (0.05, 0.2, 0.5, 1.0)
ATTEMPT_STEPS = 90
PICTURES_OF_AN_ATTEMPT = 16
VARIATIONS = (0.0, 0.5, 1.0)
"""How much tables differ, in equal parts: the nominal one is where policies practise."""
WORDS = {"out": "bench/scenes", "n": "20000", "seed": "0", "jobs": "2"}

type Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """One moment: what the cameras show, and of every goal that the scene allows the truth."""

    picture: NDArray[np.uint8]
    """Views side by side, RGB, shape (96, 192, 3)."""
    thing: str
    """Colour of the thing."""
    place: str
    """Colour and kind of the place, empty where there is none."""
    facts: NDArray[np.float32]
    """thing (3,), place (3,), tool (3,) in metres, gap in metres, command, held: shape (12,)."""
    goals: Mapping[str, tuple[bool, float]]
    """By task: whether it is done, and progress from 0 to 1."""


def layouts() -> list[Layout]:
    """Return every layout that a goal can be about."""
    things = [Item("cube", colour) for colour in COLOURS]
    places = [None, *(Item(kind, c) for kind, c in product(("bowl", "marker", "cube"), COLOURS))]
    return [
        Layout(thing=thing, place=place)
        for thing, place in product(things, places)
        if place is None or place.colour != thing.colour
    ]


TASK_OF = {"bowl": "place", "marker": "push", "cube": "stack"}


def goals_of(layout: Layout) -> list[Goal]:
    """Return the goals that can be reached on a layout."""
    goals = [task_goal(task, layout.thing.colour) for task in ("reach", "lift")]
    if layout.place:
        task = TASK_OF[layout.place.kind]
        goals.append(task_goal(task, layout.thing.colour, layout.place.colour))
    return goals


class Stage:
    """A twin with one layout, on which attempts are made and scenes are put together."""

    def __init__(self, layout: Layout, *, variation: float) -> None:
        """Build the twin and a guarded arm over it."""
        limits = SafetyLimits.load(SAFETY)
        self.layout, self.goals = layout, goals_of(layout)
        self.twin = Twin(layout, cameras=CAMERAS, variation=variation)
        self.arm = GuardedArm(self.twin, Guard(limits), self.twin.clock, period_s=TICK_S)
        self._limits, self._actions = limits, EeDelta(limits)

    def attempt(self, rng: np.random.Generator) -> Iterator[Seen]:
        """Yield some moments of an attempt at one of the goals."""
        goal = self.goals[rng.integers(len(self.goals))] if rng.random() < 0.5 else self.goals[-1]
        noise = float(rng.choice(NOISES))
        expert = ScriptedPolicy(SPEC, goal.task, noise=noise, seed=int(rng.integers(2**31)))
        self.twin.reset(int(rng.integers(2**31)))
        start = _pose(rng, low=0.05, high=0.2, opening=(30.0, 45.0), limits=self._limits)
        self.twin.put(joint_pos=start)
        self.arm.latch()
        steps = set(rng.choice(ATTEMPT_STEPS, PICTURES_OF_AN_ATTEMPT, replace=False).tolist())
        gives_up = ATTEMPT_STEPS if rng.random() < 0.7 else int(rng.integers(ATTEMPT_STEPS))
        for step in range(ATTEMPT_STEPS):
            wild = rng.uniform(-1.0, 1.0, 4).astype(np.float32)
            self._step(self._decide(expert, goal) if step < gives_up else wild)
            if step in steps:
                yield self.look()

    def scene(self, rng: np.random.Generator) -> Seen:
        """Return a moment that is put together, after the thing has come to rest or fallen."""
        self.twin.reset(int(rng.integers(2**31)))
        thing = self._spot(rng)
        if rng.random() < 0.5:
            centre = thing + np.array([0.0, 0.0, rng.uniform(0.03, 0.09)])
            pose = _pose(
                rng, near=centre, low=0.03, high=0.15, opening=(0, 45), limits=self._limits
            )
        else:
            pose = _pose(rng, low=0.03, high=0.25, opening=(0, 45), limits=self._limits)
        self.twin.put(joint_pos=pose, thing=thing)
        self.arm.latch()
        self.twin.clock.sleep_until(self.twin.time + float(rng.choice([0.0, 0.3, 0.6])))
        return self.look()

    def look(self) -> Seen:
        """Return what there is to see, and the truth about it."""
        truth, observed = self.twin.truth(), self.arm.observe(frames=False)
        moment = moment_of(truth, observed.joint_pos, observed.joint_target)
        frames = self.twin.frames()
        goals: dict[str, tuple[bool, float]] = {}
        for goal in self.goals:
            done = TASKS[goal.task].success(truth)
            goals[goal.task] = (done, 1.0 if done else min(0.97, PROGRESS[goal.task](moment)[1]))
        place = np.zeros(3) if truth.place is None else truth.place
        facts = [*truth.thing, *place, *moment.jaw, moment.gap, moment.command, truth.held]
        return Seen(
            picture=np.hstack([frames[name].image for name in CAMERAS]),
            thing=self.layout.thing.colour,
            place=str(self.layout.place or ""),
            facts=np.array(facts, np.float32),
            goals=goals,
        )

    def _decide(self, expert: ScriptedPolicy, goal: Goal) -> NDArray[np.float32]:
        truth, observed = self.twin.truth(), self.arm.observe(frames=False)
        place = truth.thing if truth.place is None else truth.place
        state = {
            "jaw": jaw_centre(observed.joint_pos),
            "tool": tool_position(observed.joint_target),
            "thing": truth.thing,
            "place": place,
            "held": np.array([truth.held]),
            "joint_target": observed.joint_target,
        }
        vectors = {name: np.asarray(value, np.float32) for name, value in state.items()}
        request = PolicyRequest(state=vectors, goal=str(goal), observed_at=observed.stamp)
        return expert.infer_batch([request])[0].actions[0]

    def _step(self, action: NDArray[np.float32]) -> None:
        last = self.arm.observe(frames=False).joint_target
        target = self._actions.joint_target(action, last)
        for part in (0.5, 1.0):
            now = self.arm.observe(frames=False)
            self.arm.command(last + part * (target - last), stamp=now.stamp)
            self.twin.clock.sleep_until(self.twin.time + TICK_S)

    def _spot(self, rng: np.random.Generator) -> Floats:
        """Return where the thing is put: in, on, at the rim of, or near its place, or anywhere."""
        truth = self.twin.truth()
        if truth.place is None or rng.random() < 0.35:
            spot = [rng.uniform(*CUBE_X), rng.uniform(*CUBE_Y), CUBE_EDGE / 2]
            if rng.random() < 0.3:
                spot[2] += rng.uniform(0.0, 0.12)
            return np.array(spot)
        reach = 0.09 if rng.random() < 0.4 else 0.035
        angle, off = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
        kind = self.layout.place.kind if self.layout.place else ""
        height = {"bowl": 0.02, "marker": CUBE_EDGE / 2, "cube": 1.5 * CUBE_EDGE + 0.001}[kind]
        if kind == "cube":
            off *= 0.3
        lifted = rng.uniform(0.0, 0.08) if rng.random() < 0.15 else 0.0
        flat = truth.place[:2] + off * np.array([np.cos(angle), np.sin(angle)])
        return np.array([*flat, height + lifted])


SPEC = PolicySpec(action_space="ee_delta", action_dim=4, state={}, images=(), hz=10.0)


def moment_of(truth: Truth, joint_pos: Joints, joint_target: Joints) -> Moment:
    """Return what a perfect observer of the scene would know."""
    return Moment(
        tool=truth.tool,
        jaw=jaw_centre(joint_pos),
        across=forward(joint_pos).rot[GRIPPER, :, 0],
        gap=jaw_gap(float(joint_pos[5])),
        command=float(joint_target[5]),
        held=truth.held,
        thing=truth.thing,
        place=truth.place,
        moved=truth.thing_speed * STEP_S,
    )


def _pose(
    rng: np.random.Generator,
    *,
    low: float,
    high: float,
    opening: tuple[float, float],
    limits: SafetyLimits,
    near: Floats | None = None,
) -> Joints:
    """Return joints with the tool at a random place, above `near` if that is given."""
    spot = [rng.uniform(0.12, 0.3), rng.uniform(-0.16, 0.16), rng.uniform(low, high)]
    if near is not None:
        spot = near + rng.normal(0.0, [0.015, 0.015, 0.01])
    start = np.array([8.0, -14.0, 10.0, 94.0, 90.0, 0.0])
    joints = inverse(
        np.clip(spot, limits.tool_box.lower, limits.tool_box.upper),
        start=start,
        lower=limits.joint_lower,
        upper=limits.joint_upper,
        roll=90.0,
    )
    return frozen([*joints[:5], rng.uniform(*opening)])


def make(part: tuple[Path, int, int]) -> Path:
    """Write one file of moments of one layout; return it."""
    path, seed, count = part
    rng = np.random.default_rng([seed, 77])
    every = layouts()
    seen: list[Seen] = []
    while len(seen) < count:
        stage = _stage(every[rng.integers(len(every))], float(rng.choice(VARIATIONS)))
        both = [*stage.attempt(rng), *(stage.scene(rng) for _ in range(PICTURES_OF_AN_ATTEMPT))]
        # An arm that is put into a cube throws it out of the picture, or out of the numbers.
        seen += [one for one in both if np.abs(one.facts[:9]).max() < FARTHEST]
    save(path, seen[:count])
    return path


@cache
def _stage(layout: Layout, variation: float) -> Stage:
    return Stage(layout, variation=variation)


def save(path: Path, seen: Sequence[Seen]) -> None:
    """Write moments into one compressed file."""
    tasks = list(TASKS)
    done = np.full((len(seen), len(tasks)), -1, np.int8)
    progress = np.zeros((len(seen), len(tasks)), np.float32)
    for row, one in enumerate(seen):
        for task, (success, far) in one.goals.items():
            done[row, tasks.index(task)], progress[row, tasks.index(task)] = success, far
    np.savez_compressed(
        path,
        pictures=np.stack([one.picture for one in seen]),
        thing=np.array([one.thing for one in seen]),
        place=np.array([one.place for one in seen]),
        facts=np.stack([one.facts for one in seen]),
        done=done,
        progress=progress,
    )


def main(words: Sequence[str]) -> int:
    """Write the files; return the exit code."""
    try:
        given = parse_words(words, known=WORDS)
        count, seed, jobs = (int(given[name]) for name in ("n", "seed", "jobs"))
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    files = -(-count // CHUNK)
    parts = [
        (out / f"{i:04d}.npz", seed * 100_000 + i, CHUNK)
        for i in range(files)
        if not (out / f"{i:04d}.npz").exists()
    ]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for _ in track(pool.map(make, parts), "scenes", total=len(parts)):
            pass
    say(f"{out}: {files * CHUNK} moments")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
