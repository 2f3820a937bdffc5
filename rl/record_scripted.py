"""Record demonstrations of the scripted expert on the twin: `python -m rl.record_scripted`.

Words: `task=lift` or `goal="…"`, `dataset=NAME`, `episodes=20`, `fps=20`, `noise=0.1`, `seed=0`,
`size=128` (pixels). Takes that do not succeed are discarded.
"""

import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from envs.actions import EeDelta
from envs.arm_env import STEP_S, ArmEnv
from envs.state import state_of
from envs.tasks import HOLD_S
from envs.twin_env import make_twin_env
from policy_server.backends.scripted import ScriptedPolicy
from policy_server.policy import PolicyRequest
from rewarder.goal import parse_goal, task_goal
from rl.progress import say
from robot.arm import Joints, Observation
from robot.journal import Journal
from robot.recording.dataset import LEROBOT, DatasetError, dataset_folder, export
from robot.recording.recorder import Recorder
from robot.recording.take import NotSealed
from robot.recording.take_writer import Session
from robot.revision import git_revision
from robot.teleop.devices import Request
from robot.tracking import Tracker
from robot.words import UsageError, parse_words

WORDS = {
    "task": "lift",
    "goal": "",
    "dataset": "",
    "episodes": "20",
    "fps": "20",
    "noise": "0.1",
    "seed": "0",
    "size": "128",
    "export": "yes",
}


class ScriptedTeleop:
    """The scripted expert in a person's place: it decides ten times a second, from what it sees."""

    def __init__(self, env: ArmEnv, *, fps: int, noise: float, seed: int) -> None:
        """Act in `env`; raise ValueError where its goal has no expert or `fps` is no multiple."""
        self._ticks = round(fps * STEP_S)
        if self._ticks / STEP_S != fps:
            raise ValueError(f"fps={fps} is no multiple of {1 / STEP_S:.0f}")
        self._env, self._seed, self._fps = env, seed, fps
        self._expert = ScriptedPolicy(env.policy_spec, env.goal.task, noise=noise, seed=seed)
        self._actions = EeDelta(env.arm.limits)
        self._tracker = Tracker(env.cameras, env.goal.layout)
        self._takes = self._tick = self._held = 0
        self._way: list[Joints] = []
        self._action = np.zeros(4, np.float32)

    def prepare(self, _: int) -> None:
        """Lay the table out anew and go to the start pose; every take has a layout of its own."""
        sight = self._env.reset(seed=self._seed + self._takes)[1]
        self._tracker.reset()
        for moment in ("look", "sensed"):
            self._tracker.update(_images(sight[moment].observation))
        self._takes, self._tick, self._held = self._takes + 1, 0, 0
        self._action, self._way = np.zeros(4, np.float32), []

    def poll(self) -> list[Request]:
        """Ask to keep the take once the task is done, and to abort it once its time is over."""
        if not self._tick:
            return []
        done = self._env.task.success(self._env.scene.truth())
        self._held = self._held + 1 if done else 0
        if self._held > HOLD_S * self._fps:
            self._tick = 0
            return ["start"]
        return ["abort"] if self._tick > self._env.task.limit_s * self._fps else []

    def read(self, observation: Observation) -> Joints | None:
        """Return the next part of the way that the expert decided on."""
        if not observation.frames:
            return None
        if self._tick % self._ticks == 0:
            self._way = self._decide(observation)
        self._tick += 1
        return self._way.pop(0)

    def close(self) -> None:
        """Do nothing: the environment is closed by whoever made it."""

    def _decide(self, observation: Observation) -> list[Joints]:
        left = max(0.0, 1.0 - self._tick / self._fps / self._env.task.limit_s)
        estimates = self._tracker.update(_images(observation))
        state = state_of(observation, estimates, action=self._action, time_left=left)
        request = PolicyRequest(
            state=state, goal=str(self._env.goal), observed_at=observation.stamp
        )
        [chunk] = self._expert.infer_batch([request])
        self._action = chunk.actions[0]
        last = observation.joint_target
        step = self._actions.joint_target(self._action, last) - last
        return [last + step * part / self._ticks for part in range(1, self._ticks + 1)]


def _images(observation: Observation) -> dict[str, NDArray[np.uint8]]:
    return {name: frame.image for name, frame in observation.frames.items()}


def record(words: Mapping[str, str], journal: Journal) -> None:
    """Record until the journal has as many episodes as `words` ask for."""
    fps, size = int(words["fps"]), int(words["size"])
    goal = parse_goal(words["goal"]) if words["goal"] else task_goal(words["task"])
    env = make_twin_env(goal, image_size=(size, size))
    seed = int(words["seed"]) + 1000 * len(journal.episodes())
    teleop = ScriptedTeleop(env, fps=fps, noise=float(words["noise"]), seed=seed)
    session = Session(
        arm="twin",
        task=goal.task,
        goal=str(goal),
        source="scripted",
        policy="scripted",
        fps=fps,
        cameras=tuple(env.cameras),
        git_revision=git_revision(),
        config={"device": "scripted", "noise": float(words["noise"])},
    )
    Recorder(
        env.arm,
        teleop,
        journal=journal,
        session=session,
        hands_free=True,
        prepare=teleop.prepare,
        say=say,
    ).run(int(words["episodes"]))


def main(argv: list[str]) -> int:
    """Record, then export; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        folder = dataset_folder(words["dataset"])
        record(words, Journal(folder))
        if words["export"] == "yes":
            made = export(Journal(folder), folder / LEROBOT)
            say(f"{folder / LEROBOT}: {len(made.episodes)} episodes")
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (DatasetError, NotSealed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
