"""How hard the checks try, and where they say how far they are."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import structlog

SAY_EVERY_S = 10.0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def quiet() -> None:
    """Log nothing: what the parts say while they are being broken is not news."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What one run of the checks may spend."""

    folder: Path
    """Scratch space, removed afterwards."""
    quick: bool = True
    seed: int = 0
    jobs: int = 1
    """Processes that compute side by side."""
    most: int | None = None
    """At most so many trials of anything, whatever is asked."""

    def count(self, *, quick: int, full: int) -> int:
        """Return how many trials to do."""
        trials = quick if self.quick else full
        return trials if self.most is None else min(trials, self.most)

    def progress[T](self, items: Sequence[T], title: str) -> Iterator[T]:
        """Pass items on and say now and then how many there were."""
        due = time.monotonic() + SAY_EVERY_S
        for done, item in enumerate(items):
            if time.monotonic() >= due:
                say(f"  {title}: {done:,} of {len(items):,}")
                due = time.monotonic() + SAY_EVERY_S
            yield item

    def spread[A, R](self, work: Callable[[A], R], parts: Sequence[A], title: str) -> Iterable[R]:
        """Return what `work` returns of each part, done by `jobs` processes."""
        if self.jobs == 1 or len(parts) == 1:
            yield from (work(part) for part in self.progress(parts, title))
            return
        with ProcessPoolExecutor(
            self.jobs, mp_context=get_context("spawn"), initializer=quiet
        ) as pool:
            results = pool.map(work, parts)
            for _, result in zip(self.progress(parts, title), results, strict=True):
                yield result
