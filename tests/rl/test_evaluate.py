import json
import os
import select
import subprocess
import sys
from dataclasses import replace

import pytest

from rl import trial_pool
from rl.evaluate import circumstances, evaluate_run, main, sentence, summary
from rl.run_record import BadRun
from rl.trial import FIRST_SEED, Trial
from rl.trial_pool import Conditions, Contender, play_jobs

ASKED = {
    "task",
    "goal",
    "episodes",
    "successes",
    "success_rate",
    "wilson95",
    "time_to_success_s",
    "gentle_failure_rate",
    "env_steps",
    "updates",
    "wall_s",
    "cpu_s",
    "seed",
    "actors",
    "reward",
    "git_revision",
    "machine",
    "command",
    "preset",
    "judge",
}
FACTS = {
    "version": 1,
    "task": "lift",
    "goal": "Lift the red cube.",
    "preset": "compliant",
    "seed": 3,
    "actors": 4,
    "reward": "heuristic",
    "git_revision": "abc",
}
STATE = {"env_steps": 1000, "updates": 500, "wall_s": 60.0, "cpu_s": 90.0}
WON = Trial(seed=0, success=True, time_s=2.0, end="done", gentle=True, guard_events={"table": 1})
LOST = replace(WON, success=False, time_s=6.0, end="time_limit")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "20261121_lift_1a2b3c4d"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / "state.json").write_text(json.dumps(STATE))
    (folder / "policy").mkdir()
    (folder / "policy" / "policy.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def _short_errors(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


@pytest.fixture
def played(monkeypatch):
    """Play every even seed well and every odd one badly, and remember what was asked for."""
    asked = []

    def play(jobs, conditions):
        for index, (contender, seed) in enumerate(jobs):
            asked.append((contender, seed))
            yield index, replace(LOST if seed % 2 else WON, seed=seed)

    monkeypatch.setattr("rl.evaluate.play", play)
    return asked


def test_a_result_says_all_that_a_table_needs(run, played):
    result = evaluate_run(run, Conditions(episodes=4))
    assert result.keys() >= ASKED
    assert json.loads((run / "results.json").read_text()) == result
    assert (result["successes"], result["env_steps"], result["preset"]) == (2, 1000, "compliant")


def test_the_seeds_are_held_apart_from_training(run, played):
    evaluate_run(run, Conditions(episodes=3))
    assert [seed for _, seed in played] == [FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2]


def test_another_twin_can_be_asked_for(run, played):
    evaluate_run(run, Conditions(episodes=1, preset="stiff"))
    assert played[0][0] == Contender(
        policy=run / "policy", goal="Lift the red cube.", preset="stiff"
    )


def test_other_conditions_are_tried_and_leave_the_plain_result_alone(run, played):
    evaluate_run(run, Conditions(episodes=1))
    plain = (run / "results.json").read_text()
    other = Conditions(episodes=1, variation=0.5, goal="pick up the blue cube")
    result = evaluate_run(run, other)
    contender = played[-1][0]
    assert (contender.goal, contender.variation) == ("Lift the blue cube.", 0.5)
    assert (result["trained_goal"], result["goal"]) == ("Lift the red cube.", contender.goal)
    assert (run / "results.json").read_text() == plain
    kept = run / f"results-{result['evaluation']}.json"
    assert json.loads(kept.read_text())["variation"] == 0.5


def test_a_sentence_of_another_task_is_a_usage_error(run, played):
    with pytest.raises(BadRun, match="is of the task reach") as error:
        evaluate_run(run, Conditions(episodes=1, goal="Reach for the red cube."))
    assert error.value.code == 2
    assert not played


def test_every_trial_is_on_disk_when_the_next_begins(run, monkeypatch):
    def play(jobs, conditions):
        yield 0, WON
        assert len((run / "results.jsonl").read_text().splitlines()) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("rl.evaluate.play", play)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, Conditions(episodes=2))
    assert not (run / "results.json").exists()


def test_a_second_evaluation_leaves_the_trials_of_the_first(run, played):
    evaluate_run(run, Conditions(episodes=2))
    evaluate_run(run, Conditions(episodes=3))
    assert len((run / "results.jsonl").read_text().splitlines()) == 5


def test_time_outs_count_in_the_median_time():
    assert summary([WON, LOST, LOST])["time_to_success_s"] is None
    assert summary([WON, WON, LOST])["time_to_success_s"] == 2.0


def test_a_person_s_verdict_says_nothing_of_the_time():
    assert summary([WON, WON], timed=False)["time_to_success_s"] is None


def test_the_gentle_failure_rate_is_of_the_failures_alone():
    harsh = replace(LOST, gentle=False)
    assert summary([WON, replace(WON, gentle=False), LOST, harsh])["gentle_failure_rate"] == 0.5
    assert summary([WON])["gentle_failure_rate"] is None


def test_guard_events_are_added_up():
    assert summary([WON, LOST, WON])["guard_events"] == {"table": 3}


def test_the_sentence_gives_the_interval(run, played):
    said = sentence(evaluate_run(run, Conditions(episodes=20)))
    assert said == ("Lift the red cube. 10 of 20 succeeded (30-70 %), median time to success 2.0 s")


def test_the_command_can_be_repeated(monkeypatch):
    words = ["/where/ever/python", "-m", "rl.evaluate", "run=runs/a b", "episodes=2"]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert circumstances()["command"] == "python -m rl.evaluate 'run=runs/a b' episodes=2"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("episodes", 0, "episodes=0"),
        ("processes", 0, "processes=0"),
        ("judge", "me", "known: truth"),
        ("variation", 1.5, "variation=1.5"),
    ],
)
def test_conditions_that_make_no_sense_are_usage_errors(name, value, words):
    with pytest.raises(BadRun, match=words) as error:
        Conditions(**{name: value})
    assert error.value.code == 2


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda run: (run / "run.json").unlink(), 1, "has no run.json"),
        (lambda run: (run / "run.json").write_text("{"), 1, "cannot be read"),
        (lambda run: (run / "run.json").write_text('{"version": 9}'), 1, "layout version 9"),
        (lambda run: (run / "state.json").unlink(), 1, "has no state.json"),
        (lambda run: (run / "state.json").write_text("{}"), 1, "does not say its env_steps"),
        (lambda run: run.rename(run.with_name("gone")), 2, "there is no run folder"),
        (lambda run: (run / "policy" / "policy.json").unlink(), 1, "has no policy yet"),
    ],
    ids=["no run.json", "torn", "other version", "no state", "empty state", "missing", "no policy"],
)
def test_a_bad_run_folder_is_one_line(run, monkeypatch, capsys, spoil, code, words):
    spoil(run)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"run={run}", "episodes=2", "processes=1"])
    assert main() == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_an_unknown_setting_is_a_usage_error(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"run={run}", "episods=2"])
    assert main() == 2
    assert "episods" in capsys.readouterr().err


def test_a_process_that_dies_ends_the_trials(monkeypatch):
    monkeypatch.setattr(trial_pool, "_work", _die)
    contender = Contender(policy=None, goal="", preset="stiff")
    with pytest.raises(BadRun, match="exit code 7"):
        list(play_jobs([(contender, 1)], on=[None]))


def _die(todo, done, arm):
    os._exit(7)


WAITING = """
import multiprocessing as mp
from rl.trial_pool import _work

context = mp.get_context("spawn")
worker = context.Process(target=_work, args=(context.Queue(), context.Queue(), None))
worker.start()
print(worker.pid, flush=True)
worker.join()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits by a Linux call")
def test_a_worker_ends_with_whoever_it_works_for():
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([worker], [], [], 60.0)
    os.close(worker)
    assert ended
