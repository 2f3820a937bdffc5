"""How well joints follow their commands: what stays short, delay, and play."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints

SHORT_S, SHORT_BY = 2.0, 4.0
"""A joint that stands this far from its command, degrees, for so long does not get there."""
PLAY = 2.0
"""Backlash that is worth a sentence, degrees."""
_GRIPPER = JOINTS.index("gripper")  # it stays short of its command whenever it holds something
_CARRIES = ("shoulder_lift", "elbow_flex", "wrist_flex")
_STILL = 0.6  # degrees: more than an encoder's noise
_MOVES = 0.05  # degrees from sample to sample: less says nothing about play
_LEAST_MOVES = 40
_DELAYS = np.linspace(0.0, 0.3, 31)
_PLAYS = np.linspace(0.0, 6.0, 25)

type Series = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """How one joint followed its commands, in its own unit."""

    mean: float
    p95: float
    worst: float
    delay_s: float | None
    """How long it is behind a moving command; None where it hardly moved."""
    play: float | None
    """Backlash from end to end; None where it hardly moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """A joint that stood still and short of its command."""

    joint: str
    began: float
    seconds: float
    commanded: float
    """Its command at the end, degrees."""
    achieved: float

    def __str__(self) -> str:
        """Return a sentence that names the joint and what to look at."""
        cause = "its load or weak gains" if self.joint in _CARRIES else "a loose plug"
        return (
            f"{self.joint} stays {abs(self.commanded - self.achieved):.0f}° short for "
            f"{self.seconds:.0f} s: it stands at {self.achieved:.0f}°, commanded to "
            f"{self.commanded:.0f}°; look for what blocks it, {cause}"
        )


def tracking(commanded: Series, achieved: Series, stamps: Series) -> Mapping[str, Tracking]:
    """Return how each joint followed, for commanded and achieved (T, 6) at stamps (T,)."""
    lag = np.abs(commanded - achieved)
    found: dict[str, Tracking] = {}
    for i, joint in enumerate(JOINTS):
        delay, play = delay_and_play(commanded[:, i], achieved[:, i], stamps)
        found[joint] = Tracking(
            mean=float(lag[:, i].mean()),
            p95=float(np.percentile(lag[:, i], 95)),
            worst=float(lag[:, i].max()),
            delay_s=delay,
            play=play,
        )
    return found


def sentences(commanded: Series, achieved: Series, stamps: Series) -> list[str]:
    """Return what a person should know of how an arm followed, one sentence a joint at most."""
    short = {item.joint: str(item) for item in shortfalls(commanded, achieved, stamps)}
    for i, joint in enumerate(JOINTS[:_GRIPPER]):
        _, play = delay_and_play(commanded[:, i], achieved[:, i], stamps)
        if play is not None and play >= PLAY and joint not in short:
            short[joint] = f"{joint} has {play:.1f}° of play: tighten its horn, or change its gear"
    return list(short.values())


def shortfalls(commanded: Series, achieved: Series, stamps: Series) -> list[Shortfall]:
    """Return where a joint, the gripper apart, stood still and short for `SHORT_S` or longer."""
    return [
        Shortfall(
            joint=JOINTS[i],
            began=float(stamps[first]),
            seconds=float(stamps[last] - stamps[first]),
            commanded=float(commanded[last, i]),
            achieved=float(achieved[last, i]),
        )
        for i in range(_GRIPPER)
        for first, last in _still_and_short(commanded[:, i], achieved[:, i])
        if stamps[last] - stamps[first] >= SHORT_S - 1e-6
    ]


def _still_and_short(commanded: Series, achieved: Series) -> list[tuple[int, int]]:
    """Return first and last index of each stretch that is short to one side without moving."""
    side = np.sign(commanded - achieved) * (np.abs(commanded - achieved) >= SHORT_BY)
    stretches: list[tuple[int, int]] = []
    first: int | None = None
    for now in np.flatnonzero(side).tolist():
        same = first is not None and stretches[-1][1] == now - 1 and side[now] == side[first]
        if same and abs(achieved[now] - achieved[first]) <= _STILL:
            stretches[-1] = (stretches[-1][0], now)
        else:
            first = now
            stretches.append((now, now))
    return stretches


def delay_and_play(
    commanded: Series, achieved: Series, stamps: Series
) -> tuple[float | None, float | None]:
    """Return delay in seconds and backlash of one joint, series (T,); None where it hardly moved.

    Of ideal joints with a delay, backlash, and a constant offset it is the one nearest to this.
    """
    if np.count_nonzero(np.abs(np.diff(commanded)) > _MOVES) < _LEAST_MOVES:
        return None, None
    late = stamps - _DELAYS[:, None]
    due = np.asarray(np.interp(late, stamps, commanded), np.float64)
    distance = achieved - _with_play(due)
    rest = distance[..., stamps >= stamps[0] + _DELAYS[-1]].var(-1)
    delay, play = np.unravel_index(int(rest.argmin()), rest.shape)
    return float(_DELAYS[delay]), float(_PLAYS[play])


def _with_play(due: Series) -> Series:
    """Return where joints with each of `_PLAYS` go, shape (n, plays, T), for goals (n, T)."""
    half = _PLAYS / 2
    here = np.repeat(due[:, :1], len(_PLAYS), axis=1)
    there = np.empty((*here.shape, due.shape[1]))
    for moment, goal in enumerate(due.T[..., None]):
        # A joint rests until its play is used up, then it is pushed along.
        here = np.minimum(np.maximum(here, goal - half), goal + half)
        there[..., moment] = here
    return there


class LiveEnvelope:
    """Looks at the last seconds of a running arm, and says each shortfall once."""

    def __init__(self, *, period_s: float = 0.02, every: int = 25) -> None:
        """Expect a sample each `period_s`; look at the window once in `every` samples."""
        self._samples: deque[tuple[float, Joints, Joints]] = deque(
            maxlen=round((SHORT_S + 0.5) / period_s)
        )
        self._every, self._count = every, 0
        self._said: set[str] = set()

    def update(self, now: float, *, commanded: Joints, achieved: Joints) -> list[str]:
        """Return the sentences of joints that have just been found to stay short."""
        self._samples.append((now, commanded, achieved))
        self._count += 1
        if self._count % self._every:
            return []
        stamps, wanted, seen = (np.array(part) for part in zip(*self._samples, strict=True))
        found = {item.joint: str(item) for item in shortfalls(wanted, seen, stamps)}
        fresh = [text for joint, text in found.items() if joint not in self._said]
        self._said = set(found)
        return fresh
