"""Episodes to look at in a page: every picture on one sheet, and the reward beside it."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rewarder.reward import Score
from rl.label import load_score
from robot.camera import decode_jpeg
from robot.journal import Episode, read_episode
from robot.sealed import Damaged

MOST_FRAMES = 60
COLUMNS = 6
WEBP_QUALITY = 70
TILE_HEIGHT = 96
"""Pictures are shown at this height, pixels of the sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One episode, ready to be shown."""

    title: str
    caption: str
    sheet: str
    """The pictures as a data URL: WebP, `columns` a row, in order."""
    columns: int
    rows: int
    frames: int
    cameras: Sequence[str]
    ratio: float
    """Width of one picture by its height."""
    seconds: Sequence[float]
    """When each picture was taken, from the first on."""
    progress: Sequence[float | None]
    """What the reward model said at each picture; None where it could not tell."""
    success: Sequence[bool]


def chosen(lines: Iterable[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the first, the best and the newest failed episode of a run, with a title each."""
    episodes = [line for line in lines if line.get("steps")]
    won = [line for line in episodes if _succeeded(line)]
    greedy = [line for line in episodes if line.get("greedy")]
    failed = [line for line in (greedy or episodes) if not _succeeded(line)]
    picks = [("First episode", episodes[0])] if episodes else []
    if won:
        fastest = min(won, key=lambda line: (not line.get("greedy"), _when(line)))
        picks.append(("Best episode", fastest))
    elif episodes:
        richest = max(episodes, key=lambda line: line.get("return") or -np.inf)
        picks.append(("Best episode so far", richest))
    if failed:
        picks.append(("Newest failure", failed[-1]))
    seen: list[str] = []
    return [pick for pick in picks if not _repeats(str(pick[1].get("file")), seen)]


def clip(run: Path, title: str, line: Mapping[str, Any]) -> Clip | None:
    """Return an episode of a run to look at; None where its file is gone or damaged."""
    file = run / str(line.get("file"))
    try:
        episode = read_episode(file)
    except (Damaged, OSError):
        return None
    if not any(any(jpegs) for jpegs in episode.frames.values()):
        return None
    kept = np.unique(np.linspace(0, len(episode.stamps) - 1, MOST_FRAMES).round().astype(int))
    tiles = [_tile(episode, int(i)) for i in kept]
    score = _score(run / "labels", file.stem)
    return Clip(
        title=title,
        caption=caption(line),
        sheet=_sheet(tiles),
        columns=COLUMNS,
        rows=-(-len(tiles) // COLUMNS),
        frames=len(tiles),
        cameras=list(episode.frames),
        ratio=round(tiles[0].shape[1] / tiles[0].shape[0], 4),
        seconds=[round(float(episode.stamps[i] - episode.stamps[0]), 1) for i in kept],
        progress=[_progress(score, i) for i in kept],
        success=[bool(score is not None and score.valid[i] and score.success[i]) for i in kept],
    )


def caption(line: Mapping[str, Any]) -> str:
    """Return what there is to say about an episode."""
    truth = line.get("truth")
    if line.get("source") == "random":
        who = "acting at random"
    else:
        who = "without exploration" if line.get("greedy") else "exploring"
    words = [f"{line.get('arm')}, {who}, after {line.get('env_steps', 0):,} steps."]
    if truth:
        at = truth.get("success_at_s")
        words.append(f"Succeeded after {at:.1f} s." if truth["success"] and at else _outcome(truth))
        if line.get("transitions"):
            agrees = bool(line.get("rewarded_success")) == bool(truth["success"])
            words.append("The reward model agrees." if agrees else "The reward model disagrees.")
    return " ".join(words)


def _outcome(truth: Mapping[str, Any]) -> str:
    return "Succeeded." if truth["success"] else "Failed."


def _succeeded(line: Mapping[str, Any]) -> bool:
    truth = line.get("truth")
    return bool(truth["success"] if truth else line.get("rewarded_success"))


def _when(line: Mapping[str, Any]) -> float:
    truth: Mapping[str, Any] = line.get("truth") or {}
    return float(truth.get("success_at_s") or line["steps"])


def _repeats(file: str, seen: list[str]) -> bool:
    if file in seen:
        return True
    seen.append(file)
    return False


def _score(labels: Path, stem: str) -> Score | None:
    try:
        return load_score(labels, stem)
    except (Damaged, OSError):
        return None


def _progress(score: Score | None, index: int) -> float | None:
    if score is None or not score.valid[index]:
        return None
    return round(float(score.progress[index]), 3)


def _tile(episode: Episode, index: int) -> NDArray[np.uint8]:
    """Return the pictures of all cameras at one moment, side by side."""
    return np.hstack([_picture(jpegs[index]) for jpegs in episode.frames.values()])


def _picture(jpeg: bytes) -> NDArray[np.uint8]:
    try:
        image = decode_jpeg(jpeg) if jpeg else np.zeros((TILE_HEIGHT, TILE_HEIGHT, 3), np.uint8)
    except ValueError:
        image = np.zeros((TILE_HEIGHT, TILE_HEIGHT, 3), np.uint8)
    height, width = image.shape[:2]
    size = (round(width * TILE_HEIGHT / height), TILE_HEIGHT)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _sheet(tiles: Sequence[NDArray[np.uint8]]) -> str:
    blank = np.zeros_like(tiles[0])
    padded = [*tiles, *[blank] * (-len(tiles) % COLUMNS)]
    rows = [np.hstack(padded[i : i + COLUMNS]) for i in range(0, len(padded), COLUMNS)]
    image = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    if not done:
        raise ValueError(f"a sheet of shape {image.shape} does not encode as WebP")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
