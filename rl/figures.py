"""What a run can say of itself: the figures behind its view, its metrics and its report."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from rl.audit import Audited
from rl.labeller import Labelled
from rl.put_back import LAID_OUT_BY
from rl.run_folder import Counters
from robot.journal import SOURCES

RECENT = 10
"""Success is shown over so many greedy episodes of an arm, the return over twice as many of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How a run stands at one moment."""

    counters: Counters
    steps_total: int
    pending: int
    """Episodes that wait for their label."""
    debt: float
    """Updates that the learner is behind."""
    updates_per_s: float
    steps_per_s: float
    eta_s: float | None
    success: Mapping[str, tuple[int, int]]
    """Successes on ground truth and greedy episodes of each arm, the newest few."""
    mean_return: float | None
    losses: Mapping[str, float]
    seconds: Mapping[str, float]
    """Where the driver's time went, by part."""
    arms: Mapping[str, str]
    """What each arm does."""
    streaming: Mapping[str, float] = field(default_factory=dict[str, float])
    """How rows came from a policy server, where one acts."""
    audited: Audited = field(default_factory=Audited)
    """What the judge confirms of the rewarded successes."""
    troubles: Sequence[str] = ()

    def metrics(self) -> dict[str, float]:
        """Return the figures as named numbers."""
        counters = self.counters
        named = {
            "env_steps": counters.env_steps,
            "updates": counters.updates,
            "wall_s": round(counters.wall_s, 2),
            "actor/episodes": counters.episodes,
            "actor/steps_per_s": self.steps_per_s,
            "reward/pending": self.pending,
            "reward/unlabelled": counters.unlabelled,
            "learner/updates_per_s": self.updates_per_s,
            "learner/debt": self.debt,
            **self.losses,
            **self.streaming,
            **self.audited.metrics(),
            **{f"time/{part}_s": seconds for part, seconds in self.seconds.items()},
        }
        successes, trials = self.total_success
        if trials:
            named["actor/success_rate"] = successes / trials
        if self.mean_return is not None:
            named["actor/return"] = self.mean_return
        return named

    @property
    def total_success(self) -> tuple[int, int]:
        """Return successes and greedy episodes of all arms together."""
        pairs = self.success.values()
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


@dataclass(slots=True)
class Tally:
    """The newest episodes, and where the time went."""

    greedy: dict[str, deque[bool]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=RECENT))
    )
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=2 * RECENT))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    losses: Mapping[str, float] = field(default_factory=dict[str, float])
    streams: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """What episodes by a policy server say of how their rows came."""

    def add(self, labelled: Labelled) -> None:
        """Count one episode whose fate is known."""
        if labelled.transitions:
            self.returns.append(sum(step.reward for step in labelled.transitions))
        info = labelled.episode.info if labelled.episode else None
        if info and info.greedy and info.truth is not None:
            self.greedy[info.arm].append(bool(info.truth["success"]))
        if info and "streaming" in info.config:
            self.streams.append(cast("Mapping[str, float]", info.config["streaming"]))

    @property
    def streaming(self) -> dict[str, float]:
        """Return how the newest episodes' rows came from a policy server."""
        if not self.streams:
            return {}
        steps = sum(stream["steps"] for stream in self.streams)
        return {
            "policy/starved_share": sum(s["starved_steps"] for s in self.streams) / steps,
            "policy/underflows": sum(s["underflows"] for s in self.streams) / len(self.streams),
            "policy/delay_steps": max(s["delay_steps_max"] for s in self.streams),
            "policy/seam_jump": sum(s["seam_jump_mean"] for s in self.streams) / len(self.streams),
        }

    @property
    def success(self) -> dict[str, tuple[int, int]]:
        """Return successes and greedy episodes of each arm."""
        return {arm: (sum(found), len(found)) for arm, found in sorted(self.greedy.items())}

    @property
    def mean_return(self) -> float | None:
        """Return the mean of the newest returns."""
        return sum(self.returns) / len(self.returns) if self.returns else None


def episode_line(labelled: Labelled, counters: Counters) -> dict[str, object]:
    """Return what a run says of an episode beside the journal: one JSON line."""
    episode, transitions = labelled.episode, labelled.transitions
    line: dict[str, object] = {
        "env_steps": counters.env_steps,
        "wall_s": round(counters.wall_s, 2),
        "transitions": len(transitions),
        "reason": labelled.reason,
    }
    if episode is None:
        return line
    info = episode.info
    return {
        **line,
        "episode": info.episode,
        "arm": info.arm,
        "seed": info.seed,
        "steps": episode.steps,
        "return": round(sum(step.reward for step in transitions), 4) if transitions else None,
        "rewarded_success": bool(transitions and transitions[-1].terminated),
        "truth": info.truth,
        "greedy": info.greedy,
        "source": SOURCES[episode.source[0]] if episode.steps else None,
        "policy": info.policy,
        "end": info.end,
        LAID_OUT_BY: info.config.get(LAID_OUT_BY),
        "guard_events": sum(len(events) for events in episode.guard_events),
    }
