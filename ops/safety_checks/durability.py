"""R1 and R2: what was sealed survives kill -9 and power cuts."""

import itertools
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row
from ops.safety_checks.victims import (
    context,
    killed_within,
    made_up_episode,
    moments,
    promised_episode,
    sealer,
)
from robot.journal import Journal, episode_bytes, read_episode
from robot.sealed import Damaged

LONGEST_S = 0.12
"""How long a sealing process lives at most, seconds from its first word: several episodes."""


def kill_writers(effort: Effort) -> list[Row]:
    """R1: kill -9 processes that seal, and look for what they had promised."""
    kills = effort.count(quick=60, full=1_000)
    rng, forking = random.Random(effort.seed), context()  # noqa: S311 - moments, no secrets
    lost: list[str] = []
    promised_in_all = torn = 0
    for kill in effort.progress(range(kills), "R1 kills"):
        folder = effort.folder / f"kill{kill}"
        after = moments(rng, LONGEST_S)
        promises = killed_within(sealer, (folder, kill), after=after, forking=forking)
        promised = {str(name) for name in promises if name}
        torn += bool(list((folder / "episodes").glob(".*.tmp")))
        missing = promised - set(_whole(folder))
        promised_in_all += len(promised)
        if missing or list((folder / "episodes").glob(".*")):
            lost.append(f"seed={effort.seed} kill {kill}: {', '.join(sorted(missing))}")
        shutil.rmtree(folder)
    row = Row(
        id="R1",
        promise="kill -9 of a process that seals loses no sealed episode",
        asked="0 lost; tail 1 s at most",
        measured=f"0 of {promised_in_all:,} episodes lost; nothing accepted is unsealed, so the "
        "tail is 0 s"
        if not lost
        else f"{len(lost)} kills lost episodes",
        trials=kills,
        full=1_000,
        broken=len(lost),
        how="A process seals own episodes and takes in uploads for ever, and promises each when "
        "the call has returned; it is killed at a random moment; a fresh journal must hold all.",
        noise=f"{torn} of {kills} kills left a half-written file, which the journal removed",
        examples=tuple(lost[:MOST_EXAMPLES]),
    )
    return [row]


def _whole(folder: Path) -> list[str]:
    """Return the episodes of a journal that are as they were sealed."""
    found = (read_episode(path) for path in Journal(folder).episodes())
    return [
        episode.info.episode
        for episode in found
        if episode_bytes(episode) == episode_bytes(promised_episode(episode.info.episode))
    ]


@dataclass(frozen=True, slots=True)
class Flushed:
    """The content of an open file was forced to the disk."""

    path: Path
    content: bytes


@dataclass(frozen=True, slots=True)
class Renamed:
    """A file got another name; whether the disk knows is another matter."""

    source: Path
    target: Path
    content: bytes
    """What the file held then, on the disk or not."""


@dataclass(frozen=True, slots=True)
class FolderFlushed:
    """The names in a folder were forced to the disk."""

    path: Path


@dataclass(frozen=True, slots=True)
class Promised:
    """The call returned: from here on the episode counts."""

    name: str


type Happening = Flushed | Renamed | FolderFlushed | Promised


def cut_power(effort: Effort) -> list[Row]:
    """R2: replay every prefix of what sealing asked of the disk, with all that may be lost."""
    episodes = effort.count(quick=10, full=100)
    folder = effort.folder / "logged"
    happenings = logged(folder, episodes)
    lost: list[str] = []
    states = 0
    prefixes = range(len(happenings) + 1)
    for prefix in effort.progress(prefixes, "R2 prefixes"):
        past = happenings[:prefix]
        promised = {event.name for event in past if isinstance(event, Promised)}
        for content, names in itertools.product(("none", "half", "zeros"), ("kept", "lost")):
            states += 1
            disk = effort.folder / "disk"
            _write(disk, survivors(past, content=content, names=names), folder)
            fault = _fault(disk, promised)
            if fault:
                lost.append(f"after {prefix} calls, data {content}, names {names}: {fault}")
            shutil.rmtree(disk)
    row = Row(
        id="R2",
        promise="a power cut loses no sealed episode",
        asked="0 lost in every prefix of writes and flushes",
        measured=f"{len(lost)} of {states:,} states lost or damaged one",
        trials=states,
        full=2_000,
        broken=len(lost),
        how=f"Flushes and renames of {episodes} seals are logged; for every prefix the disk is "
        "rebuilt with what was not flushed absent, halved or zeroed and names kept or lost, and "
        "read by the journal.",
        noise="a model of the disk: a drive that lies about flushes is not in it",
        examples=tuple(lost[:MOST_EXAMPLES]),
    )
    return [row]


def logged(folder: Path, episodes: int) -> list[Happening]:
    """Return what sealing some episodes asked of the disk, in order."""
    journal = Journal(folder)
    found: list[Happening] = []
    fsync, rename = os.fsync, Path.replace

    def log_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        found.append(FolderFlushed(path) if path.is_dir() else Flushed(path, path.read_bytes()))

    def log_rename(path: Path, target: Path) -> Path:
        content = path.read_bytes()
        done = rename(path, target)
        found.append(Renamed(path, target, content))
        return done

    with patch.object(os, "fsync", log_fsync), patch.object(Path, "replace", log_rename):
        for number in range(episodes):
            name = f"{number:06d}-00000000"
            journal.seal(made_up_episode(name))
            found.append(Promised(name))
    return found


def survivors(past: Sequence[Happening], *, content: str, names: str) -> dict[Path, bytes]:
    """Return what is on a disk that lost its power then.

    `content` says what is left of data that were not flushed, `names` whether renames that were not
    flushed took place.
    """
    durable: dict[Path, bytes] = {}
    files: dict[Path, bytes] = {}
    waiting: list[Renamed] = []
    for event in past:
        match event:
            case Flushed(path, data):
                durable[path] = data
            case Renamed():
                waiting.append(event)
            case FolderFlushed(path):
                here = [rename for rename in waiting if rename.target.parent == path]
                waiting = [rename for rename in waiting if rename not in here]
                files |= {rename.target: _left(rename, durable, content) for rename in here}
            case Promised():
                pass
    if names == "kept":
        files |= {rename.target: _left(rename, durable, content) for rename in waiting}
    return files


def _left(rename: Renamed, durable: dict[Path, bytes], content: str) -> bytes:
    flushed = durable.get(rename.source)
    if flushed == rename.content:
        return rename.content
    size = len(rename.content)
    return {"none": b"", "half": rename.content[: size // 2], "zeros": bytes(size)}[content]


def _write(disk: Path, files: dict[Path, bytes], origin: Path) -> None:
    (disk / "episodes").mkdir(parents=True)
    for path, data in files.items():
        (disk / path.relative_to(origin.resolve())).write_bytes(data)


def _fault(disk: Path, promised: set[str]) -> str:
    """Return what is wrong with the journal on a disk, if anything is."""
    journal = Journal(disk)
    try:
        found = {path.stem: read_episode(path) for path in journal.episodes()}
    except Damaged as error:
        return f"a file under an episode's name is damaged: {error}"[:160]
    missing = promised - set(found)
    if missing:
        return f"{', '.join(sorted(missing))} missing"
    wrong = [name for name, got in found.items() if not _same(name, episode_bytes(got))]
    return f"{wrong[0]} has other content" if wrong else ""


def _same(name: str, data: bytes) -> bool:
    return data == episode_bytes(made_up_episode(name))
