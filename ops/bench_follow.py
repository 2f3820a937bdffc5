"""What Real-Time Chunking does where the target moves: `python -m ops.bench_follow`.

A cube slides along the simulated table, and the scripted expert for reach, served over the real
wire, is to keep the tool over it. The twin's time stands still while an answer is on its way, and
an added delay passes in its steps, so that a run gives the same figures on any machine. Judged on
ground truth: within 20 mm of the point over the cube for two seconds on end, of four.
`python -m ops.bench_follow speeds=0.02,0.04 delays=0,100,200 episodes=20 json=docs/follow.json`.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from envs.arm_env import ArmEnv
from envs.tasks.reach import target
from envs.tasks.task import distance
from envs.twin_env import make_twin_env
from ops.bench_rtc import HZ, Row, expert, table
from policy_server.client import RemotePolicy
from policy_server.policy import begin_episode
from rewarder.goal import task_goal
from rl.rollout import decide
from rl.statistics import wilson
from robot.revision import git_revision
from robot.words import UsageError, parse_words

KNOWN = {
    **{"speeds": "0.04", "delays": "0,100,200", "rtc": "1,0"},
    **{"episodes": "20", "seed": "0", "json": ""},
}
KEPT_S = 2.0
"""A tool that stands still is near a cube that passes for up to 40 mm of its way."""
ARRIVED_S = 2.0
"""From here on the distance counts: the cube is caught up with, or will not be."""
THRESHOLD = 0.9
TITLE = "the scripted expert, served: over a cube that slides, at 20 Hz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How one episode went."""

    distances: Sequence[float]
    """From the point over the cube after each step, metres."""
    streaming: dict[str, float]

    @property
    def success(self) -> bool:
        """Return whether the tool kept near enough for long enough."""
        near, longest = 0, 0
        for apart in self.distances:
            near = near + 1 if apart <= 0.02 else 0
            longest = max(longest, near)
        # So many steps on end lie between one moment more.
        return longest > KEPT_S * HZ

    @property
    def late_mm(self) -> float:
        """Return the mean distance once there was time to arrive."""
        return 1e3 * float(np.mean(self.distances[round(ARRIVED_S * HZ) :]))


def follow(env: ArmEnv, policy: RemotePolicy, seed: int) -> Followed:
    """Act for the whole of an episode."""
    begin_episode(policy)
    state, info = env.reset(seed=seed)
    distances, is_late = list[float](), False
    while not is_late:
        state, _, _, is_late, info = env.step(decide(policy, env, state, info))
        truth = env.scene.truth()
        distances.append(distance(truth.tool, target(truth)))
    figures = cast("dict[str, float]", policy.streaming.figures())
    return Followed(distances=distances, streaming=figures)


def row_of(episodes: Sequence[Followed], *, speed: float, rtc: bool, delay_ms: int) -> Row:
    """Return the figures of one condition."""
    successes = sum(one.success for one in episodes)
    streams = [one.streaming for one in episodes]
    lower, upper = wilson(successes, len(episodes))
    steps = sum(stream["steps"] for stream in streams)
    return {
        "speed_m_s": speed,
        "continued": rtc,
        "added_delay_ms": delay_ms,
        "successes": successes,
        "episodes": len(episodes),
        "wilson95": [round(lower, 3), round(upper, 3)],
        "distance_mm": round(float(np.mean([one.late_mm for one in episodes])), 1),
        "delay_steps_max": max(stream["delay_steps_max"] for stream in streams),
        "seam_jump": round(float(np.mean([stream["seam_jump_mean"] for stream in streams])), 4),
        "starved_share": round(sum(stream["starved_steps"] for stream in streams) / steps, 5),
    }


def measured(url: str, *, speed: float, rtc: bool, delay_ms: int, seeds: Sequence[int]) -> Row:
    """Return the figures of one condition on these scenes."""
    env = make_twin_env(task_goal("reach"), hz=HZ, slide=speed)
    policy = RemotePolicy(
        url, env.policy_spec, rtc=rtc, threshold=THRESHOLD, delay_s=delay_ms / 1e3, waits=True
    )
    with closing(env), closing(policy):
        episodes = [follow(env, policy, seed) for seed in seeds]
    return row_of(episodes, speed=speed, rtc=rtc, delay_ms=delay_ms)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all conditions, print and write them; return the exit code."""
    given = sys.argv[1:] if argv is None else argv
    try:
        words = parse_words(given, known=KNOWN)
        speeds = [float(part) for part in words["speeds"].split(",")]
        delays = [int(part) for part in words["delays"].split(",")]
        first, count = int(words["seed"]), int(words["episodes"])
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    continued = [part == "1" for part in words["rtc"].split(",")]
    seeds, rows = range(first, first + count), list[Row]()
    with expert("reach") as url:
        for speed, delay_ms, rtc in product(speeds, delays, continued):
            rows.append(measured(url, speed=speed, rtc=rtc, delay_ms=delay_ms, seeds=seeds))
            _write(words["json"], rows, given)
    Console().print(table(rows, title=TITLE))
    return 0


def _write(path: str, rows: Sequence[Row], given: Sequence[str]) -> None:
    """Write what is known so far, where a file is asked for."""
    if not path:
        return
    facts = {
        "rows": rows,
        "revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "command": " ".join(["python", "-m", "ops.bench_follow", *given]),
    }
    Path(path).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
