"""What a run says of itself, checked before anybody relies on it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

VERSION = 1
"""Layout of a run folder; a folder of another version is refused, not guessed at."""


class BadRun(Exception):
    """What was asked for cannot be done, with the exit code that says why."""

    def __init__(self, sentence: str, *, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Which run a folder holds and how far it got."""

    folder: Path
    task: str
    goal: str
    preset: str
    seed: int
    actors: int
    reward: str
    git_revision: str
    env_steps: int
    updates: int
    wall_s: float
    cpu_s: float

    @property
    def policy(self) -> Path:
        """Return the folder of the newest policy snapshot."""
        return self.folder / "policy"


def read_run(folder: Path) -> RunRecord:
    """Return what a run says; raise `BadRun` where it is missing, half written or another's."""
    facts = read_facts(folder)
    return RunRecord(
        folder=folder,
        task=_field(facts, "task", str, folder),
        goal=_field(facts, "goal", str, folder),
        preset=_field(facts, "preset", str, folder),
        seed=_field(facts, "seed", int, folder),
        actors=_field(facts, "actors", int, folder),
        reward=_field(facts, "reward", str, folder),
        git_revision=_field(facts, "git_revision", str, folder),
        env_steps=_field(facts, "env_steps", int, folder),
        updates=_field(facts, "updates", int, folder),
        wall_s=_field(facts, "wall_s", float, folder),
        cpu_s=_field(facts, "cpu_s", float, folder),
    )


def read_facts(folder: Path) -> Mapping[str, object]:
    """Return what `run.json` and `state.json` say; raise `BadRun` where there is no run of ours."""
    if not folder.is_dir():
        raise BadRun(f"there is no run folder {folder}; `ls runs` lists the runs", code=2)
    facts = read_json(folder / "run.json")
    if facts.get("version") != VERSION:
        raise BadRun(
            f"{folder} has layout version {facts.get('version')}, expected {VERSION}; "
            "use the revision that wrote it"
        )
    return {**facts, **read_json(folder / "state.json")}


def read_json(path: Path) -> Mapping[str, object]:
    """Return the object in a JSON file; raise `BadRun` where it is missing or damaged."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRun(
            f"{path.parent} has no {path.name}: not a run folder, or half written; give another run"
        ) from None
    except (OSError, ValueError) as error:
        raise BadRun(f"{path} cannot be read ({error}); give another run") from None
    if not isinstance(value, dict):
        raise BadRun(f"{path} holds no JSON object; give another run")
    return cast("Mapping[str, object]", value)


def _field[T](facts: Mapping[str, object], name: str, kind: Callable[..., T], folder: Path) -> T:
    if name not in facts:
        raise BadRun(f"{folder} does not say its {name}: half written; resume it or give another")
    try:
        return kind(facts[name])
    except (TypeError, ValueError):
        expected = getattr(kind, "__name__", kind)
        raise BadRun(f"{folder} says {name}={facts[name]!r}, expected {expected}") from None
