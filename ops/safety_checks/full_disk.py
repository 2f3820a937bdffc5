"""Fills a small disk with episodes, again and again.

`python -m ops.safety_checks.full_disk FOLDER N` runs on a disk of its own (`victims.limited`)
and prints one JSON line: what broke.
"""

import json
import os
import sys
from pathlib import Path

from ops.safety_checks.victims import made_up_episode
from robot.journal import Episode, Journal, episode_bytes, read_episode
from robot.sealed import DiskFull

MOST = 1000
"""Episodes after which a disk must be full."""


def main(folder: Path, trials: int) -> int:
    """Fill, look, free, and go on, `trials` times."""
    broken: list[str] = []
    sealed = 0
    for trial in range(trials):
        journal = Journal(folder / f"trial{trial}")
        ballast = folder / "ballast"
        room = os.statvfs(folder)
        # Another amount of room each time, so that the disk is full at another byte.
        ballast.write_bytes(bytes(room.f_bsize * room.f_bavail // 2 + 4096 * trial))
        promised = _fill(journal)
        sealed += len(promised)
        fault = _fault(journal, promised)
        if fault:
            broken.append(f"trial {trial}: {fault}")
        for path in journal.episodes():
            path.unlink()
        ballast.unlink()
        journal.seal(made_up_episode("999999-00000000"))
        (journal.episodes()[0]).unlink()
    sys.stdout.write(json.dumps({"broken": broken, "sealed": sealed}) + "\n")
    return 0


def _fill(journal: Journal) -> list[Episode]:
    promised: list[Episode] = []
    for number in range(MOST):
        episode = made_up_episode(f"{number:06d}-00000000")
        try:
            journal.seal(episode)
        except DiskFull:
            return promised
        promised.append(episode)
    raise ValueError(f"{journal.folder} is not full after {MOST} episodes: no small disk")


def _fault(journal: Journal, promised: list[Episode]) -> str:
    """Return what is wrong after a full disk, if anything is."""
    left = sorted(path.name for path in (journal.folder / "episodes").iterdir())
    names = sorted(f"{episode.info.episode}.npz" for episode in promised)
    if left != names:
        return f"{len(left)} files for {len(names)} sealed episodes"
    for path, episode in zip(journal.episodes(), promised, strict=True):
        if episode_bytes(read_episode(path)) != episode_bytes(episode):
            return f"{path.name} has other content"
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
