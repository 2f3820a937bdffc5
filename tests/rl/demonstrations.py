"""Scripted recordings on the twin as a LeRobot dataset, made once for a file of tests."""

from pathlib import Path

from rl.record_scripted import WORDS, record
from robot.journal import Journal
from robot.recording.dataset import export


def recorded(folder: Path, task: str, episodes: int, *, seed: int = 0, fps: int = 20) -> Path:
    """Record, and return the dataset's folder; the journal it came from lies around it."""
    folder.mkdir()
    words = {
        "task": task,
        "episodes": f"{episodes}",
        "size": "96",
        "seed": f"{seed}",
        "fps": f"{fps}",
    }
    record(WORDS | words, Journal(folder))
    export(Journal(folder), folder / "lerobot")
    return folder / "lerobot"
