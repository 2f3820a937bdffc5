"""Where episodes come in, from the arms or the run's own folder, and get their labels."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from rl.fleet import Finished, Fleet, Snapshot
from rl.labeller import Labelled, Labeller, relabelled
from rl.run_folder import EPISODES, RunFolder
from robot.journal import Journal, read_episode
from robot.sealed import Damaged

log = structlog.get_logger(__name__)


class Intake:
    """All arms of a run and the labels of their episodes; what counts has been sealed here."""

    def __init__(self, fleets: Sequence[Fleet], labeller: Labeller, folder: RunFolder) -> None:
        self._fleets, self._labeller, self._folder = fleets, labeller, folder
        self._journals: dict[str, Journal] = {}
        self.steps = 0
        """Steps of all episodes that have come in, with or without a label yet."""
        self.cpu_s = 0.0
        """Processor time of arms in other processes."""

    @property
    def pending(self) -> int:
        """Return how many episodes wait for their label."""
        return self._labeller.pending

    @property
    def trouble(self) -> str | None:
        """Return why there are no labels at the moment, if so."""
        return self._labeller.trouble

    def gather(self, timeout_s: float, *, held: bool) -> list[Labelled]:
        """Seal what the arms bring within `timeout_s` and return what has been labelled."""
        for fleet in self._fleets:
            fleet.hold(held=held)
            for finished in fleet.poll(timeout_s / len(self._fleets)):
                self._seal(finished)
        return self._labeller.done()

    def recall(self) -> Iterator[Labelled]:
        """Yield the episodes that were labelled in earlier sessions; have the others labelled."""
        known = set[str]()
        for line in self._folder.lines(EPISODES):
            known.add(line["file"])
            labelled = self._stored(
                self._folder.path / line["file"], has_label=line["reason"] is None
            )
            self.steps += labelled.episode.steps if labelled.episode else 0
            yield labelled
        for path in self._folder.episodes():
            if self._folder.relative(path) not in known:
                self._labeller.submit(path)
                self.steps += _steps(path)

    def publish(self, snapshot: Snapshot) -> None:
        """Give every arm a newer policy."""
        for fleet in self._fleets:
            fleet.publish(snapshot)

    def status(self) -> Mapping[str, str]:
        """Return a word about each arm."""
        return {arm: word for fleet in self._fleets for arm, word in fleet.status().items()}

    def _seal(self, finished: Finished) -> None:
        if finished.arm not in self._journals:
            self._journals[finished.arm] = Journal(self._folder.journal(finished.arm))
        journal = self._journals[finished.arm]
        journal.accept(finished.name, finished.data)
        self.steps += finished.steps
        self.cpu_s += finished.cpu_s
        self._labeller.submit(journal.folder / "episodes" / finished.name)

    def _stored(self, path: Path, *, has_label: bool) -> Labelled:
        try:
            if has_label:
                return relabelled(path, self._folder.labels)
            return Labelled(path=path, episode=read_episode(path), reason="not labelled before")
        except (OSError, Damaged) as error:
            log.warning("episode lost", file=str(path), reason=str(error))
            return Labelled(path=path, episode=None, reason=str(error))


def _steps(path: Path) -> int:
    try:
        return read_episode(path).steps
    except (OSError, Damaged):
        return 0
