"""Models that were promoted, on disk: each with a card and its digests, one of them deployed.

A registry is a folder. For each goal it holds numbered versions, each laid out as a run
(`run.json`, `state.json`, `policy/`) beside its `card.json`, and `deployed.json`, which says which
one is in use and which ones were before. A version whose files are not what its card says is
refused.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl.run_record import BadRun, RunRecord, read_json, read_run
from robot.sealed import seal

CARD, DEPLOYED = "card.json", "deployed.json"
COPIED = ("run.json", "state.json", "policy")


class ModelRegistry:
    """The promoted versions of the policies for one goal."""

    def __init__(self, root: Path, goal: str) -> None:
        self.goal = goal
        self.path = root / re.sub(r"[^a-z0-9]+", "-", goal.lower()).strip("-")

    def history(self) -> list[str]:
        """Return the names of the versions that were deployed, the one in use last."""
        if not (self.path / DEPLOYED).is_file():
            return []
        said = read_json(self.path / DEPLOYED).get("history")
        if not isinstance(said, list):
            raise BadRun(f"{self.path / DEPLOYED} names no versions; put its copy back")
        return [str(name) for name in said]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

    def deployed(self) -> RunRecord | None:
        """Return the version in use, None before the first; raise `BadRun` where it was changed."""
        history = self.history()
        return self.version(history[-1]) if history else None

    def version(self, name: str) -> RunRecord:
        """Return a version; raise `BadRun` where its files are not what its card says."""
        folder = self.path / name
        card = read_json(folder / CARD)
        if card.get("sha256") != digests(folder):
            raise BadRun(
                f"{folder} is not what its {CARD} says: its files were changed after it was "
                "promoted; roll back, or promote its run again"
            )
        return read_run(folder)

    def promote(self, run: RunRecord, evidence: Mapping[str, Any]) -> str:
        """Keep a run's policy with its evidence and put it to use; return the version's name."""
        history = self.history()
        taken = [int(path.name[:4]) for path in self.path.glob("[0-9][0-9][0-9][0-9]-*")]
        name = f"{max(taken, default=0) + 1:04d}-{run.folder.name.rsplit('_', 1)[-1]}"
        making = self.path / f".{name}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        for part in COPIED:
            source = run.folder / part
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, making / part)
        card = {"goal": self.goal, "run": run.folder.name, **evidence, "sha256": digests(making)}
        seal(making / CARD, _json(card))
        making.rename(self.path / name)
        self._deploy([*history, name])
        return name

    def roll_back(self) -> str:
        """Put the version before the one in use to use again, and return its name."""
        history = self.history()
        if len(history) < 2:
            raise BadRun(f"{self.path} has no earlier version to go back to", code=2)
        self.version(history[-2])
        self._deploy(history[:-1])
        return history[-2]

    def _deploy(self, history: list[str]) -> None:
        seal(self.path / DEPLOYED, _json({"goal": self.goal, "history": history}))


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a version, its card aside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
