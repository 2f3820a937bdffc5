"""R8: arms that are driven for an hour take no more memory, files or patience than at first."""

import math
import os
import re
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

import httpx
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from ops.safety_checks.driven import driven
from ops.safety_checks.effort import Effort, say
from ops.safety_checks.rig import RigArm, RigError, rig
from ops.safety_checks.row import MOST_EXAMPLES, Row, not_measured
from robot.doctor.links import own_headers
from robot.link import ArmUnavailable

ARMS, MINUTES, HOURS_ASKED = 4, 60, 8
QUICK_S, LOOK_S, SAY_S = 30.0, 5.0, 60.0
WARM_UP = 1 / 6
"""Share of the looks that is left out: what a process loads once is no leak."""
GROWTH_MB_H, GRAIN_MB = 1.0, 0.5
"""What is promised, and the growth in all from which nothing follows for an hour."""
LATER_S, LATER = 0.002, 1.5
"""By how much the p99 of the lateness may grow: a tenth of a cycle, or half of what it was."""
CHANCE = 1e-3
MEMORY, FILES, CYCLES = (
    "memory of driven arms and their emulators does not grow",
    "open files of driven arms and their emulators do not grow",
    "a driven arm's cycles are as even in the last third as in the first",
)
_P99 = re.compile(r'^arm_late_quantile_seconds\{quantile="0\.99"\} (\S+)$', re.MULTILINE)
_RUNS = 'arm_mode{mode="RUN"} 1.0'
_STATM = "/proc/{}/statm"


@dataclass(frozen=True, slots=True)
class Life:
    """What was seen of one process over time."""

    name: str
    pid: int
    at_s: list[float] = field(default_factory=list[float])
    rss_mb: list[float] = field(default_factory=list[float])
    files: list[float] = field(default_factory=list[float])
    late_s: list[float] = field(default_factory=list[float])
    """p99 of the lateness of its cycles within ten seconds, where it has any."""

    def look(self) -> None:
        """Note what the process takes; raise `OSError` where it has gone."""
        pages = int(Path(_STATM.format(self.pid)).read_text(encoding="ascii").split()[1])
        if not pages:
            raise ProcessLookupError(f"{self.name} has ended")
        files = sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        self.at_s.append(time.monotonic())
        self.rss_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        self.files.append(files)


class Growth(NamedTuple):
    """The slope of a process's memory."""

    name: str
    mb_h: float
    half: float
    """Of the interval of 95 %, MB per hour."""
    in_all_mb: float

    def __str__(self) -> str:
        """Say it."""
        return f"{self.name} {self.mb_h:+.2f} ± {self.half:.2f} MB/h"


@dataclass(slots=True)
class Story:
    """What was seen of all of them."""

    lives: list[Life]
    looks: int = 0
    runs: int = 0
    """Looks at which an arm was driven."""
    dead: list[str] = field(default_factory=list[str])


def soak(effort: Effort) -> list[Row]:
    """R8: drive arms at 20 Hz, and look at what each process takes."""
    seconds = QUICK_S if effort.quick else 60.0 * effort.count(quick=1, full=MINUTES)
    if not Path(_STATM.format("self")).exists():
        return _not_measured("what a process takes is read from /proc, which only Linux has")
    try:
        with rig(ARMS, effort.folder / "soak") as arms:
            story = _watched(arms, seconds)
    except (RigError, ArmUnavailable) as error:
        return _not_measured(str(error))
    return rows_of(story, seconds)


def _not_measured(why: str) -> list[Row]:
    return [not_measured("R8", promise, "-", why=why) for promise in (MEMORY, FILES, CYCLES)]


def _watched(arms: Sequence[RigArm], seconds: float) -> Story:
    """Drive arms, look at their processes every few seconds, and return what was seen."""
    ours = [Life(arm.arm_id, arm.pid) for arm in arms]
    story = Story(ours + [Life(f"emulator of {arm.arm_id}", arm.emulator.pid) for arm in arms])
    with ExitStack() as stack:
        drivers = [stack.enter_context(_driver(arm)) for arm in arms]
        began = said = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            story.dead += [died for life in story.lives if (died := _dead(life))]
            if story.dead:
                break
            for arm, life, driver in zip(arms, ours, drivers, strict=True):
                runs = _note_cycles(arm, life)
                story.looks, story.runs = story.looks + 1, story.runs + runs
                driver.tend(runs=runs)
            if now - said > SAY_S:
                say(f"  R8: {(now - began) / 60:.0f} of {seconds / 60:.0f} minutes")
                said = now
            time.sleep(max(0.0, LOOK_S - (time.monotonic() - now)))
    return story


def _dead(life: Life) -> str:
    """Look at a process; return what is to be said where it has gone."""
    try:
        life.look()
    except OSError:
        return f"{life.name} died after {len(life.at_s)} looks"
    return ""


def _note_cycles(arm: RigArm, life: Life) -> bool:
    """Note how even an arm's cycles are; return whether it is driven."""
    # A connection that is kept would be one of the files that are counted, or not.
    headers = {**own_headers(), "Connection": "close"}
    try:
        text = httpx.get(f"{arm.config.url}/metrics", headers=headers, trust_env=False).text
    except httpx.HTTPError:
        return False
    life.late_s.extend(float(found) for found in _P99.findall(text))
    return _RUNS in text


class _Driver:
    """Has an arm driven, by another client where the one before fell silent for too long."""

    def __init__(self, arm: RigArm, stack: ExitStack) -> None:
        self._arm, self._stack = arm, stack
        self.tend(runs=False)

    def tend(self, *, runs: bool) -> None:
        """Start a client unless the arm runs, or has died; raise `RigError`."""
        if not runs and self._arm.daemon.poll() is None:
            self._stack.close()
            self._stack.enter_context(driven(self._arm))


@contextmanager
def _driver(arm: RigArm) -> Generator[_Driver]:
    with ExitStack() as stack:
        yield _Driver(arm, stack)


def rows_of(story: Story, seconds: float) -> list[Row]:
    """Return what follows from all that was seen."""
    minutes = math.ceil(seconds / 60)
    noise = f"driven at {story.runs} of {story.looks} looks" if story.looks else "-"
    how = (
        f"{ARMS} emulated arms without cameras are driven at 20 Hz for {seconds / 60:g} minutes on "
        f"one machine; looked at every {LOOK_S:g} s, the first sixth left out as warm-up. "
        f"{HOURS_ASKED} hours were asked: a leak that shows later is not in it."
    )
    return [
        _memory(story, minutes, how, noise),
        _files(story, minutes, how, noise),
        _cycles(story, minutes, how, noise),
    ]


def _memory(story: Story, minutes: int, how: str, noise: str) -> Row:
    grown = [growth(life) for life in story.lives]
    worst = max(grown, key=lambda one: one.mb_h)
    most = max((used for life in story.lives for used in life.rss_mb), default=0.0)
    leaks = [
        str(one) for one in grown if one.mb_h - one.half > GROWTH_MB_H and one.in_all_mb > GRAIN_MB
    ]
    broken = (*leaks, *story.dead)
    is_sure = all(one.mb_h + one.half < GROWTH_MB_H for one in grown)
    return Row(
        id="R8",
        promise=MEMORY,
        asked=f"<{GROWTH_MB_H:g} MB/h",
        measured=f"steepest {worst}; at most {most:.0f} MB",
        trials=minutes,
        # A slope whose interval reaches over the promise needs more than an hour.
        full=MINUTES if is_sure else 60 * HOURS_ASKED,
        broken=len(broken),
        how=f"{how} Slope of the resident memory by least squares, interval of 95 %; trials are "
        "minutes.",
        noise=noise,
        examples=broken[:MOST_EXAMPLES],
    )


def _files(story: Story, minutes: int, how: str, noise: str) -> Row:
    pairs = {life.name: _medians(life.files) for life in story.lives if life.files}
    leaks = [f"{name}: {a:g} to {b:g}" for name, (a, b) in pairs.items() if b > a]
    return Row(
        id="R8",
        promise=FILES,
        asked="as many as at first",
        measured=f"{len(leaks)} of {len(pairs)} processes have more, none over "
        f"{max((b for _, b in pairs.values()), default=0):g}",
        trials=minutes,
        full=MINUTES,
        broken=len(leaks),
        how=f"{how} Medians of the first and last third.",
        noise=noise,
        examples=tuple(leaks[:MOST_EXAMPLES]),
    )


def _cycles(story: Story, minutes: int, how: str, noise: str) -> Row:
    pairs = {life.name: _medians(life.late_s) for life in story.lives if life.late_s}
    if not pairs:
        return not_measured("R8", CYCLES, "-", why="no arm said how late its cycles are")
    name, (first, last) = max(pairs.items(), key=lambda one: one[1][1] - one[1][0])
    later = [
        f"{life.name}: p99 {1e3 * pairs[life.name][0]:.1f} to {1e3 * pairs[life.name][1]:.1f} ms"
        for life in story.lives
        if life.late_s and _is_later(life.late_s)
    ]
    return Row(
        id="R8",
        promise=CYCLES,
        asked=f"p99 ≤{1e3 * LATER_S:g} ms, or half of it, later",
        measured=f"at worst from {1e3 * first:.2f} to {1e3 * last:.2f} ms ({name})",
        trials=minutes,
        full=MINUTES,
        broken=len(later),
        how=f"{how} Medians of the p99 of the lateness within ten seconds; it fails where a rank "
        f"test finds it by chance once in {1 / CHANCE:,.0f} times at most.",
        noise=noise,
        examples=tuple(later[:MOST_EXAMPLES]),
    )


def growth(life: Life) -> Growth:
    """Return how fast a process's memory grows, once it is warm; a slope takes three looks."""
    hours = [at / 3600 for at in _warm(life.at_s)]
    used = _warm(life.rss_mb)
    if len(used) < 3:
        return Growth(life.name, 0.0, math.inf, 0.0)
    if max(used) == min(used):
        # SciPy has no interval for points that are exactly on a flat line.
        return Growth(life.name, 0.0, 0.0, 0.0)
    scipy = cast("Any", stats)
    fit = scipy.linregress(hours, used)
    half = scipy.t.ppf(0.975, len(used) - 2) * fit.stderr
    return Growth(life.name, fit.slope, half, fit.slope * (hours[-1] - hours[0]))


def _warm(values: Sequence[float]) -> Sequence[float]:
    return values[int(WARM_UP * len(values)) :]


def _thirds(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Return the first and the last third, once warm."""
    warm = _warm(values)
    third = max(1, len(warm) // 3)
    return warm[:third], warm[-third:]


def _medians(values: Sequence[float]) -> tuple[float, float]:
    first, last = _thirds(values)
    return median(first), median(last)


def _is_later(late_s: Sequence[float]) -> bool:
    """Return whether the last third is later than the first, by more than is allowed and chance."""
    first, last = _thirds(late_s)
    before, after = median(first), median(last)
    ranks = cast("Any", stats).mannwhitneyu(last, first, alternative="greater")
    return after > max(before + LATER_S, LATER * before) and ranks.pvalue < CHANCE
