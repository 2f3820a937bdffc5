"""Tiny checkpoints: the real classes, loaded as the real ones are."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rewarder.prompts import LETTER, TRUE, YES_NO
from rewarder.tiny_qwen import KINDS, main, make_tiny

CLASSES = {
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_checkpoint_loads_like_a_large_one(tmp_path, kind):
    folder = make_tiny(tmp_path / kind, kind=kind)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == CLASSES[kind]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6
    assert AutoProcessor.from_pretrained(folder).image_processor.patch_size == 12


def test_every_answer_has_a_spelling_of_one_token(tmp_path):
    words = AutoProcessor.from_pretrained(make_tiny(tmp_path / "tiny")).tokenizer
    for prompt in (YES_NO, LETTER, TRUE):
        for spellings in prompt.answers:
            assert any(len(words.encode(spelling)) == 1 for spelling in spellings), spellings


def test_the_same_seed_makes_the_same_weights(tmp_path):
    first, second = (
        AutoModelForImageTextToText.from_pretrained(make_tiny(tmp_path / name, seed=3)).state_dict()
        for name in ("a", "b")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_unknown_kind_is_refused(tmp_path, capsys):
    assert main([f"out={tmp_path / 'x'}", "kind=llava"]) == 2
    assert "known: qwen3_vl, qwen2_5_vl" in capsys.readouterr().err
