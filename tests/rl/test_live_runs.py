import json
import os

import numpy as np
import pytest

from rewarder.reward import Score
from rl.alarm import FROZEN, Alarm
from rl.audit import AUDITS
from rl.label import save_score
from rl.live_runs import LiveRun, newest_run, success
from rl.run_folder import RunFolder
from robot.journal import Journal
from tests.rl.practice import fake_episode


def make_run(runs, *, episodes=6, task="lift"):
    """Make a run of judged episodes; every second one is a success."""
    folder = RunFolder.create(runs, task=task, config="", facts={"goal": "Lift it."})
    journal = Journal(folder.journal("arm01"))
    for number in range(episodes):
        episode = fake_episode(number=number, greedy=number % 2 == 1)
        path = journal.seal(episode)
        seen = len(episode.stamps)
        score = Score(
            success=np.arange(seen) > 4,
            progress=np.linspace(0, 1, seen),
            valid=np.arange(seen) != 2,
            model="fake/1",
        )
        save_score(folder.labels, episode.info.episode, score)
        line = {
            "file": folder.relative(path),
            "env_steps": 5 * (number + 1),
            "transitions": 5,
            "arm": "arm01",
            "return": -3.0,
            "truth": {"success": number % 2 == 1},
            "rewarded_success": True,
        }
        folder.append("episodes.jsonl", line)
    folder.close()
    return folder.path


def test_the_newest_run_is_the_one_whose_episodes_came_last(tmp_path):
    first, second = make_run(tmp_path), make_run(tmp_path)
    os.utime(second / "episodes.jsonl", (1, 1))
    assert newest_run(tmp_path) == first


def test_without_runs_there_is_nothing_to_show(tmp_path):
    assert LiveRun(tmp_path / "none").summary() is None


def test_success_comes_with_its_interval_and_its_judge(tmp_path):
    make_run(tmp_path)
    said = LiveRun(tmp_path).summary()
    assert (said["recent"]["won"], said["recent"]["of"]) == (3, 6)
    assert said["recent"]["lower"] < 0.5 < said["recent"]["upper"]
    assert said["curve"]["judge"] == "ground truth of the twin"
    assert json.loads(json.dumps(said)) == said


def test_without_truth_the_reward_model_is_named_as_the_judge():
    lines = [{"env_steps": n, "transitions": 5, "rewarded_success": True} for n in range(5)]
    said = success(lines)
    assert said["judge"] == "the reward model"
    assert said["rate"] == [1.0, 1.0, 1.0]


def test_what_the_reward_model_could_not_tell_is_missing_not_zero(tmp_path):
    make_run(tmp_path)
    judged = LiveRun(tmp_path).summary()["judged"]
    assert judged["progress"][2] is None
    assert judged["progress"][0] == 0.0
    assert len(judged["progress"]) == len(judged["seconds"]) == len(judged["success"])


def test_a_new_episode_is_seen(tmp_path):
    run, live = make_run(tmp_path), LiveRun(tmp_path)
    live.summary()
    with (run / "episodes.jsonl").open("a") as lines:
        lines.write('{"env_steps": 99}\n{"torn')
    assert live.summary()["steps"] == 99


def test_audits_and_a_freeze_are_seen_at_once(tmp_path):
    run, live = make_run(tmp_path), LiveRun(tmp_path)
    assert live.summary()["audit"] is None
    with (run / AUDITS).open("a") as lines:
        lines.writelines(
            f'{{"number": {n}, "right": {"true" if n else "false"}}}\n' for n in (0, 1)
        )
    said = live.summary()["audit"]
    assert (said["right"], said["of"], said["frozen"]) == (1, 2, None)
    Alarm(run).add(FROZEN, why="the judge confirms none", episodes=2)
    assert live.summary()["audit"]["frozen"] == "the judge confirms none"


@pytest.mark.parametrize("file", ["../../../etc/passwd", "/etc/passwd", "journals/none.npz"])
def test_an_episode_outside_its_run_or_not_there_is_passed_over(tmp_path, file):
    run = make_run(tmp_path, episodes=1)
    with (run / "episodes.jsonl").open("a") as lines:
        lines.write(json.dumps({"file": file, "transitions": 5, "env_steps": 9}) + "\n")
    assert LiveRun(tmp_path).summary()["judged"]["arm"] == "arm01"
