"""A recorded episode for tests: small pictures, a random walk, commands a degree ahead of it."""

import numpy as np

from robot.camera import encode_jpeg
from robot.journal import SOURCES, Episode, EpisodeInfo

STEPS, FPS = 12, 10


def make_episode(
    number, *, goal="Lift the green cube.", cameras=("front", "side"), first=0, fps=FPS
):
    count = STEPS + 1 + first
    rng = np.random.default_rng(number)
    pose = np.cumsum(rng.normal(size=(count, 6)), axis=0)
    image = np.full((32, 48, 3), 20 * number + 40, np.uint8)
    return Episode(
        info=EpisodeInfo(
            episode=f"{number:06d}-0a1b2c3d",
            arm="arm01",
            task="teleop",
            goal=goal,
            seed=0,
            end="operator",
            started_at="2026-11-21T10:00:00+00:00",
            action_space="joint_absolute",
            policy="human/leader",
            greedy=True,
            git_revision="0123abcd",
            config={"fps": fps},
        ),
        stamps=5.0 + np.arange(count) / fps,
        joint_pos=pose,
        joint_target=pose + 1.0,
        frames={name: [encode_jpeg(image)] * count for name in cameras},
        first_step=first,
        state={},
        actions=np.zeros((STEPS, 6), np.float32),
        source=np.full(STEPS, SOURCES.index("human"), np.uint8),
        guard_events=[[] for _ in range(STEPS)],
    )
