"""How many rows each arm had left whenever it asked for more: how near they are to running out."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

WINDOW_S = 60.0
MOST = 1024
"""Points that are kept of one arm."""


@dataclass(slots=True)
class _Queue:
    points: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MOST))
    underflows: int = 0
    """Of all its episodes."""
    episode_underflows: int = 0


class LiveQueues:
    """The last minute of every arm that is connected and counts its rows; any thread may ask."""

    def __init__(self) -> None:
        """Know of nobody."""
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def note(self, arm: str, *, rows_left: int, underflows: int, now: float) -> None:
        """Take note of what an arm said with its question; it counts underflows by episode."""
        with self._lock:
            queue = self._queues.setdefault(arm, _Queue())
            queue.points.append((now, rows_left))
            fresh = underflows - queue.episode_underflows
            queue.underflows += fresh if fresh >= 0 else underflows
            queue.episode_underflows = underflows

    def forget(self, arm: str) -> None:
        """Leave out an arm that has hung up."""
        with self._lock:
            self._queues.pop(arm, None)

    def figures(self, now: float) -> dict[str, Mapping[str, object]]:
        """Return for each arm the ages of its questions, s, and the rows that it had left."""
        with self._lock:
            return {
                arm: {
                    "ages_s": [round(now - at, 2) for at, _ in queue.points if now - at < WINDOW_S],
                    "rows_left": [rows for at, rows in queue.points if now - at < WINDOW_S],
                    "underflows": queue.underflows,
                }
                for arm, queue in self._queues.items()
            }
