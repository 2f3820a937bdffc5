"""The seam between a run and the arms that practise for it; and all arms in one process."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from envs.homing import ArmStopped

RETRY_S = 1.0
"""An arm that does not obey is asked again so often."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """A policy as it travels to the arms."""

    version: int
    """Updates that the learner had taken."""
    head: bytes
    """`policy.json`."""
    weights: bytes
    """`policy.safetensors`."""

    @classmethod
    def read(cls, folder: Path, version: int) -> Self:
        """Return what a learner has written to a folder."""
        head, weights = (folder / name for name in ("policy.json", "policy.safetensors"))
        return cls(version=version, head=head.read_bytes(), weights=weights.read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """An episode that an arm has sealed in its own journal."""

    arm: str
    name: str
    """File name in the journal."""
    data: bytes
    """The sealed file."""
    steps: int
    wall_s: float = 0.0
    cpu_s: float = 0.0


class ArmWorker(Protocol):
    """Whoever practises on one arm."""

    def run_episode(self, snapshot: Snapshot | None) -> Finished:
        """Practise once with the newest policy, at random while there is none.

        Raise `ArmStopped` where the arm lets nobody practise for the time being.
        """
        ...

    def close(self) -> None:
        """Release the arm."""
        ...


type MakeWorker = Callable[[], ArmWorker]


class Fleet(Protocol):
    """Some arms that practise."""

    def start(self, workers: Mapping[str, MakeWorker]) -> None:
        """Begin to practise with one worker an arm."""
        ...

    def poll(self, timeout_s: float) -> list[Finished]:
        """Return the episodes that have ended, after at most `timeout_s` if there is none yet."""
        ...

    def publish(self, snapshot: Snapshot) -> None:
        """Give every arm a newer policy for its next episode."""
        ...

    def hold(self, *, held: bool) -> None:
        """Begin no further episodes while held."""
        ...

    def status(self) -> Mapping[str, str]:
        """Return a word or a sentence about each arm."""
        ...

    def close(self) -> None:
        """End all practice and release the arms."""
        ...


class ArmsFailed(Exception):
    """No arm has ever finished an episode, and the message says why."""


class LocalFleet:
    """All arms in this process, one episode after another: for tests and debugging."""

    def __init__(self) -> None:
        self._workers: dict[str, ArmWorker] = {}
        self._snapshot: Snapshot | None = None
        self._held = False
        self._turn = 0
        self._makers: dict[str, MakeWorker] = {}
        self._waits: dict[str, str] = {}

    def start(self, workers: Mapping[str, MakeWorker]) -> None:
        """Make every worker here, those of arms that are out of reach when they come back."""
        self._makers = dict(workers)
        for arm in workers:
            with suppress(ArmStopped):
                self._worker(arm)

    def poll(self, timeout_s: float) -> list[Finished]:
        """Run one episode on the arm whose turn it is."""
        if self._held:
            time.sleep(timeout_s)
            return []
        arms = list(self._makers)
        arm = arms[self._turn % len(arms)]
        self._turn += 1
        try:
            finished = self._worker(arm).run_episode(self._snapshot)
        except ArmStopped as stopped:
            self._waits[arm] = str(stopped)
            time.sleep(min(timeout_s, RETRY_S / len(arms)))
            return []
        self._waits.pop(arm, None)
        # The time it took is this process's own already.
        return [replace(finished, cpu_s=0.0)]

    def publish(self, snapshot: Snapshot) -> None:
        """Use the snapshot from the next episode on."""
        self._snapshot = snapshot

    def hold(self, *, held: bool) -> None:
        """Begin no further episodes while held."""
        self._held = held

    def status(self) -> Mapping[str, str]:
        """Return what all arms do."""
        word = "waits for the learner" if self._held else "practises"
        return {arm: self._waits.get(arm, word) for arm in self._makers}

    def close(self) -> None:
        """Release the arms."""
        for worker in self._workers.values():
            worker.close()
        self._workers = {}

    def _worker(self, arm: str) -> ArmWorker:
        if arm not in self._workers:
            self._workers[arm] = self._makers[arm]()
        return self._workers[arm]
