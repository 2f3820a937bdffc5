from dataclasses import replace

import numpy as np
import pytest

from envs.arm_env import policy_spec
from envs.twin_env import SAFETY, EeDelta
from rl.prior import prior_episodes
from rl.run_record import BadRun
from robot.limits import SafetyLimits
from tests.rl.prior_runs import POSE, fitting_episode, run_of

SPEC = policy_spec(EeDelta(SafetyLimits.load(SAFETY)))


def read(folder, *, task="lift"):
    return list(prior_episodes([str(folder.path)], root=folder.path.parent, task=task, spec=SPEC))


def refusal(folder, **options):
    with pytest.raises(BadRun) as caught:
        read(folder, **options)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_steps_of_a_run_come_as_its_labels_say(tmp_path):
    good, bad = fitting_episode(1), fitting_episode(2)
    won, lost = read(run_of(tmp_path, good)), read(run_of(tmp_path, bad, success=False))
    assert [step.terminated for step in won[0]] == [False, False, True]
    assert [step.terminated for step in lost[0]] == [False] * 5
    assert [step.reward for step in lost[0]] == [-0.5] * 5
    np.testing.assert_array_equal(lost[0][0].state["joint_pos"], POSE.astype(np.float32))


def test_a_run_is_found_by_its_name_among_the_runs(tmp_path):
    folder = run_of(tmp_path, fitting_episode(1))
    assert len(list(prior_episodes([folder.path.name], root=tmp_path, task="lift", spec=SPEC))) == 1


def test_several_runs_come_one_after_the_other(tmp_path):
    runs = [run_of(tmp_path, fitting_episode(n), success=n == 1) for n in (0, 1)]
    names = [str(run.path) for run in runs]
    found = list(prior_episodes(names, root=tmp_path, task="lift", spec=SPEC))
    assert [episode[-1].terminated for episode in found] == [False, True]


def test_episodes_without_a_label_are_left_out_and_counted(tmp_path, capsys):
    folder = run_of(tmp_path, *map(fitting_episode, range(3)), labelled=2)
    assert len(read(folder)) == 2
    said = capsys.readouterr().out
    assert "6 steps, 2 episodes, 2 successes; 1 without a label are left out" in said


def test_a_damaged_episode_is_left_out(tmp_path):
    folder = run_of(tmp_path, *map(fitting_episode, range(2)))
    path = folder.episodes()[0]
    path.write_bytes(path.read_bytes()[:-100])
    assert len(read(folder)) == 1


def test_a_run_without_labels_says_how_to_label_it(tmp_path):
    folder = run_of(tmp_path, fitting_episode(1), labelled=0)
    assert f"make relabel RUN={folder.path}" in refusal(folder)


def test_a_run_that_never_practised_is_refused(tmp_path):
    assert "has no episodes" in refusal(run_of(tmp_path))


def test_a_run_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(BadRun, match="there is no run folder"):
        next(prior_episodes(["nowhere"], root=tmp_path, task="lift", spec=SPEC))


def test_another_task_is_refused_before_any_episode_is_read(tmp_path):
    right = run_of(tmp_path, fitting_episode(1))
    wrong = run_of(tmp_path, fitting_episode(1), task="push")
    found = prior_episodes(
        [str(right.path), str(wrong.path)], root=tmp_path, task="lift", spec=SPEC
    )
    with pytest.raises(BadRun, match="practised 'push' and this run practises 'lift'"):
        next(found)


def test_one_name_instead_of_a_list_is_refused_with_the_list(tmp_path):
    with pytest.raises(BadRun, match=r"learner\.prior=\[runs/x\]"):
        next(prior_episodes("runs/x", root=tmp_path, task="lift", spec=SPEC))


def test_other_actions_are_refused(tmp_path):
    plain = fitting_episode(1)
    episode = replace(plain, info=replace(plain.info, action_space="joint_delta"))
    said = refusal(run_of(tmp_path, episode))
    assert "its actions are joint_delta of 4 numbers, this run's ee_delta of 4 numbers" in said


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (None, "it has no vector 'place'"),
        (np.zeros((6, 3), np.float32), "its vector 'place' has 3 numbers, this run's 4"),
    ],
)
def test_other_vectors_are_refused(tmp_path, place, said):
    plain = fitting_episode(1)
    state = {name: values for name, values in plain.state.items() if name != "place"}
    state |= {} if place is None else {"place": place}
    assert said in refusal(run_of(tmp_path, replace(plain, state=state)))


@pytest.mark.parametrize("step_s", [0.05, 0.2])
def test_another_rate_is_refused(tmp_path, step_s):
    said = refusal(run_of(tmp_path, fitting_episode(1, step_s=step_s)))
    assert f"practised at {1 / step_s:.1f} steps a second and this run is at 10.0" in said


def test_one_slow_episode_makes_no_other_rate(tmp_path):
    episodes = [fitting_episode(n, step_s=0.3 if n == 1 else 0.1) for n in range(3)]
    assert len(read(run_of(tmp_path, *episodes))) == 3


@pytest.mark.parametrize("units", [np.pi / 180, 1 / 90])
def test_joints_in_other_units_are_refused(tmp_path, units):
    folder = run_of(tmp_path, fitting_episode(1, pose=POSE * units))
    assert "its joints are not in degrees" in refusal(folder)


def test_joints_of_another_arm_are_refused(tmp_path):
    plain = fitting_episode(1)
    state = {**plain.state, "jaw": plain.state["jaw"] + np.float32(0.02)}
    assert "its joints are not in degrees" in refusal(run_of(tmp_path, replace(plain, state=state)))


def test_a_long_prior_shows_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rl.prior.LONG", 10)
    folder = run_of(tmp_path, *map(fitting_episode, range(20)), labelled=1)
    read(folder)
    assert f"reading the prior {folder.path}: 10/20 episodes" in capsys.readouterr().out
