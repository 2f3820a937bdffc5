"""What became of every clip, for whoever looks into it later: a line of JSON each, a file a day.

`scores-2026-11-21.jsonl` holds the lines, `pictures-2026-11-21/` what the cameras saw last, small.
A thread of its own writes them: no score waits for the disk, and none fails with it.
"""

import hashlib
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import prometheus_client as prometheus
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from rewarder.faults import resized
from rewarder.messages import ScoreBody
from rewarder.reward import Clip
from robot.camera import encode_jpeg
from robot.pictures import any_picture
from robot.vision import Image

log = structlog.get_logger(__name__)

HEIGHT, QUALITY = 96, 75
"""Of the small pictures: pixels, and JPEG's quality."""
MOST_WAITING = 256
"""Lines beyond so many that wait for the disk are lost."""
PATIENCE_S = 5.0
"""How long the end of a service waits for the disk."""
LEAST_SECRET = 8
"""Shorter values of the environment, such as `1`, are no secrets, characters."""
HIDDEN = "[secret]"
_SECRETS = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")
_LINES = prometheus.Counter(
    "rewarder_log_lines", "Lines for the log of scores by what became of them", ["outcome"]
)


class Entry(BaseModel):
    """One line: what was asked, who answered, and what."""

    model_config = ConfigDict(frozen=True)

    at: str
    """UTC, ISO 8601."""
    request_id: str
    clip: str
    """Hash of its content."""
    goal: str
    cameras: list[str]
    latency_ms: float
    cached: bool = False
    model: str | None = None
    """Which one gave the score; this and what follows is None where the model says nothing of it,
    or there is no score."""
    prompt_sha: str | None = None
    calib_id: str | None = None
    score: ScoreBody | None = None
    """All of it, the raw log-odds of each moment included."""
    why: str | None = None
    """Why there is no score."""
    thumbnail: str | None = None
    """Path, in the log's folder, of a JPEG that is named by the hash of what it shows."""


class ScoreLog:
    """Keeps lines and small pictures of the newest days, so many bytes of each at most."""

    def __init__(
        self,
        folder: Path,
        *,
        days: int,
        most_mb: float,
        secrets: Collection[str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Write to `folder`, which need not be there; begin at once.

        `secrets` never reach the disk, whoever says them; by default those of the environment.
        """
        if days < 1 or most_mb <= 0:
            raise ValueError(f"log.days={days}, log.most_mb={most_mb}; expected more than nothing")
        self.folder, self._days, self._most = folder, days, int(most_mb * 2**20)
        self._secrets = _of_environment() if secrets is None else tuple(secrets)
        self._now = now
        self._day, self._bytes, self._fails = "", 0, False
        self._waiting: queue.Queue[tuple[Entry, list[bytes]] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="score log", daemon=True)
        self._thread.start()

    def put(self, entry: Entry, pictures: Mapping[str, bytes]) -> None:
        """Take a line and the last picture of each camera; neither waits nor fails."""
        try:
            self._waiting.put_nowait((entry, [pictures[name] for name in sorted(pictures)]))
        except queue.Full:
            _LINES.labels("lost").inc()

    def flush(self) -> None:
        """Wait until everything that was taken is written or lost."""
        self._waiting.join()

    def close(self) -> None:
        """Write what was taken and end the thread."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=PATIENCE_S)
            self._thread.join(PATIENCE_S)

    def find(self, *, request_id: str = "", clip: str = "") -> Entry | None:
        """Return the newest scored line of a request, or of a clip; None where none is kept."""
        self.flush()
        for line in self._lines_with((request_id or clip).encode()):
            entry = _entry(line)
            if entry is None or entry.score is None:
                continue
            if (entry.request_id if request_id else entry.clip) == (request_id or clip):
                return entry
        return None

    def _lines_with(self, wanted: bytes) -> Iterator[bytes]:
        """Return the lines that hold some bytes, the newest first."""
        for path in sorted(self.folder.glob("scores-*.jsonl"), reverse=True):
            data = path.read_bytes()
            at = len(data)
            while (found := data.rfind(wanted, 0, at)) >= 0:
                at = data.rfind(b"\n", 0, found) + 1
                yield data[at:].partition(b"\n")[0]

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            self._keep(*item)
            self._waiting.task_done()
        self._waiting.task_done()

    def _keep(self, entry: Entry, pictures: list[bytes]) -> None:
        try:
            self._begin_day(self._now().date().isoformat())
            outcome = self._write(entry, pictures)
        except OSError as error:
            outcome = "lost"
            if not self._fails:
                log.warning("scores are not logged", folder=str(self.folder), error=str(error))
            # What is on the disk is looked at anew: half a line, or no folder.
            self._day = ""
        self._fails = outcome == "lost"
        _LINES.labels(outcome).inc()

    def _begin_day(self, day: str) -> None:
        """Make room for a day, and look at what is there of it."""
        if day == self._day:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kind in ("scores-*", "pictures-*"):
            others = sorted(p for p in self.folder.glob(kind) if day not in p.name)
            for old in others[: max(0, len(others) - self._days + 1)]:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        path = self._path(day)
        size = path.stat().st_size if path.exists() else 0
        if size and not path.read_bytes().endswith(b"\n"):
            self._append(day, b"\n")
        pictures = (self.folder / f"pictures-{day}").glob("*.jpg")
        self._bytes = size + sum(picture.stat().st_size for picture in pictures)
        self._day = day

    def _path(self, day: str) -> Path:
        return self.folder / f"scores-{day}.jsonl"

    def _append(self, day: str, data: bytes) -> None:
        descriptor = os.open(self._path(day), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(data)

    def _write(self, entry: Entry, pictures: list[bytes]) -> str:
        """Write a line and its picture; return what became of it."""
        if self._bytes >= self._most:
            return "over_limit"
        thumbnail = self._keep_picture(_thumbnail(pictures))
        line = entry.model_copy(update={"thumbnail": thumbnail}).model_dump_json() + "\n"
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        self._append(self._day, line.encode())
        self._bytes += len(line)
        return "written"

    def _keep_picture(self, data: bytes) -> str | None:
        """Keep a picture once, and return its path in the folder; None for none."""
        if not data:
            return None
        name = f"pictures-{self._day}/{hashlib.sha256(data).hexdigest()[:16]}.jpg"
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_bytes(data)
            self._bytes += len(data)
        return name


def entry_of(
    clip: Clip, sha: str, said: ScoreBody | str, *, request_id: str, latency_ms: float
) -> Entry:
    """Return the line about a clip and its score, or why there is none."""
    score = said if isinstance(said, ScoreBody) else None
    notes = score.notes if score else {}
    return Entry(
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        request_id=request_id,
        clip=sha,
        goal=clip.goal,
        cameras=sorted(clip.frames),
        latency_ms=round(latency_ms, 3),
        cached=score.cached if score else False,
        model=score.model if score else None,
        prompt_sha=_noted(notes, "prompt_sha"),
        calib_id=_noted(notes, "calib_id"),
        score=score,
        why=said if isinstance(said, str) else None,
    )


def _noted(notes: Mapping[str, str], name: str) -> str | None:
    """Return what a model, or the parts of one, noted under a name; None for nothing."""
    found = [text for noted, text in notes.items() if noted.rpartition(".")[2] == name]
    return " ".join(found) or None


def _thumbnail(pictures: list[bytes]) -> bytes:
    """Return what cameras saw side by side as a small JPEG, nothing where none is whole."""
    found = [image for data in pictures if (image := any_picture(data)) is not None]
    if not found:
        return b""
    small = [resized(image, (_width(image), HEIGHT)) for image in found]
    return encode_jpeg(np.hstack(small), quality=QUALITY)


def _width(image: Image) -> int:
    return max(1, round(HEIGHT * image.shape[1] / image.shape[0]))


def _entry(line: bytes) -> Entry | None:
    """Return a line as it was written, None where it was cut short."""
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None


def _of_environment() -> tuple[str, ...]:
    named = (value for name, value in os.environ.items() if _SECRETS.search(name))
    return tuple(value for value in named if len(value) >= LEAST_SECRET)
