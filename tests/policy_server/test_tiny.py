import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from transformers import AutoProcessor

from policy_server.tiny import CAMERAS, main, make, statistics
from policy_server.tiny_parts import CHUNK, movement


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("act", tmp_path_factory.mktemp("tiny") / "act")


def test_a_checkpoint_says_that_its_weights_are_random(act: Path):
    assert "Random weights" in (act / "README.md").read_text()


def test_a_checkpoint_is_one_of_lerobots_for_six_joints_and_two_cameras(act: Path):
    config = PreTrainedConfig.from_pretrained(act)
    assert (config.type, tuple(config.action_feature.shape)) == ("act", (6,))
    assert set(config.image_features) == {f"observation.images.{name}" for name in CAMERAS}


def test_the_same_seed_makes_the_same_weights(act: Path, tmp_path: Path):
    again = make("act", tmp_path / "again")
    weights = "model.safetensors"
    assert (again / weights).read_bytes() == (act / weights).read_bytes()


def test_making_a_checkpoint_leaves_the_random_numbers_of_others_alone(tmp_path: Path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    make("act", tmp_path / "act")
    assert torch.equal(torch.rand(1), expected)


def test_statistics_have_what_every_way_to_normalise_reads():
    for name in ("action", "observation.state"):
        assert {"mean", "std", "min", "max", "q01", "q99"} <= set(statistics()[name])


def test_the_action_tokenizer_gives_a_movement_back(tmp_path: Path):
    folder = make("pi0_fast", tmp_path / "pi0_fast") / "actions"
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    rows = movement(0.7, -0.3)
    (words,) = processor(torch.tensor(rows)[None])
    coefficients = np.array([ord(one) for one in processor.bpe_tokenizer.decode(words)])
    assert len(words) < coefficients.size == CHUNK * 6
    coefficients = (coefficients + processor.min_token).reshape(CHUNK, 6) / processor.scale
    assert np.abs(np.linalg.norm(coefficients) - np.linalg.norm(rows)) < 0.2


def test_the_command_line_makes_a_checkpoint(tmp_path: Path):
    said: list[str] = []
    assert main(["kind=act", f"out={tmp_path / 'made'}", "seed=1"], said.append) == 0
    assert json.loads((tmp_path / "made" / "config.json").read_text())["type"] == "act"
    assert "random weights" in said[0]


def test_an_unknown_kind_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["kind=gpt", f"out={tmp_path}"]) == 2
    assert "known kinds: act" in capsys.readouterr().err
