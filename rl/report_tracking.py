"""How well the joints of each arm followed their commands in a run's newest episodes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl.curves import Line
from robot.envelope import Series, Tracking, sentences, tracking
from robot.journal import Episode, read_episode
from robot.sealed import Damaged

NEWEST = 10
"""Episodes of each arm that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How one arm followed its commands."""

    arm: str
    episodes: int
    joints: Mapping[str, Tracking]
    warnings: Sequence[str]
    """Sentences that name a joint, and in how many of the episodes it was so."""


def followed(run: Path, lines: Sequence[Line]) -> list[Followed]:
    """Return what the newest episodes of each arm show; lines are of `episodes.jsonl`."""
    by_arm: dict[str, list[Episode]] = defaultdict(list)
    for line in reversed(lines):
        arm = str(line.get("arm"))
        if line.get("steps") and len(by_arm[arm]) < NEWEST:
            by_arm[arm] += _read(run / str(line.get("file")))
    return [_followed(arm, episodes) for arm, episodes in sorted(by_arm.items()) if episodes]


def acted(episode: Episode) -> tuple[Series, Series, Series]:
    """Return commands (T+1, 6), positions (T+1, 6) and stamps (T+1,) of the steps."""
    part = slice(episode.first_step, episode.first_step + episode.steps + 1)
    return episode.joint_target[part], episode.joint_pos[part], episode.stamps[part]


def _followed(arm: str, newest_first: Sequence[Episode]) -> Followed:
    series = [acted(episode) for episode in reversed(newest_first)]
    return Followed(
        arm=arm,
        episodes=len(series),
        joints=tracking(*(np.concatenate(parts) for parts in zip(*series, strict=True))),
        warnings=_warnings([sentences(*each) for each in series]),
    )


def _warnings(said: Sequence[Sequence[str]]) -> list[str]:
    """Return the newest sentence of each joint and how often there was one."""
    newest: dict[str, str] = {}
    count: dict[str, int] = defaultdict(int)
    for sentence in (sentence for episode in said for sentence in episode):
        joint = sentence.split()[0]
        newest[joint] = sentence
        count[joint] += 1
    return [f"{newest[joint]} ({n} of {len(said)} episodes)" for joint, n in count.items()]


def _read(path: Path) -> list[Episode]:
    try:
        return [read_episode(path)]
    except (OSError, Damaged):
        return []
