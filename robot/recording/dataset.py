"""Sealed episodes as a LeRobot v3 dataset: `make dataset-export dataset=NAME actions=delta`.

The journal is the truth and a dataset is made from it, as often as one likes: what was exported is
not encoded again, and a dataset is replaced as a whole or not at all.
"""

import fcntl
import json
import logging
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS
from robot.arm_config import JOURNALS
from robot.camera import decode_jpeg
from robot.journal import SOURCES, Episode, Journal, read_episode
from robot.sealed import Damaged
from robot.words import UsageError, parse_words

type Actions = Literal["absolute", "delta", "relative"]
ACTIONS: tuple[Actions, ...] = get_args(Actions.__value__)
LEROBOT, MANIFEST = "lerobot", "meta/journal.json"
CODEC, QUALITY, ENCODER_FRAMES = "h264", 23, 256
HUMAN = SOURCES.index("human")
WORDS = {"dataset": "", "actions": "", "rebuild": ""}


class DatasetError(Exception):
    """A dataset that cannot be made; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a dataset was made from; written last, so that without it a dataset is not whole."""

    actions: Actions
    """`absolute`: the command sent; `delta`: its change since the last command; `relative`: its
    distance from the measured pose. The gripper's is absolute in all of them."""
    fps: int
    episodes: tuple[str, ...]
    """Names of the journal's episodes, in the dataset's order."""
    goals: tuple[str, ...]
    """The goal of each."""


def actions_of(episode: Episode, kind: Actions) -> NDArray[np.float32]:
    """Return the commands of an episode's steps, shape (T, 6), in LeRobot's units."""
    first, steps = episode.first_step, episode.steps
    sent = episode.joint_target[first + 1 : first + steps + 1]
    before = {
        "absolute": np.zeros_like(sent),
        "delta": episode.joint_target[first : first + steps],
        "relative": episode.joint_pos[first : first + steps],
    }[kind].copy()
    before[:, 5] = 0.0
    return (sent - before).astype(np.float32)


def fps_of(episode: Episode) -> int:
    """Return the rate at which an episode was recorded."""
    fps = episode.info.config.get("fps")
    if isinstance(fps, int | float) and fps > 0:
        return round(fps)
    first = episode.first_step
    return round(1 / float(np.median(np.diff(episode.stamps[first : first + episode.steps + 1]))))


def export(
    journal: Journal, root: Path, *, actions: Actions | None = None, rebuild: bool = False
) -> Manifest:
    """Bring the dataset at `root` up to date with the journal and return what it holds.

    It keeps its kind of actions unless told otherwise; a first one is absolute. With `rebuild`
    nothing else of an earlier export is used. Raise `DatasetError`.
    """
    paths = journal.episodes()
    if not paths:
        raise DatasetError(f"{journal.folder} has no sealed episode; record one first")
    with _locked(journal.folder):
        _recover(root)
        return _brought_up_to_date(root, paths, actions=actions, rebuild=rebuild)


def _brought_up_to_date(
    root: Path, paths: Sequence[Path], *, actions: Actions | None, rebuild: bool
) -> Manifest:
    known = read_manifest(root)
    actions = actions or (known.actions if known else "absolute")
    names = [path.stem for path in paths]
    if (
        rebuild
        or known is None
        or known.actions != actions
        or list(known.episodes) != names[: len(known.episodes)]
    ):
        known = None
    if known is not None and len(known.episodes) == len(names):
        return known
    staging = _sibling(root, "partial")
    if known is not None:
        shutil.copytree(root, staging)
    manifest = _write(staging, paths, actions=actions, known=known)
    _swap(staging, root)
    return manifest


def read_manifest(root: Path) -> Manifest | None:
    """Return what a dataset was made from; None where it is not whole or was not made by us."""
    try:
        said: Any = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        info: Any = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
        if said["actions"] not in ACTIONS or info["total_episodes"] != len(said["episodes"]):
            return None
        return Manifest(
            actions=said["actions"],
            fps=int(said["fps"]),
            episodes=tuple(str(name) for name in said["episodes"]),
            goals=tuple(str(goal) for goal in said["goals"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(
    root: Path, paths: Sequence[Path], *, actions: Actions, known: Manifest | None
) -> Manifest:
    """Write the episodes that are not `known` into the dataset at `root`, and its manifest."""
    done = len(known.episodes) if known else 0
    goals = list(known.goals) if known else []
    first = _read(paths[0])
    fps, shapes = fps_of(first), _shapes(first)
    dataset = _resume(root) if known else _create(root, fps, shapes)
    try:
        for path in paths[done:]:
            episode = _read(path)
            if (fps_of(episode), _shapes(episode)) != (fps, shapes):
                raise DatasetError(
                    f"{path.name} has {fps_of(episode)} fps and cameras {_shapes(episode)}, the "
                    f"first episode {fps} and {shapes}; keep them in different datasets"
                )
            for frame in _frames(episode, actions):
                dataset.add_frame(frame)
            dataset.save_episode()
            goals.append(episode.info.goal)
    finally:
        dataset.finalize()
    manifest = Manifest(
        actions=actions,
        fps=fps,
        episodes=tuple(path.stem for path in paths),
        goals=tuple(goals),
    )
    (root / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    return manifest


def _read(path: Path) -> Episode:
    try:
        return read_episode(path)
    except Damaged as error:
        raise DatasetError(str(error)) from None


def _shapes(episode: Episode) -> Mapping[str, tuple[int, int, int]]:
    """Return height, width and channels of each camera's pictures."""
    shapes: dict[str, tuple[int, int, int]] = {}
    for name, pictures in sorted(episode.frames.items()):
        picture = next((picture for picture in pictures if picture), None)
        if picture is None:
            raise DatasetError(f"{episode.info.episode} has no picture of {name}; move it away")
        shapes[name] = cast("tuple[int, int, int]", decode_jpeg(picture).shape)
    return shapes


def _frames(episode: Episode, kind: Actions) -> Iterator[dict[str, object]]:
    """Yield what LeRobot calls the frames of an episode: one for every step."""
    actions = actions_of(episode, kind)
    pictures = {name: _filled(taken) for name, taken in episode.frames.items()}
    for step in range(episode.steps):
        at = episode.first_step + step
        yield {
            "observation.state": episode.joint_pos[at].astype(np.float32),
            "action": actions[step],
            "stamp": episode.stamps[at : at + 1],
            "human": np.array([episode.source[step] == HUMAN], np.int64),
            "task": episode.info.goal,
            **{f"observation.images.{name}": decode_jpeg(p[at]) for name, p in pictures.items()},
        }


def _filled(pictures: Sequence[bytes]) -> list[bytes]:
    """Return a picture for every moment: where one is missing, the one before."""
    seen = next(picture for picture in pictures if picture)
    return [seen := picture or seen for picture in pictures]


def _features(shapes: Mapping[str, tuple[int, int, int]]) -> dict[str, dict[str, object]]:
    joints = {"dtype": "float32", "shape": (len(JOINTS),), "names": [f"{j}.pos" for j in JOINTS]}
    images: dict[str, dict[str, object]] = {
        f"observation.images.{name}": {
            "dtype": "video",
            "shape": shape,
            "names": ["height", "width", "channels"],
        }
        for name, shape in shapes.items()
    }
    return {
        "observation.state": dict(joints),
        "action": dict(joints),
        "stamp": {"dtype": "float64", "shape": (1,), "names": None},
        "human": {"dtype": "int64", "shape": (1,), "names": None},
        **images,
    }


def _create(root: Path, fps: int, shapes: Mapping[str, tuple[int, int, int]]) -> Any:  # noqa: ANN401 - LeRobot has no types
    lerobot, encoder = _lerobot()
    return lerobot.create(
        repo_id=f"local/{root.parent.name}",
        fps=fps,
        features=_features(shapes),
        root=root,
        robot_type="so101_follower",
        rgb_encoder=encoder,
        streaming_encoding=True,
        encoder_queue_maxsize=ENCODER_FRAMES,
    )


def _resume(root: Path) -> Any:  # noqa: ANN401 - LeRobot has no types
    lerobot, encoder = _lerobot()
    return lerobot.resume(
        repo_id=f"local/{root.parent.name}",
        root=root,
        rgb_encoder=encoder,
        streaming_encoding=True,
        encoder_queue_maxsize=ENCODER_FRAMES,
    )


def _lerobot() -> tuple[Any, Any]:
    """Return LeRobot's dataset class and our encoder's settings: importing them takes seconds."""
    # Both speak of codecs at length.
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    try:
        import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
        from av import logging as codecs  # noqa: PLC0415
        from lerobot.configs import (  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
            RGBEncoderConfig,
        )
        from lerobot.datasets.lerobot_dataset import (  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
            LeRobotDataset,
        )
    except ImportError as error:
        raise DatasetError(f"{error}; datasets need it: uv sync --inexact --extra arm") from error
    codecs.set_libav_level(codecs.ERROR)
    cast("Any", datasets).disable_progress_bars()
    return LeRobotDataset, RGBEncoderConfig(vcodec=CODEC, crf=QUALITY)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Let one process at a time change the dataset in `folder`."""
    with (folder / ".export.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sibling(root: Path, suffix: str) -> Path:
    return root.with_name(f".{root.name}.{suffix}")


def _recover(root: Path) -> None:
    """Put back what an export that died had set aside, and remove what it left half made."""
    old = _sibling(root, "old")
    if old.exists() and not root.exists():
        old.rename(root)
    for leftover in (old, _sibling(root, "partial")):
        shutil.rmtree(leftover, ignore_errors=True)


def _swap(staging: Path, root: Path) -> None:
    old = _sibling(root, "old")
    if root.exists():
        root.rename(old)
    staging.rename(root)
    shutil.rmtree(old, ignore_errors=True)


def dataset_folder(name: str) -> Path:
    """Return the folder of a recording: its journal, and in `lerobot` the dataset."""
    if not name or not all(part.isalnum() for part in name.replace("_", "-").split("-")):
        raise UsageError(f"dataset={name!r}; expected letters, digits, - and _, e.g. pick-cube")
    return JOURNALS / name


def known_journal(name: str) -> Journal:
    """Return the journal of a dataset that was begun; raise `UsageError` where there is none."""
    folder = dataset_folder(name)
    if not folder.is_dir():
        there = ", ".join(sorted(path.name for path in JOURNALS.glob("*/"))) or "none"
        raise UsageError(f"dataset={name}: {folder} is no folder; datasets there: {there}")
    return Journal(folder)


def actions_named(name: str) -> Actions | None:
    """Return a kind of actions by its name, None for no name; raise `UsageError`."""
    if not name:
        return None
    if name not in ACTIONS:
        raise UsageError(f"actions={name!r} is none of {', '.join(ACTIONS)}")
    return name


def main(argv: list[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """Export a recording; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        actions = actions_named(words["actions"])
        journal = known_journal(words["dataset"])
        root = journal.folder / LEROBOT
        made = export(journal, root, actions=actions, rebuild=words["rebuild"] == "yes")
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except DatasetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write(f"{root}: {len(made.episodes)} episodes, {made.actions} actions\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
