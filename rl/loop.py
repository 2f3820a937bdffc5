"""The training loop: episodes arrive, are learnt from, and policies go back to the arms."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from rl.audit import Audit
from rl.figures import Figures, Tally, episode_line
from rl.fleet import Snapshot
from rl.intake import Intake
from rl.labeller import Labelled
from rl.learner import Learner
from rl.metrics import Metrics
from rl.run_folder import EPISODES, Counters, RunFolder

SLICE_S = 0.25
"""Updates between two looks at the arms take about this long."""
IDLE_S = 0.2
"""An idle learner looks for episodes this often."""
FIGURES_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to practise, and how practice and learning keep pace."""

    steps: int
    """Steps of the arms, all together."""
    minutes: float | None = None
    updates_per_step: float = 0.5
    warmup_steps: int = 2000
    """Steps before the first update: at random, or by the policy that the learner began as."""
    max_debt: int = 1000
    """The arms wait while the learner is more than so many updates behind."""
    patience_s: float = 600.0
    """A run whose updates are frozen waits so long for a person before it ends."""
    publish_s: float = 2.0
    checkpoint_s: float = 60.0
    metrics_s: float = 2.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("warmup_steps", 0), ("max_debt", 1)):
            value: object = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}; expected a whole number from {least} up")
        for name, may_be_zero in (
            ("updates_per_step", True),
            ("minutes", False),
            ("patience_s", True),
        ):
            value = getattr(self, name)
            if value is None and name == "minutes":
                continue
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}={value!r}; expected a number")
            if not value and not may_be_zero:
                raise ValueError(f"{name}={value!r}; expected a number above 0")


class View(Protocol):
    """Whoever watches a run."""

    def show(self, figures: Figures) -> None:
        """Show how the run stands."""
        ...


class Training:
    """One run, from where its folder stands to the end of its schedule."""

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        *,
        learner: Learner,
        intake: Intake,
        folder: RunFolder,
        schedule: Schedule,
        audit: Audit | None = None,
        view: View | None = None,
        watch: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """Take over objects that are ready; `watch` looks after helpers and says what is wrong.

        While `audit` has frozen the updates, the arms are held between episodes as well: what they
        would collect is of a policy that is not trusted. `began` is when the person began to wait,
        on `clock`, if that was earlier.
        """
        self._learner, self._intake, self._folder = learner, intake, folder
        self._schedule, self._view, self._watch, self._clock = schedule, view, watch, clock
        self._audit, self._frozen_at = audit or Audit(None, folder), math.inf
        self._metrics, self._tally, self._rates = Metrics(folder), Tally(), _Rates()
        self._counters = Counters()
        self._update_s = 0.02
        self._published = -1 if learner.is_taught else 0
        self._due: dict[str, float] = {}
        self._counted = (clock() if began is None else began, 0.0, 0.0)
        self.stopping = threading.Event()
        """Set to end the run at the next occasion."""

    @property
    def counters(self) -> Counters:
        """Return how far the run has come."""
        return self._counters

    def restore(self) -> None:
        """Go on from the newest whole checkpoint and with the episodes of earlier sessions."""
        checkpoint = self._folder.newest_checkpoint()
        if checkpoint:
            path, found = checkpoint
            self._learner.load(path)
            self._counters = Counters(updates=found.updates, wall_s=found.wall_s, cpu_s=found.cpu_s)
        for labelled in self._intake.recall():
            self._learn_from(labelled)

    def run(self) -> None:
        """Practise and learn until all is done or `stopping` is set; leave a checkpoint."""
        self._is_due("checkpoint", self._schedule.checkpoint_s)
        while not (self.stopping.is_set() or self._is_done):
            self._gather()
            self._look_at_audits()
            self._update()
            self._count_time()
            if self._is_due("publish", self._schedule.publish_s):
                self._publish()
            if self._is_due("checkpoint", self._schedule.checkpoint_s):
                self.checkpoint()
            if self._is_due("figures", FIGURES_S):
                self._show()
        self.checkpoint()
        self._due.pop("metrics", None)
        self._show()
        self._metrics.close()

    def checkpoint(self) -> None:
        """Write the newest policy and all that a resumed run needs."""
        with self._timed("checkpoint"):
            self._count_time()
            self._learner.snapshot(self._folder.policy)
            self._folder.checkpoint(self._counters, self._learner.save)

    @property
    def frozen(self) -> str | None:
        """Return why updates are frozen, if they are, and what to do about it."""
        event = self._audit.frozen
        if event is None:
            return None
        line = f'make unfreeze RUN={self._folder.path.name} why="..."'
        return f"updates are frozen: {event.why}; look at the report, then: {line}"

    @property
    def _debt(self) -> float:
        return self._schedule.updates_per_step * self._counters.transitions - self._counters.updates

    @property
    def _has_updates_due(self) -> bool:
        enough = self._schedule.warmup_steps <= self._counters.env_steps or self._has_all_steps
        return enough and self._debt >= 1 and not self._audit.frozen

    @property
    def _has_all_steps(self) -> bool:
        return self._intake.steps >= self._schedule.steps

    @property
    def _is_done(self) -> bool:
        minutes = self._schedule.minutes
        if minutes is not None and self._counters.wall_s >= 60 * minutes:
            return True
        if self._audit.frozen:
            return self._clock() - self._frozen_at >= self._schedule.patience_s
        return self._has_all_steps and not (self._intake.pending or self._has_updates_due)

    def _gather(self) -> None:
        due = self._has_updates_due
        held = self._has_all_steps or bool(self._audit.frozen)
        held = held or (due and self._debt > self._schedule.max_debt)
        with self._timed("gather" if due else "wait"):
            arrived = self._intake.gather(0.0 if due else IDLE_S, held=held)
        for labelled in arrived:
            self._learn_from(labelled)
            line = episode_line(labelled, self._counters)
            self._folder.append(EPISODES, {"file": self._folder.relative(labelled.path), **line})

    def _look_at_audits(self) -> None:
        self._audit.look(self._counters)
        if self._audit.frozen is None:
            self._frozen_at = math.inf
        elif math.isinf(self._frozen_at):
            self._frozen_at = self._clock()

    def _learn_from(self, labelled: Labelled) -> None:
        counters, episode = self._counters, labelled.episode
        with self._timed("add"):
            if labelled.transitions:
                self._learner.add(labelled.transitions)
        self._tally.add(labelled)
        self._audit.see(labelled)
        self._counters = replace(
            counters,
            env_steps=counters.env_steps + (episode.steps if episode else 0),
            transitions=counters.transitions + len(labelled.transitions),
            episodes=counters.episodes + 1,
            unlabelled=counters.unlabelled + (labelled.reason is not None),
        )

    def _update(self) -> None:
        """Take the updates that are due, for about `SLICE_S`."""
        if not self._has_updates_due:
            return
        steps = min(int(self._debt), max(1, int(SLICE_S / self._update_s)))
        began = self._clock()
        with self._timed("update"):
            self._tally.losses = self._learner.update(steps)
        self._update_s = max(1e-4, (self._clock() - began) / steps)
        self._counters = replace(self._counters, updates=self._counters.updates + steps)

    def _publish(self) -> None:
        """Give the arms the newest policy, if there is a newer one."""
        version = self._counters.updates
        if version == self._published:
            return
        with self._timed("publish"):
            self._learner.snapshot(self._folder.policy)
            self._intake.publish(Snapshot.read(self._folder.policy, version))
        self._published = version

    def _show(self) -> None:
        self._rates.add(self._counters)
        figures = self._figures()
        if self._view:
            self._view.show(figures)
        if self._counters.episodes and self._is_due("metrics", self._schedule.metrics_s):
            self._metrics.write(self._counters.env_steps, figures.metrics())

    def _figures(self) -> Figures:
        steps_per_s, updates_per_s = self._rates.per_s
        left = max(0, self._schedule.steps - self._counters.env_steps)
        return Figures(
            counters=self._counters,
            steps_total=self._schedule.steps,
            pending=self._intake.pending,
            debt=self._debt,
            updates_per_s=updates_per_s,
            steps_per_s=steps_per_s,
            eta_s=left / steps_per_s if steps_per_s > 0 else None,
            success=self._tally.success,
            mean_return=self._tally.mean_return,
            losses=self._tally.losses,
            seconds=dict(self._tally.seconds),
            arms=self._intake.status(),
            streaming=self._tally.streaming,
            audited=self._audit.figures(),
            troubles=[word for word in self._troubles() if word],
        )

    def _troubles(self) -> list[str | None]:
        return [self.frozen, self._watch(), self._intake.trouble, self._audit.trouble]

    def _count_time(self) -> None:
        counted, self._counted = (
            self._counted,
            (self._clock(), time.process_time(), self._intake.cpu_s),
        )
        wall, cpu, arms = (b - a for a, b in zip(counted, self._counted, strict=True))
        self._counters = replace(
            self._counters,
            wall_s=self._counters.wall_s + wall,
            cpu_s=self._counters.cpu_s + cpu + arms,
        )

    def _is_due(self, what: str, every_s: float) -> bool:
        now = self._clock()
        if what in self._due and now < self._due[what]:
            return False
        self._due[what] = now + every_s
        return True

    @contextmanager
    def _timed(self, part: str) -> Generator[None]:
        began = self._clock()
        yield
        self._tally.seconds[part] += self._clock() - began


class _Rates:
    """Steps and updates a second, over the newest quarter of a minute or so."""

    def __init__(self) -> None:
        self._seen: deque[Counters] = deque(maxlen=32)

    def add(self, counters: Counters) -> None:
        self._seen.append(counters)

    @property
    def per_s(self) -> tuple[float, float]:
        first, last = self._seen[0], self._seen[-1]
        seconds = max(last.wall_s - first.wall_s, FIGURES_S)
        steps, updates = last.env_steps - first.env_steps, last.updates - first.updates
        return steps / seconds, updates / seconds
