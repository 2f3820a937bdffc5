"""One take of a recording: rows and pictures as they came, and the episode that they make."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints
from robot.journal import SOURCES, Episode, EpisodeInfo, Source
from robot.limits import SafetyLimits
from robot.process.camera_feed import Picture
from robot.sealed import MAX_FILE_BYTES

LATE_PERIODS = 1.5
"""A row or picture is late when it is this many periods behind."""
MAX_BYTES = MAX_FILE_BYTES - 2 * 2**20
"""Pictures of one take: a larger file would not be read again."""


class NotSealed(Exception):
    """A take that must not become an episode; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One tick of the control loop: what was sensed, what was wanted, what the guard did."""

    stamp: float
    joint_pos: Joints
    joint_target: Joints
    """The last command when sensed, shape (6,)."""
    wanted: Joints
    """Where the joints were wanted, shape (6,)."""
    source: Source
    events: tuple[str, ...]
    """What the guard changed, `rule:joint`."""


@dataclass(slots=True, kw_only=True, eq=False)
class Take:
    """What a running episode has collected; nothing of it is on disk."""

    period_s: float
    cameras: Sequence[str]
    rows: list[Row] = field(default_factory=list[Row])
    pictures: dict[str, list[Picture]] = field(default_factory=dict[str, list[Picture]])
    size: int = 0
    """Bytes of all pictures."""

    def see(self, pictures: Mapping[str, Picture]) -> None:
        """Keep the pictures that are newer than the newest of their camera."""
        for name, picture in pictures.items():
            kept = self.pictures.setdefault(name, [])
            if not kept or picture.stamp > kept[-1].stamp:
                kept.append(picture)
                self.size += len(picture.jpeg)

    def complete(self) -> bool:
        """Return whether every camera has looked since the last row."""
        last = self.rows[-1].stamp
        seen = self.pictures
        return all(seen.get(name) and seen[name][-1].stamp >= last for name in self.cameras)

    def episode(self, info: EpisodeInfo, limits: SafetyLimits, *, max_late: float) -> Episode:
        """Return the take as an episode, or raise `NotSealed`.

        A row has the newest picture that was taken by then; no more than the share `max_late` of
        rows, or of one camera's pictures, may be late. The last row only ends the last step.
        """
        if len(self.rows) < 2:
            raise NotSealed("it has no step; let it run longer before it is ended")
        stamps = np.array([row.stamp for row in self.rows])
        self._refuse_late_rows(stamps, max_late)
        steps = self.rows[:-1]
        return Episode(
            info=info,
            stamps=stamps,
            joint_pos=np.array([row.joint_pos for row in self.rows]),
            joint_target=np.array([row.joint_target for row in self.rows]),
            frames={name: self._aligned(name, stamps, max_late) for name in self.cameras},
            first_step=0,
            state={},
            actions=as_actions(np.array([row.wanted for row in steps]), limits),
            source=np.array([SOURCES.index(row.source) for row in steps], np.uint8),
            guard_events=[list(row.events) for row in steps],
        )

    def _refuse_late_rows(self, stamps: NDArray[np.float64], max_late: float) -> None:
        share = float(np.mean(np.diff(stamps) > LATE_PERIODS * self.period_s))
        if share > max_late:
            raise NotSealed(
                f"{100 * share:.0f} % of its rows came more than {LATE_PERIODS} periods after the "
                f"one before, at most {100 * max_late:.0f} % may: record at a lower fps"
            )

    def _aligned(self, name: str, stamps: NDArray[np.float64], max_late: float) -> list[bytes]:
        """Return the picture of every row; raise `NotSealed` where too many are old."""
        pictures = self.pictures.get(name, [])
        taken = [picture.stamp for picture in pictures]
        # A picture taken in the very moment of a row belongs to it, whatever the clock rounds.
        indices = [bisect_right(taken, stamp + 1e-6) - 1 for stamp in stamps]
        if not pictures or indices[0] < 0:
            raise NotSealed(f"{name} had no picture when it began: is the camera plugged in?")
        ages = stamps - np.array(taken)[indices]
        share = float(np.mean(ages > LATE_PERIODS * self.period_s))
        if share > max_late:
            raise NotSealed(
                f"{100 * share:.0f} % of the pictures of {name} were more than "
                f"{1000 * LATE_PERIODS * self.period_s:.0f} ms old, at most {100 * max_late:.0f} % "
                "may be: lower fps, or give the camera a USB port of its own"
            )
        return [pictures[index].jpeg for index in indices]


def as_actions(joints: NDArray[np.float64], limits: SafetyLimits) -> NDArray[np.float32]:
    """Return joint values, shape (T, 6), as `joint_absolute` actions from -1 to 1."""
    span = limits.joint_upper - limits.joint_lower
    return np.clip(2 * (joints - limits.joint_lower) / span - 1, -1.0, 1.0).astype(np.float32)
