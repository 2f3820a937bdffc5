"""Recordings in, a policy out that is served; what cannot be taught is refused."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.scripts import lerobot_train

from policy_server.backends.learned import LearnedPolicy
from policy_server.policy import PolicyRequest
from rl.pretrain import INTERRUPTED, main
from robot.arm_config import ROOT
from robot.recording.hub import POLICY, plan
from tests.rl.demonstrations import recorded
from tests.rl.spoilt import SPOILT, other_camera, other_fps

LONG = {"policy": "bc", "steps": 1000, "batch_size": 16, "save_every": 50}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("journals") / "reach", "reach", 2)


@pytest.fixture(autouse=True)
def own_logging():
    """LeRobot's trainer replaces the handlers of everybody's logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def teach(dataset, out, **words):
    given = {"dataset": dataset, "out": out, "evaluation_episodes": 0, **words}
    return main([f"{name}={value}" for name, value in given.items()])


def test_a_clone_is_written_with_how_it_came_about(dataset, tmp_path):
    out = tmp_path / "clone"
    assert teach(dataset, out, policy="bc", steps=60, batch_size=32, seed=4) == 0
    policy = LearnedPolicy.load(out)
    about = json.loads((out / "pretrain.json").read_text())
    assert (policy.version, policy.spec.action_space) == (60, "ee_delta")
    assert (about["recordings"], about["goal"]) == (2, "Reach for the red cube.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone"]
    assert not list(out.glob("clone.*"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def begun(dataset, out, *, until):
    """Teach in a process of its own, and end that as hard as can be when it says `until`."""
    words = [f"dataset={dataset}", f"out={out}", *(f"{k}={v}" for k, v in LONG.items())]
    with subprocess.Popen(
        [sys.executable, "-m", "rl.pretrain", *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as training:
        assert any(until in line for line in training.stdout)
        training.kill()
    assert training.returncode == -signal.SIGKILL


def test_a_killed_training_goes_on_and_acts_as_one_that_never_was(dataset, tmp_path, capsys):
    begun(dataset, tmp_path / "killed", until="100/1000 updates")
    assert not (tmp_path / "killed").exists()
    assert teach(dataset, tmp_path / "killed", **LONG) == 2
    assert "resume=1 goes on" in capsys.readouterr().err
    assert teach(dataset, tmp_path / "killed", **{**LONG, "seed": 5}, resume=1) == 1
    assert "begun with seed=0 and not 5" in capsys.readouterr().err
    assert teach(dataset, tmp_path / "killed", **LONG, resume=1) == 0
    assert "\n100/1000" not in capsys.readouterr().out
    assert teach(dataset, tmp_path / "whole", **LONG) == 0
    assert action(tmp_path / "killed").tolist() == action(tmp_path / "whole").tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def action(folder):
    policy = LearnedPolicy.load(folder, greedy=True)
    state = {name: np.full(size, 0.1, np.float32) for name, size in policy.spec.state.items()}
    [chunk] = policy.infer_batch([PolicyRequest(state=state, goal="", observed_at=0.0)])
    return chunk.actions


def test_a_small_act_sees_changed_pictures_looks_last_and_goes_on_after_a_cut(
    dataset, tmp_path, monkeypatch
):
    out = tmp_path / "act"
    words = {"policy": "act", "size": "small", "batch_size": 2, "learning_rate": 1e-4}
    words["frozen_share"] = 0.75
    update, calls = lerobot_train.update_policy, []

    def cut(tracker, policy, *args, **options):
        weight = policy.model.backbone.layer4[0].conv1.weight
        before, looks = weight.detach().clone(), len(calls)
        calls.append(tracker.steps)
        if looks == 2:
            raise KeyboardInterrupt
        result = update(tracker, policy, *args, **options)
        seeing[tracker.steps + 1] = not torch.equal(weight, before)
        return result

    seeing: dict[int, bool] = {}

    monkeypatch.setattr(lerobot_train, "update_policy", cut)
    assert teach(dataset, out, steps=4, save_every=2, **words) == INTERRUPTED
    assert not out.exists()
    assert teach(dataset, out, steps=4, save_every=2, resume=1, **words) == 0
    assert calls == [0, 1, 2, 2, 3]
    assert seeing == {1: False, 2: False, 3: False, 4: True}
    said = json.loads((out / "config.json").read_text())
    told = json.loads((out / "train_config.json").read_text())
    assert (said["dim_model"], said["chunk_size"], said["optimizer_lr"]) == (128, 20, 1e-4)
    assert told["dataset"]["image_transforms"]["enable"] is True
    steps = [line["pretrain/step"] for line in lines(out / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    assert json.loads((out / "pretrain.json").read_text())["policy"] == "act"
    assert [path.name for path in tmp_path.iterdir()] == ["act"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"policy": "pi0"}, "expected act, diffusion or bc"),
        ({"policy": "bc", "dataset": "nowhere"}, "no dataset"),
        ({"policy": "bc", "size": "small"}, "size= is not for policy=bc"),
        ({"policy": "act", "episodes": "3"}, "episodes= is not for policy=act"),
        ({"policy": "bc", "steps": "many"}, "steps='many'"),
        ({"policy": "bc", "learning_rate": "0"}, "learning_rate='0'"),
        ({"policy": "act", "augment": "2"}, "augment= is 1 or 0"),
        ({"policy": "act", "frozen_share": "1"}, "frozen_share='1'"),
        ({"policy": "bc", "frozen_share": "0.5"}, "frozen_share= is not for policy=bc"),
        ({"policy": "bc", "goal": "Dance."}, "not understood"),
        ({"policy": "act", "resume": "1"}, "nothing to go on with"),
        ({"policy": "bc", "resume": "1"}, "nothing to go on with"),
        ({"policy": "bc", "save_every": "0"}, "save_every='0'"),
        ({"policy": "bc", "out": ""}, "where to"),
    ],
)
def test_what_cannot_be_taught_is_refused_in_one_sentence(words, said, dataset, tmp_path, capsys):
    assert teach(**{"dataset": dataset, "out": tmp_path / "out", **words}) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir())


TO_LEROBOT = [(spoil, said) for spoil, said in SPOILT if spoil not in (other_camera, other_fps)]
"""Its policies look through whatever cameras there are, and are served at any rate."""


@pytest.mark.parametrize(
    ("policy", "spoil", "said"),
    [*(("bc", *one) for one in SPOILT), *(("act", *one) for one in TO_LEROBOT)],
)
def test_recordings_that_do_not_fit_are_refused_and_nothing_is_written(
    policy, spoil, said, dataset, tmp_path, capsys
):
    root = shutil.copytree(dataset, tmp_path / "copy")
    spoil(root)
    assert teach(root, tmp_path / "out", policy=policy) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_recordings_of_another_rate_make_a_policy_that_is_served_at_it(tmp_path, capsys):
    root = recorded(tmp_path / "journal", "reach", 1, fps=10)
    words = {"policy": "act", "size": "small", "steps": 1, "batch_size": 1}
    assert teach(root, tmp_path / "act", **words) == 0
    assert f"POLICY={tmp_path / 'act'} hz=10\n" in capsys.readouterr().out


def test_a_folder_that_is_there_already_is_left_alone(dataset, tmp_path, capsys):
    assert teach(dataset, tmp_path, policy="bc") == 2
    assert "is there already" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_clone_is_tried_on_fresh_layouts_and_how_it_went_is_drawn(dataset, tmp_path):
    out = tmp_path / "clone"
    assert teach(dataset, out, policy="bc", steps=20, batch_size=8, evaluation_episodes=1) == 0
    result = json.loads((out / "results.json").read_text())
    assert (result["episodes"], result["first_seed"], result["task"]) == (1, 1_000_000, "reach")
    assert Path(out / "results.jsonl").read_text().count("\n") == 1
    first, *_, tried = lines(out / "metrics.jsonl")
    assert {"pretrain/step", "pretrain/error", "pretrain/learning_rate"} <= first.keys()
    assert (tried["pretrain/step"], tried["pretrain/success"]) == (20, result["success_rate"])
    assert list((out / "tensorboard").iterdir())
    card = (out / "README.md").read_text()
    assert card.startswith("---\npipeline_tag: robotics\n")
    assert f"Reach for the red cube. {result['successes']} of 1 succeeded" in card
    assert "| dataset | reach |" in card
    assert str(tmp_path) not in card
    assert plan(out, POLICY).objections == []
