"""Steps for our own learners from a LeRobot v3 dataset: what an arm's own eyes see in its pictures.

`python -m rl.dataset_steps dataset=NAME goal="Lift the red cube."` writes them as the sealed
episodes of a run folder, which `make relabel` gives a reward and a learner takes as prior data.
`cameras=` names the file that says where the cameras stood.
"""

import json
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from envs.actions import EeDelta
from envs.arm_env import HZ, STEP_S
from envs.state import State, state_of
from envs.tasks import TASKS
from envs.twin_env import SAFETY
from policy_server.finetune_plan import recordings_of
from rewarder.goal import Goal, UnknownGoal, parse_goal
from rl.figures import episode_line
from rl.labeller import Labelled
from rl.progress import say
from rl.run_folder import EPISODES, Counters, RunFolder
from robot.arm import JOINTS, Joints, Observation
from robot.arm_config import ROOT
from robot.camera import encode_jpeg
from robot.journal import SOURCES, Episode, EpisodeInfo, Journal
from robot.limits import SafetyLimits
from robot.recording.dataset_check import check
from robot.recording.dataset_files import ACTION, PICTURES, STATE, Contents, read_contents
from robot.revision import git_revision
from robot.tracking import Tracker
from robot.vision import CameraModel, Image, load_cameras
from robot.words import UsageError, parse_words

CAMERAS = "conf/cameras/twin.yaml"
WORDS = {"dataset": "", "goal": "", "cameras": CAMERAS, "runs": "runs"}
ARM = "recorded"
"""The name of the arm in the run folder."""
FULL_TURN = 2 * np.pi
"""Joints that never leave plus and minus this are in radians: a start pose alone is beyond it."""
BEYOND_DEG = 20.0
"""Calibrations differ by less; a joint that is farther out of its range has another unit."""
HARMLESS = ("duplicate", "totals")
"""Defects of a dataset that spoil no step."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recordings:
    """A dataset that was found fit to be learnt from."""

    contents: Contents
    goals: Mapping[int, Goal]
    """By episode."""
    cameras: Mapping[str, CameraModel]
    """Where they stood, in the size of the recorded pictures."""
    stride: int
    """Frames a step."""


def open_recordings(
    word: str, *, goal: Goal | None = None, cameras: Path = ROOT / CAMERAS
) -> Recordings:
    """Return a dataset by its folder or the name of a recording; `goal` replaces its own.

    Raise `UsageError` with what is wrong and what would be of use.
    """
    contents, recorded = sound_recordings(word)
    return Recordings(
        contents=contents,
        goals={number: goal or _goal(contents, number) for number in sorted(contents.rows)},
        cameras=_cameras(contents.root, recorded, cameras),
        stride=_stride(contents),
    )


def sound_recordings(word: str) -> tuple[Contents, Mapping[str, tuple[int, int]]]:
    """Return what is in a dataset, and height and width of each camera's pictures.

    Raise `UsageError` unless it is whole, with its statistics, and of an SO-101 in our units.
    """
    root, recorded = recordings_of(word)
    refuse_defects(root)
    contents = read_contents(root)
    _refuse_other_joints(contents)
    return contents, recorded


def refuse_defects(root: Path) -> None:
    """Raise `UsageError` for a dataset that is not whole, or that lacks its statistics."""
    defects = [defect for defect in check(root).defects if defect.kind not in HARMLESS]
    if defects:
        first = defects[0]
        more = f" (and {len(defects) - 1} defects more)" if len(defects) > 1 else ""
        raise UsageError(
            f"{root}: {first.where}: {' '.join(first.sentence.split())}{more}; "
            "make dataset-check lists what is wrong, make dataset-repair builds it again"
        )


def _refuse_other_joints(contents: Contents) -> None:
    """Raise `UsageError` unless states and actions are an SO-101's, in degrees."""
    for key in (STATE, ACTION):
        names = [str(name).removesuffix(".pos") for name in _names(contents, key)]
        if names and names != list(JOINTS):
            raise UsageError(
                f"{contents.root} has {key} of {', '.join(names)}; expected {', '.join(JOINTS)}: "
                "record it with an SO-101, or order the columns so"
            )
        values = np.concatenate([columns[key] for columns in contents.rows.values()])
        _refuse_other_units(contents.root, key, values)


def _names(contents: Contents, key: str) -> Sequence[object]:
    named: Any = contents.info["features"][key].get("names")
    return named if isinstance(named, list) else []  # pyright: ignore[reportUnknownVariableType]


def _refuse_other_units(root: Path, key: str, values: NDArray[np.floating]) -> None:
    if np.abs(values[:, :5]).max() < FULL_TURN:
        raise UsageError(
            f"{root} has {key} in radians, as it seems: no joint is beyond {FULL_TURN:.1f}; "
            "expected degrees, and the gripper from 0 to 100"
        )
    limits = SafetyLimits.load(SAFETY)
    low, high = limits.joint_lower - BEYOND_DEG, limits.joint_upper + BEYOND_DEG
    for joint, column, least, most in zip(JOINTS, values.T, low, high, strict=True):
        if column.min() < least or column.max() > most:
            raise UsageError(
                f"{root} has {key} of {joint} from {column.min():.0f} to {column.max():.0f}, which "
                "an SO-101 cannot reach; expected degrees, and the gripper from 0 to 100"
            )


def _goal(contents: Contents, number: int) -> Goal:
    tasks = next(e["tasks"] for e in contents.episodes if e["episode_index"] == number)
    try:
        return parse_goal(str(tasks[0]))
    except (UnknownGoal, IndexError) as error:
        raise UsageError(f"{contents.root}, episode {number}: {error}; or give goal=") from None


def _stride(contents: Contents) -> int:
    stride = round(contents.fps / HZ)
    if stride < 1 or stride * HZ != contents.fps:
        raise UsageError(
            f"{contents.root} has {contents.fps:g} frames a second; expected a multiple of {HZ:g}, "
            "the steps a second of our policies"
        )
    return stride


def _cameras(
    root: Path, recorded: Mapping[str, tuple[int, int]], path: Path
) -> dict[str, CameraModel]:
    """Return where the recorded cameras stood, in the size of their pictures."""
    try:
        models = load_cameras(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cameras={path}: {error}") from None
    for name, model in models.items():
        height, width = recorded.get(name, (0, 0))
        if width * model.height != height * model.width or not width:
            has = ", ".join(f"{key} {w}x{h}" for key, (h, w) in recorded.items())
            raise UsageError(
                f"{root} has the cameras {has}; {path.name} says where {name} stood at "
                f"{model.width}x{model.height}: give the file of these cameras as cameras="
            )
    return {name: model.resized(*recorded[name][::-1]) for name, model in models.items()}


# From recordings to episodes


def episodes_of(recordings: Recordings) -> Iterator[Episode]:
    """Yield the dataset's episodes as an arm that decides ten times a second would keep them.

    A step's action is how far the recorded commands went in it, as `ee_delta`. What was commanded
    before the first frame is not known: the measured pose stands for it.
    """
    contents, actions = recordings.contents, EeDelta(SafetyLimits.load(SAFETY))
    films = [
        _films(contents, name, recordings.cameras[name], recordings.stride)
        for name in recordings.cameras
    ]
    for about, *pictures in zip(contents.episodes, *films, strict=True):
        number = int(about["episode_index"])
        if (len(contents.rows[number][STATE]) - 1) // recordings.stride:
            seen = dict(zip(recordings.cameras, pictures, strict=True))
            yield _episode(recordings, number, seen, actions)


def _episode(
    recordings: Recordings, number: int, seen: Mapping[str, list[Image]], actions: EeDelta
) -> Episode:
    columns, goal = recordings.contents.rows[number], recordings.goals[number]
    every = slice(None, None, recordings.stride)
    measured = columns[STATE][every].astype(np.float64)
    steps = len(measured) - 1
    sent = columns[ACTION][recordings.stride - 1 :: recordings.stride].astype(np.float64)
    targets = np.concatenate([measured[:1], sent[:steps]])
    done = np.array([actions.action(b, a) for a, b in pairwise(targets)])
    stamps = columns["timestamp"][every].astype(np.float64).reshape(-1)
    human = columns.get("human", np.ones(len(columns[STATE]))).reshape(-1)[every][:steps] != 0
    return Episode(
        info=_info(recordings, number, goal),
        stamps=stamps,
        joint_pos=measured,
        joint_target=targets,
        frames={name: [encode_jpeg(image) for image in images] for name, images in seen.items()},
        first_step=0,
        state=_states(recordings, goal, seen, (stamps, measured, targets, done)),
        actions=done,
        source=np.where(human, SOURCES.index("human"), SOURCES.index("scripted")).astype(np.uint8),
        guard_events=[[] for _ in range(steps)],
    )


def _states(
    recordings: Recordings,
    goal: Goal,
    seen: Mapping[str, list[Image]],
    moments: tuple[NDArray[np.float64], Joints, Joints, NDArray[np.float32]],
) -> dict[str, NDArray[np.float32]]:
    """Return what a policy would have seen at each moment, shape (T+1, size) by name.

    `moments` are stamps (T+1,), joints and commands (T+1, 6) and actions (T, 4).
    """
    stamps, measured, targets, done = moments
    tracker, limit_s = Tracker(recordings.cameras, goal.layout), TASKS[goal.task].limit_s
    before = np.concatenate([np.zeros_like(done[:1]), done])
    states: list[State] = []
    for step, (stamp, pos, target, action) in enumerate(
        zip(stamps, measured, targets, before, strict=True)
    ):
        moment = Observation(stamp=float(stamp), joint_pos=pos, joint_target=target, frames={})
        estimates = tracker.update({name: images[step] for name, images in seen.items()})
        time_left = max(0.0, 1.0 - step * STEP_S / limit_s)
        states.append(state_of(moment, estimates, action=action, time_left=time_left))
    return {name: np.array([state[name] for state in states]) for name in states[0]}


def _info(recordings: Recordings, number: int, goal: Goal) -> EpisodeInfo:
    root = recordings.contents.root
    return EpisodeInfo(
        episode=f"{number:06d}-{secrets.token_hex(4)}",
        arm=ARM,
        task=goal.task,
        goal=str(goal),
        seed=0,
        end="operator",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        action_space="ee_delta",
        policy=f"dataset/{root.parent.name if root.name == 'lerobot' else root.name}",
        greedy=True,
        git_revision=git_revision(),
        config={"dataset": str(root), "dataset_episode": number},
    )


def _films(
    contents: Contents, camera: str, model: CameraModel, stride: int
) -> Iterator[list[Image]]:
    """Yield the RGB pictures at the steps of each episode, in the dataset's order."""
    key = PICTURES + camera

    def file_of(episode: Mapping[str, Any]) -> Path:
        chunk, file = (episode[f"videos/{key}/{part}_index"] for part in ("chunk", "file"))
        path = str(contents.info["video_path"])
        return contents.root / path.format(video_key=key, chunk_index=chunk, file_index=file)

    for path, episodes in groupby(contents.episodes, file_of):
        try:
            with av.open(str(path)) as film:
                pictures = enumerate(film.decode(video=0))
                for episode in episodes:
                    start = round(float(episode[f"videos/{key}/from_timestamp"]) * contents.fps)
                    yield _taken(pictures, start, start + int(episode["length"]), stride)
        except (OSError, av.error.FFmpegError) as error:
            raise UsageError(f"{path} cannot be read as a video of {model.name}: {error}") from None


def _taken(
    pictures: Iterator[tuple[int, av.VideoFrame]], start: int, end: int, stride: int
) -> list[Image]:
    """Return every `stride`-th picture from `start` to before `end` of a video that is read on."""
    taken: list[Image] = []
    for index, picture in pictures:
        if index >= start and not (index - start) % stride:
            taken.append(np.asarray(picture.to_ndarray(format="rgb24"), np.uint8))
        if index == end - 1:
            break
    return taken


# Into a run folder


def write_run(recordings: Recordings, runs: Path) -> Path:
    """Write the episodes as the journal of a fresh run, whole or not at all; return its folder."""
    episodes = list(episodes_of(recordings))
    if not episodes:
        raise UsageError(f"{recordings.contents.root} has no episode of a whole step")
    goal = single_goal(recordings)
    folder = RunFolder.create(
        runs,
        task=goal.task,
        config=f"dataset: {json.dumps(str(recordings.contents.root))}\n",
        facts=_facts(goal),
    )
    try:
        _fill(folder, episodes)
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    finally:
        folder.close()
    return folder.path


def single_goal(recordings: Recordings) -> Goal:
    """Return the goal of all episodes; raise `UsageError` where they have several."""
    goals = {str(goal): goal for goal in recordings.goals.values()}
    if len(goals) != 1:
        raise UsageError(
            f"{recordings.contents.root} has {len(goals)} goals, expected one: "
            f"{' '.join(goals)}; give one of them as goal= if all of it is of that goal"
        )
    return next(iter(goals.values()))


def _facts(goal: Goal) -> Mapping[str, object]:
    return {
        "goal": str(goal),
        "preset": "stiff",
        "arm": ARM,
        "seed": 0,
        "actors": 1,
        "reward": "none",
        "judge": "none",
        "git_revision": git_revision(),
        "overrides": [],
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _fill(folder: RunFolder, episodes: Sequence[Episode]) -> None:
    journal, counters = Journal(folder.journal(ARM)), Counters()
    for episode in episodes:
        path = journal.seal(episode)
        counters = replace(
            counters,
            env_steps=counters.env_steps + episode.steps,
            episodes=counters.episodes + 1,
            unlabelled=counters.unlabelled + 1,
        )
        fate = Labelled(path=path, episode=episode, reason="not labelled yet: make relabel")
        line = episode_line(fate, counters)
        folder.append(EPISODES, {"file": folder.relative(path), **line})
    folder.write_state(counters)


def main(argv: list[str]) -> int:
    """Write a run folder from a dataset; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        goal = parse_goal(words["goal"]) if words["goal"] else None
        recordings = open_recordings(words["dataset"], goal=goal, cameras=ROOT / words["cameras"])
        folder = write_run(recordings, Path(words["runs"]))
    except (UsageError, UnknownGoal) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    say(f"{folder}: {len(recordings.goals)} episodes; label them with make relabel RUN={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
