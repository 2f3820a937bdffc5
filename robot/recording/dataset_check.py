"""What is wrong with a LeRobot v3 dataset, and how its motion is: `make dataset-check`.

`dataset=NAME` names a recording, `root=FOLDER` any LeRobot v3 dataset; `JSON=` also writes a file.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS
from robot.journal import Journal
from robot.recording.dataset import LEROBOT, dataset_folder, read_manifest
from robot.recording.dataset_files import ACTION, STATE, Contents, frames_in, read_contents
from robot.recording.motion_quality import Motion, motion_of
from robot.words import UsageError, parse_words

ROUNDING_S = 1e-3
WORDS = {"dataset": "", "root": "", "json": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One thing that is wrong with a dataset."""

    kind: str
    """E.g. `video_missing`."""
    where: str
    """The episode, file or feature."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a check has found."""

    episodes: int
    frames: int
    defects: tuple[Defect, ...]
    motion: Mapping[int, Motion]
    """By episode; of those whose numbers can be read."""


def check(root: Path, journal: Journal | None = None) -> Findings:
    """Return what is wrong with the dataset at `root`, also against the journal it came from."""
    contents = read_contents(root)
    defects = [
        Defect(kind="unreadable", where=where, sentence=sentence)
        for where, sentence in contents.troubles
    ]
    for episode in contents.episodes:
        defects += _episode_defects(contents, episode)
    defects += _version(contents)
    defects += _videos(contents)
    defects += _totals(contents)
    defects += _duplicates(contents)
    defects += _statistics(contents)
    if journal is not None:
        defects += _against(journal, root)
    actions = manifest.actions if (manifest := read_manifest(root)) else "absolute"
    motion = {
        number: motion_of(columns[STATE], columns[ACTION], fps=contents.fps, actions=actions)
        for number, columns in contents.rows.items()
        if _numbers_fit(columns)
    }
    frames = sum(len(columns["frame_index"]) for columns in contents.rows.values())
    return Findings(
        episodes=len(contents.episodes), frames=frames, defects=tuple(defects), motion=motion
    )


# What can be wrong


def _episode_defects(contents: Contents, episode: Mapping[str, Any]) -> list[Defect]:
    number, length = episode["episode_index"], episode["length"]
    where = f"episode {number}"
    columns = contents.rows.get(number)
    if columns is None:
        return [Defect(kind="no_rows", where=where, sentence="none of its rows can be read")]
    found: list[Defect] = []
    count = len(columns["frame_index"])
    if count != length:
        sentence = f"it has {count} rows, and its metadata says {length}"
        found.append(Defect(kind="length", where=where, sentence=sentence))
    expected = np.arange(count)
    off = np.abs(columns["timestamp"] - expected / contents.fps)
    if (columns["frame_index"] != expected).any() or off.max() > ROUNDING_S:
        sentence = f"its timestamps are off by up to {off.max():.3f} s at {contents.fps:g} fps"
        found.append(Defect(kind="timestamps", where=where, sentence=sentence))
    for name in (STATE, ACTION):
        values = columns.get(name)
        if values is None or values.ndim != 2 or values.dtype.kind != "f":
            sentence = f"{name} is no table of numbers"
            found.append(Defect(kind="shape", where=where, sentence=sentence))
        elif not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(1))
            sentence = f"{name} is not finite in {len(rows)} rows, first in row {rows[0]}"
            found.append(Defect(kind="not_finite", where=where, sentence=sentence))
    return found


def _videos(contents: Contents) -> list[Defect]:
    """Return videos that are missing or do not have the frames that their episodes need."""
    needed: dict[Path, int] = {}
    for episode in contents.episodes:
        for camera in contents.cameras:
            file = _video(contents, episode, camera)
            if file is not None:
                needed[file] = needed.get(file, 0) + episode["length"]
    found: list[Defect] = []
    for file, frames in needed.items():
        where = str(file.relative_to(contents.root))
        have = frames_in(file)
        if have is None:
            sentence = "it is missing or no video"
            found.append(Defect(kind="video_missing", where=where, sentence=sentence))
        elif have != frames:
            sentence = f"it has {have} frames, and its episodes have {frames}"
            found.append(Defect(kind="video_unequal", where=where, sentence=sentence))
    return found


def _video(contents: Contents, episode: Mapping[str, Any], camera: str) -> Path | None:
    try:
        name = str(contents.info["video_path"]).format(
            video_key=camera,
            chunk_index=episode[f"videos/{camera}/chunk_index"],
            file_index=episode[f"videos/{camera}/file_index"],
        )
    except (KeyError, ValueError, TypeError):
        return None
    return contents.root / name


def _version(contents: Contents) -> list[Defect]:
    version = contents.info.get("codebase_version")
    if not contents.info or version == "v3.0":
        return []
    return [Defect(kind="version", where="meta/info.json", sentence=f"it is {version}, not v3.0")]


def _totals(contents: Contents) -> list[Defect]:
    rows = sum(len(columns["frame_index"]) for columns in contents.rows.values())
    have = {"total_episodes": len(contents.episodes), "total_frames": rows}
    return [
        Defect(
            kind="totals",
            where="meta/info.json",
            sentence=f"{name} is {contents.info.get(name)}, and there are {count}",
        )
        for name, count in have.items()
        if contents.info and contents.info.get(name) != count
    ]


def _duplicates(contents: Contents) -> list[Defect]:
    seen: dict[bytes, int] = {}
    found: list[Defect] = []
    for number, columns in contents.rows.items():
        key = b"".join(columns[name].tobytes() for name in (STATE, ACTION) if name in columns)
        if key in seen:
            sentence = f"it has the very numbers of episode {seen[key]}"
            found.append(Defect(kind="duplicate", where=f"episode {number}", sentence=sentence))
        seen.setdefault(key, number)
    return found


def _statistics(contents: Contents) -> list[Defect]:
    found: list[Defect] = []
    for name in (STATE, ACTION, *contents.cameras):
        lacking = {"mean", "std", "min", "max"} - set(contents.statistics.get(name, {}))
        if contents.statistics and lacking:
            sentence = f"{name} has no {', '.join(sorted(lacking))}"
            found.append(Defect(kind="stats", where="meta/stats.json", sentence=sentence))
    return found


def _against(journal: Journal, root: Path) -> list[Defect]:
    manifest = read_manifest(root)
    names = [path.stem for path in journal.episodes()]
    if manifest is None:
        sentence = "the export was not finished"
    elif list(manifest.episodes) != names:
        sentence = f"it has {len(manifest.episodes)} of the journal's {len(names)} episodes"
    else:
        return []
    return [Defect(kind="journal", where="meta/journal.json", sentence=sentence)]


def _numbers_fit(columns: Mapping[str, NDArray[Any]]) -> bool:
    return all(
        name in columns
        and columns[name].shape[1:] == (len(JOINTS),)
        and columns[name].dtype.kind == "f"
        and bool(np.isfinite(columns[name]).all())
        for name in (STATE, ACTION)
    )


# The program


def table(findings: Findings) -> str:
    """Return the findings as a person reads them."""
    lines = [f"{findings.episodes} episodes, {findings.frames} frames"]
    lines += [f"DEFECT {d.kind:14} {d.where}: {d.sentence}" for d in findings.defects]
    if findings.motion:
        lines.append(
            "episode  seconds  jerk deg/s3  tracking deg  saturated %  idle %  idle ends s"
        )
    for number, motion in findings.motion.items():
        lines.append(
            f"{number:7}  {motion.seconds:7.1f}  {motion.jerk:11.0f}  {motion.tracking:12.1f}  "
            f"{100 * motion.saturated:11.0f}  {100 * motion.idle:6.0f}  {motion.idle_ends_s:11.1f}"
        )
    lines.append("no defects" if not findings.defects else f"{len(findings.defects)} defects")
    return "\n".join(lines)


def _named(words: Mapping[str, str]) -> tuple[Path, Journal | None]:
    """Return the folder of the dataset that `words` name, and the journal that it came from."""
    folder = Path() if words["root"] else dataset_folder(words["dataset"])
    root = Path(words["root"]) if words["root"] else folder / LEROBOT
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; name a recording with dataset=")
    return root, None if words["root"] else Journal(folder)


def main(argv: list[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """Check a dataset; return 1 where it has a defect."""
    try:
        words = parse_words(argv, known=WORDS)
        root, journal = _named(words)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    findings = check(root, journal)
    write(f"{root}: {table(findings)}\n")
    if findings.defects and not words["root"]:
        write(f"mend it: make dataset-repair dataset={words['dataset']}\n")
    if words["json"]:
        Path(words["json"]).write_text(json.dumps(asdict(findings), indent=1) + "\n")
    return 1 if findings.defects else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
