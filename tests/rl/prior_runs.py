"""Run folders whose episodes fit the policy of a real run, without anybody having practised."""

from dataclasses import replace

import numpy as np

from envs.arm_env import START_POSE, STEP_S
from envs.state import sizes
from rewarder.reward import Score
from rl.label import save_score
from rl.run_folder import RunFolder
from robot.journal import Episode, Journal
from robot.kinematics import jaw_centre
from tests.rl.practice import fake_episode

POSE = np.array([*START_POSE, 45.0])


def fitting_episode(number: int, *, pose=POSE, step_s=STEP_S) -> Episode:
    """Return an episode of five steps at a pose, with the vectors that a policy here reads."""
    plain = fake_episode(number=number)
    moments, seen = plain.steps + 1, len(plain.stamps)
    state = {name: np.zeros((moments, size), np.float32) for name, size in sizes(4).items()}
    state["joint_pos"] += pose.astype(np.float32)
    state["jaw"] += jaw_centre(pose).astype(np.float32)
    return replace(
        plain,
        joint_pos=np.tile(pose, (seen, 1)),
        joint_target=np.tile(pose, (seen, 1)),
        stamps=step_s * np.arange(seen, dtype=np.float64),
        state=state,
    )


def score_of(episode: Episode, *, success: bool) -> Score:
    seen = len(episode.stamps)
    return Score(
        success=np.full(seen, success),
        progress=np.full(seen, 0.5),
        valid=np.ones(seen, bool),
        model="fake",
    )


def run_of(root, *episodes, task="lift", labelled=None, success=True) -> RunFolder:
    """Return a run with these episodes, of which the first `labelled` have a label; all if None."""
    folder = RunFolder.create(root, task=task, config="", facts={})
    journal = Journal(folder.journal("arm01"))
    for episode in episodes:
        journal.seal(episode)
    for episode in episodes[:labelled]:
        save_score(folder.labels, episode.info.episode, score_of(episode, success=success))
    folder.close()
    return folder
