"""Small stand-ins for a whole run: arms without physics, a reward model without eyes."""

import json
import os
import secrets
import signal
from pathlib import Path

import numpy as np

from rewarder.reward import Clip, NoScore, Score
from rl.fleet import Finished, Snapshot
from robot.journal import Episode, EpisodeInfo, Journal

STEPS = 5


def fake_episode(
    arm="arm01", number=0, *, steps=STEPS, greedy=False, policy="random", goal="Lift it."
):
    info = EpisodeInfo(
        episode=f"{number:06d}-{secrets.token_hex(4)}",
        arm=arm,
        task="lift",
        goal=goal,
        seed=number,
        end="time_limit",
        started_at="2026-11-21T00:00:00+00:00",
        action_space="ee_delta",
        policy=policy,
        greedy=greedy,
        git_revision="0",
        config={},
        truth={"success": greedy},
    )
    seen = steps + 3
    return Episode(
        info=info,
        stamps=np.arange(seen, dtype=np.float64),
        joint_pos=np.zeros((seen, 6)),
        joint_target=np.zeros((seen, 6)),
        frames={"front": [b"jpeg"] * seen},
        first_step=1,
        state={"joint_pos": np.full((steps + 1, 6), number, np.float32)},
        actions=np.zeros((steps, 4), np.float32),
        source=np.zeros(steps, np.uint8),
        guard_events=[[] for _ in range(steps)],
    )


class FakeWorker:
    """Seals an episode at once; the last in a process can be made its end."""

    def __init__(self, folder: Path, arm: str, *, dies_once: Path | None = None) -> None:
        self.arm, self.journal, self.dies_once = arm, Journal(folder), dies_once

    def run_episode(self, snapshot: Snapshot | None) -> Finished:
        number = len(self.journal.episodes())
        if self.dies_once and number == 1 and not self.dies_once.exists():
            self.dies_once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        policy = f"learned/{snapshot.version:06d}" if snapshot else "random"
        episode = fake_episode(self.arm, number, policy=policy, greedy=number % 4 == 3)
        path = self.journal.seal(episode)
        return Finished(arm=self.arm, name=path.name, data=path.read_bytes(), steps=episode.steps)

    def close(self) -> None:
        pass


class FakeReward:
    """Scores every clip alike, unless it is away or refuses."""

    def __init__(self) -> None:
        self.away = False
        self.refuses = False
        self.asked = 0

    def score(self, clip: Clip) -> Score:
        self.asked += 1
        if self.away:
            raise NoScore("the rewarder does not answer", retry=True)
        if self.refuses:
            raise NoScore("the clip is too long")
        size = len(clip)
        return Score(
            success=np.zeros(size, bool),
            progress=np.full(size, 0.5),
            valid=np.ones(size, bool),
            model="fake",
        )


class FakeLearner:
    """Counts, and keeps its count."""

    is_taught = False

    def __init__(self) -> None:
        self.transitions, self.updates = 0, 0

    def add(self, transitions) -> None:
        self.transitions += len(transitions)

    def update(self, steps: int):
        self.updates += steps
        return {"learner/loss": 1.0}

    def snapshot(self, folder: Path) -> None:
        (folder / "policy.json").write_text(json.dumps({"updates": self.updates}))
        (folder / "policy.safetensors").write_bytes(b"weights")

    def save(self, folder: Path) -> None:
        (folder / "learner.json").write_text(json.dumps(self.updates))

    def load(self, folder: Path) -> None:
        self.updates = json.loads((folder / "learner.json").read_text())
