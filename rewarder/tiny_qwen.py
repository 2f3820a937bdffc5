"""Tiny Qwen-VL checkpoints of the real classes, in the layout of the real ones, untrained.

`python -m rewarder.tiny_qwen out=FOLDER kind=qwen3_vl` writes what `AutoModelForImageTextToText`
and `AutoProcessor` load. They are for tests, and where `make train-embedded-vlm` begins.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# The types of torch, tokenizers and transformers are partly unknown.

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from rewarder.goal import FORMS
from rewarder.prompts import LETTER, TRUE, YES_NO
from robot.scene import COLOURS
from robot.words import UsageError, parse_words

PATCH, MERGE = 12, 2
WIDTH, HEADS, TEXT_LAYERS, VISION_LAYERS = 96, 3, 3, 4
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5]}
"""Sections of the rotary embedding over time, height and width; they sum to half of a head."""
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = ("qwen3_vl", "qwen2_5_vl")


def tokenizer(sentences: Iterable[str]) -> Qwen2Tokenizer:
    """Return a byte-level tokenizer that has learnt the words of the sentences."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    learner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    learner.train_from_iterator(sentences, trainer)
    learnt: dict[str, Any] = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learnt["merges"]]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=merges,
        additional_special_tokens=list(SPECIAL[1:]),
        padding_side="left",
    )


def sentences() -> list[str]:
    """Return what the shipped model is asked: every prompt and goal."""
    goals = [
        form.format(thing=thing, place=place)
        for form in FORMS.values()
        for thing in COLOURS
        for place in COLOURS
    ]
    asked = [prompt.text.format(goal=goal) for prompt in (YES_NO, LETTER, TRUE) for goal in goals]
    answers = [word for prompt in (YES_NO, LETTER, TRUE) for way in prompt.answers for word in way]
    return [*asked, *(20 * answers), "user assistant system"]


def make_tiny(folder: Path, *, kind: str = "qwen3_vl", seed: int = 0) -> Path:
    """Write an untrained checkpoint with processor and tokenizer; return its folder.

    Raise ValueError for a kind that is not one of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    torch.manual_seed(seed)
    words = tokenizer(sentences())
    _model(kind, words).save_pretrained(folder)
    _processor(kind, words).save_pretrained(folder)
    return folder


def _model(kind: str, words: Qwen2Tokenizer) -> PreTrainedModel:
    # At 0.02, the default of the large ones, a narrow model stays at the base rate for long.
    shared = {"initializer_range": 0.1}
    vision: dict[str, Any] = shared | {
        "depth": VISION_LAYERS,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": HEADS,
        "out_hidden_size": WIDTH,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
    }
    text: dict[str, Any] = shared | {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": ROPE,
        "tie_word_embeddings": True,
    }
    names = ("vision_start", "vision_end", "image", "video")
    tokens = {
        f"{name}_token_id": words.convert_tokens_to_ids(token)
        for name, token in zip(names, SPECIAL[3:], strict=True)
    }
    parts: dict[str, Any] = tokens | {
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": True,
    }
    if kind == "qwen3_vl":
        vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [VISION_LAYERS // 2]}
        return Qwen3VLForConditionalGeneration(Qwen3VLConfig(**parts))
    vision |= {"window_size": 4 * PATCH * MERGE, "fullatt_block_indexes": [VISION_LAYERS - 1]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**parts))


def _processor(kind: str, words: Qwen2Tokenizer) -> ProcessorMixin:
    sizes: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "size": {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 256 * 512},
    }
    mean: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    pictures = Qwen2VLImageProcessor(**sizes, **mean)
    if kind == "qwen3_vl":
        clips = Qwen3VLVideoProcessor(**sizes, **mean)
        return Qwen3VLProcessor(pictures, words, clips, chat_template=TEMPLATE)
    clips = Qwen2VLVideoProcessor(**sizes, **mean)
    return Qwen2_5_VLProcessor(pictures, words, clips, chat_template=TEMPLATE)


def main(words: Sequence[str]) -> int:
    """Write a checkpoint; return the exit code."""
    try:
        given = parse_words(words, known={"out": "tiny_qwen", "kind": "qwen3_vl", "seed": "0"})
        folder = make_tiny(Path(given["out"]), kind=given["kind"], seed=int(given["seed"]))
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{folder}: an untrained {given['kind']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
