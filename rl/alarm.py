"""The alarm of a run: when its updates were frozen and why, and who let them go on and why."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rl.run_record import BadRun
from robot.sealed import seal

ALARM = "alarm.json"
FROZEN, UNFROZEN = "frozen", "unfrozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Updates were frozen, or a person let them go on."""

    event: str
    """`frozen` or `unfrozen`."""
    why: str
    at: str
    """UTC, ISO 8601."""
    episodes: int
    """Episodes that the run knew: of those, an audit after an unfreezing counts none."""
    env_steps: int = 0
    updates: int = 0


class Alarm:
    """The events of one run, sealed in its folder with every change."""

    def __init__(self, folder: Path) -> None:
        """Read what the folder says; raise `BadRun` where its file is damaged."""
        self._path = folder / ALARM
        self.events: Sequence[Event] = ()
        self._stamp: tuple[int, int] | None = None
        self.look()

    def look(self) -> bool:
        """Read the file again if it has changed; return whether it had."""
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return False
        self._stamp, self.events = stamp, tuple(_read(self._path))
        return True

    @property
    def frozen(self) -> Event | None:
        """Return the event that froze the updates, None where they go on."""
        last = self.events[-1] if self.events else None
        return last if last and last.event == FROZEN else None

    @property
    def start(self) -> int:
        """Return how many of the run's episodes lie before the newest unfreezing."""
        starts = [event.episodes for event in self.events if event.event == UNFROZEN]
        return starts[-1] if starts else 0

    def add(
        self, event: str, *, why: str, episodes: int, env_steps: int = 0, updates: int = 0
    ) -> Event:
        """Seal one more event and return it."""
        fresh = Event(
            event=event,
            why=why,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            episodes=episodes,
            env_steps=env_steps,
            updates=updates,
        )
        self.events = (*self.events, fresh)
        said = {"events": [asdict(each) for each in self.events]}
        seal(self._path, (json.dumps(said, indent=2) + "\n").encode())
        self._stamp = stamp_of(self._path)
        return fresh


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Return what changes with a file: its node and its time; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _read(path: Path) -> list[Event]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return [Event(**event) for event in said["events"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRun(
            f"{path} cannot be read ({error}), so nobody knows whether updates are frozen; "
            "restore it, or start a new run"
        ) from None
