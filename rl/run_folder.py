"""One run on disk: what was asked for, its journals, labels, checkpoints, policy and figures."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from rl.run_record import VERSION, BadRun, read_json
from robot.journal import Journal, journal_folder
from robot.sealed import seal

CHECKPOINTS_KEPT = 2
EPISODES = "episodes.jsonl"
"""One line for every episode whose fate is known, in the order in which the learner got them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """How far a run has come."""

    env_steps: int = 0
    """Steps that arms took, whether they could be labelled or not."""
    transitions: int = 0
    """Steps that the learner was given."""
    updates: int = 0
    episodes: int = 0
    unlabelled: int = 0
    """Episodes that the reward model could not judge."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """Of this process, of those it has waited for, and of the arms' workers."""


class RunFolder:
    """Where everything of one run lies; one process at a time may write there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, root: Path, *, task: str, config: str, facts: Mapping[str, object]) -> Self:
        """Make and lock the folder of a fresh run; `config` is YAML, `facts` go to `run.json`."""
        run_id = secrets.token_hex(4)
        name = f"{datetime.now(UTC):%Y%m%d}_{task}_{run_id}"
        making = root / f".{name}"
        for part in ("journals", "labels", "checkpoints", "policy", "tensorboard"):
            (making / part).mkdir(parents=True)
        seal(making / "config.yaml", config.encode())
        head = {"version": VERSION, "run": run_id, "task": task}
        seal(making / "run.json", _json({**head, **facts}))
        seal(making / "state.json", _json(asdict(Counters())))
        making.rename(root / name)
        folder = cls(root / name)
        folder.lock()
        return folder

    def facts(self) -> Mapping[str, Any]:
        """Return what `run.json` says; raise `BadRun` if this is no whole run of this version."""
        if not self.path.is_dir():
            raise BadRun(f"there is no run folder {self.path}; `ls runs` lists the runs", code=2)
        facts = read_json(self.path / "run.json")
        if facts.get("version") != VERSION:
            raise BadRun(
                f"{self.path} has layout version {facts.get('version')}, expected {VERSION}; "
                "use the revision that wrote it"
            )
        if not (self.path / "config.yaml").is_file():
            raise BadRun(f"{self.path} has no config.yaml: half written; start a new run")
        return facts

    def lock(self) -> None:
        """Keep others from writing here while this process lives; raise `BadRun` if one does."""
        lock = (self.path / "run.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise BadRun(f"{self.path} is in use by process {owner}; end that run first") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def close(self) -> None:
        """Let other processes write here again."""
        if self._lock:
            self._lock.close()
            self._lock = None

    @property
    def run_id(self) -> str:
        """Return the eight hex digits of this run."""
        return self.path.name.rsplit("_", 1)[-1]

    @property
    def labels(self) -> Path:
        """Return where the scores of episodes lie."""
        return self.path / "labels"

    @property
    def policy(self) -> Path:
        """Return where the newest snapshot lies."""
        return self.path / "policy"

    def journal(self, arm: str) -> Path:
        """Return the journal of one arm; raise ValueError where the arm has an impossible name."""
        date, task, run_id = self.path.name.rsplit("_", 2)
        day = datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC).date()
        return journal_folder(self.path / "journals", day, task=task, arm=arm, run=run_id)

    def episodes(self) -> list[Path]:
        """Return the sealed episodes of all arms, arm by arm."""
        folders = sorted(path for path in (self.path / "journals").iterdir() if path.is_dir())
        return [path for folder in folders for path in Journal(folder).episodes()]

    def relative(self, path: Path) -> str:
        """Return a path as it is called within this folder."""
        return path.relative_to(self.path).as_posix()

    def write_state(self, counters: Counters) -> None:
        """Say how far the run has come, for those who read the folder."""
        seal(self.path / "state.json", _json(asdict(counters)))

    def append(self, name: str, line: Mapping[str, object]) -> None:
        """Add one JSON line to a file of this run."""
        with (self.path / name).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the JSON lines of a file of this run; a torn line is left out."""
        path = self.path / name
        texts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for text in texts:
            try:
                yield json.loads(text)
            except ValueError:
                continue

    def checkpoint(self, counters: Counters, save: Callable[[Path], None]) -> None:
        """Write one checkpoint, whole or not at all, and drop those that are too old."""
        name = f"{counters.updates:08d}"
        making = self.path / "checkpoints" / f".{name}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        save(making)
        seal(making / "state.json", _json(asdict(counters)))
        seal(making / "manifest.json", _json(_digests(making)))
        done = making.with_name(name)
        shutil.rmtree(done, ignore_errors=True)
        making.rename(done)
        self.write_state(counters)
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)

    def newest_checkpoint(self) -> tuple[Path, Counters] | None:
        """Return the newest checkpoint that is whole, and where it stood."""
        for folder in reversed(self._checkpoints()):
            if _whole(folder):
                return folder, Counters(**json.loads((folder / "state.json").read_text()))
        return None

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("[0-9]*"))


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "manifest.json"
    }


def _whole(folder: Path) -> bool:
    try:
        return json.loads((folder / "manifest.json").read_text()) == _digests(folder)
    except (OSError, ValueError):
        return False
