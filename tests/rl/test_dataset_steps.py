"""Recordings become what an arm of ours would have kept, and bad ones are refused."""

import shutil

import numpy as np
import pytest

from envs.actions import EeDelta
from envs.arm_env import policy_spec
from envs.twin_env import SAFETY
from rewarder.heuristic import HeuristicReward
from rl.dataset_steps import CAMERAS, episodes_of, main, open_recordings, write_run
from rl.prior import prior_episodes
from rl.relabel import relabel
from rl.run_folder import EPISODES, RunFolder
from robot.arm_config import ROOT
from robot.camera import decode_jpeg
from robot.journal import SOURCES, Journal, read_episode
from robot.kinematics import tool_position
from robot.limits import SafetyLimits
from robot.tracking import Tracker
from robot.vision import load_cameras
from tests.rl.demonstrations import recorded
from tests.rl.spoilt import SPOILT

ACTIONS = EeDelta(SafetyLimits.load(SAFETY))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("journals") / "lift", "lift", 2)


@pytest.fixture(scope="module")
def episodes(dataset):
    return list(episodes_of(open_recordings(str(dataset))))


def test_an_action_says_how_far_the_recorded_command_went(episodes):
    for episode in episodes:
        for step, action in enumerate(episode.actions):
            last, target = episode.joint_target[step : step + 2]
            if np.abs(action[:3]).max() < 1.0:
                reached = ACTIONS.joint_target(action, last)
                off = tool_position(reached) - tool_position(target)
                assert np.linalg.norm(off) < 0.004


def test_steps_are_ten_a_second_of_what_was_recorded_at_twenty(dataset, episodes):
    paths = Journal(dataset.parent).episodes()
    for episode, original in zip(episodes, map(read_episode, paths), strict=True):
        assert episode.steps == (original.steps - 1) // 2
        assert np.allclose(episode.joint_target[1:], original.joint_target[2::2][: episode.steps])
        assert {SOURCES[index] for index in episode.source} == {"scripted"}


def test_positions_are_those_that_the_tracker_sees_in_the_pictures(dataset, episodes):
    recordings = open_recordings(str(dataset))
    original = read_episode(Journal(dataset.parent).episodes()[0])
    tracker = Tracker(recordings.cameras, recordings.goals[0].layout)
    off: list[float] = []
    for step, seen in enumerate(episodes[0].state["thing"]):
        images = {name: decode_jpeg(taken[2 * step]) for name, taken in original.frames.items()}
        off.append(float(np.linalg.norm(tracker.update(images).thing.pos - seen[:3])))
    # A video's pictures are coarser: on 96 pixels that moves a cube by 2 mm, rarely by 13.
    assert np.median(off) < 0.004
    assert max(off) < 0.02


def test_a_run_folder_of_recordings_is_labelled_and_is_a_prior(dataset, tmp_path):
    folder = RunFolder(write_run(open_recordings(str(dataset)), tmp_path))
    assert [line["reason"][:16] for line in folder.lines(EPISODES)] == ["not labelled yet"] * 2
    reward = HeuristicReward(load_cameras(ROOT / CAMERAS))
    assert relabel(folder, reward).successes_after == 2
    prior = prior_episodes(
        [str(folder.path)], root=tmp_path, task="lift", spec=policy_spec(ACTIONS)
    )
    assert [steps[-1].terminated for steps in prior] == [True, True]


@pytest.mark.parametrize(("spoil", "said"), SPOILT)
def test_recordings_that_do_not_fit_are_refused_in_one_sentence(
    spoil, said, dataset, tmp_path, capsys
):
    root = shutil.copytree(dataset, tmp_path / "copy")
    spoil(root)
    assert main([f"dataset={root}", f"runs={tmp_path / 'runs'}"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [["goal=Dance."], ["cameras=nowhere.yaml"], ["what=1"]])
def test_words_that_mean_nothing_end_with_two(words, dataset, tmp_path, capsys):
    assert main([f"dataset={dataset}", f"runs={tmp_path / 'runs'}", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
