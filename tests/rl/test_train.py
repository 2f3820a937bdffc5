"""The command line as a person uses it, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rl.run_folder import RunFolder
from rl.train import fit_hard_share, main

ROOT = Path(__file__).parent.parent.parent
SMALL = (
    "task=reach",
    "arms=[arm01,arm02]",
    "learner.hidden=[16]",
    "warmup_steps=40",
    "evaluation_episodes=0",
)

pytestmark = pytest.mark.timeout(280)


def command(*words):
    return [sys.executable, "-m", "rl.train", *words]


def environment():
    return {
        **os.environ,
        "MUJOCO_GL": "egl" if sys.platform == "linux" else "",
        "OMP_NUM_THREADS": "1",
    }


def train(*words):
    return subprocess.run(
        command(*words),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def begin(*words):
    return subprocess.Popen(
        command(*words),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(done, process, limit_s=120.0):
    end = time.monotonic() + limit_s
    while not done():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)


def only_run(runs):
    (path,) = [path for path in runs.iterdir() if path.name[0] != "."]
    return RunFolder(path)


def counted(runs):
    return sum(1 for _ in only_run(runs).lines("episodes.jsonl"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stps=5"], "stps"),
        (["task=fly"], "reach"),
        (["goal=Make tea."], "known forms"),
        (["goal=Lift the red cube.", "task=place"], "task=place but the goal names the task lift"),
        (["goal=Put the red cube in the red bowl."], "one colour"),
        (["steps=many"], "expected a whole number"),
        (["arm.preset=soft"], "known: stiff, compliant"),
        (["arms=[arm01,arm01]"], "different names"),
        (["arm=arm01"], "expected arm=real ARM_ID=arm01 (make run-arm) or arm=real arms=[arm01]"),
        (["arm=real", "arms=[arm99]"], "arm99.yaml: No such file"),
        (["arm=emulated", "arm.actions=dance"], "known: ee_delta"),
        (["judge=nobody"], "unknown judge 'nobody'; known: auto, none"),
        (["judge=heuristic"], "judge=heuristic is the reward itself"),
        (["audit.every=0"], "audit.every=0; expected a whole number from 1 up"),
        (["audit.precision=high"], "audit.precision='high'; expected a number"),
        (["audit.patience_s=-1"], "patience_s=-1; expected a number"),
        (["resume=runs/nothing"], "there is no run folder"),
        (["cluster=cloud"], "ray"),
        (["learner.batch_size=-1"], "batch_size is -1; expected a number above 0"),
        (["learner.discount=high"], "discount is 'high'; expected a number above 0"),
        (["hard_share=2"], "hard_share=2; expected a number from 0 to 1"),
        (["learner=rlpd", "learner.subset=11"], "subset is 11; expected a whole number"),
        (["learner=rlpd", "learner.prior=[20261121_x_1]"], "there is no run folder 20261121_x_1"),
        (["learner=rlpd", "learner.prior=runs/x"], "expected a list: learner.prior=[runs/x]"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["train", f"runs={tmp_path}", *words])
    assert main() == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert said in output.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scene", "put_back", "share"),
    [("person", None, 0.0), ("emulator", None, 0.5), ("emulator", "runs/lift", 0.0)],
)
def test_no_layout_is_repeated_where_a_person_or_the_arm_lays_out(scene, put_back, share, capsys):
    cfg = OmegaConf.create({"hard_share": 0.5, "put_back": put_back, "arm": {"scene": scene}})
    fit_hard_share(cfg)
    assert cfg.hard_share == share
    assert ("hard_share is ignored" in capsys.readouterr().out) == (share == 0.0)


def test_a_wrong_word_given_to_the_program_is_one_line_too(tmp_path):
    done = train(f"runs={tmp_path}", "stps=5")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_two_arms_on_ray_practise_learn_and_report(tmp_path):
    done = train(*SMALL, f"runs={tmp_path}", "steps=800")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    state = json.loads((run.path / "state.json").read_text())
    assert state["env_steps"] >= 800
    assert state["updates"] == int(state["transitions"] / 2) > 0
    assert f"report: {run.path / 'report.html'}" in done.stdout
    arms = {line["arm"] for line in run.lines("episodes.jsonl")}
    assert arms == {"arm01", "arm02"}


def test_a_run_that_was_killed_goes_on_from_where_it_was(tmp_path):
    words = [*SMALL, "cluster=local", f"runs={tmp_path}", "steps=10000"]
    process = begin(*words)
    until(lambda: any(tmp_path.iterdir()) and counted(tmp_path) >= 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run = only_run(tmp_path)
    sealed, known = len(run.episodes()), counted(tmp_path)
    assert sealed >= known >= 4

    process = begin(f"resume={run.path}", f"runs={tmp_path}")
    until(lambda: counted(tmp_path) > known + 2, process)
    second = train(f"resume={run.path}")
    assert second.returncode == 1
    assert "is in use by process" in second.stderr
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert f"resume={run.path.name}" in output
    lines = list(run.lines("episodes.jsonl"))
    assert len({line["file"] for line in lines}) == len(lines)
    steps = [line["env_steps"] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == sum(line["steps"] for line in lines)
    assert json.loads((run.path / "state.json").read_text())["env_steps"] == steps[-1]
