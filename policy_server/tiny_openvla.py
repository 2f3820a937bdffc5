"""A tiny OpenVLA checkpoint, for tests: `python -m policy_server.tiny kind=openvla out=FOLDER`.

It has the files, classes and code path of a real one and random weights: what it does on an arm
means nothing. `head=oft` adds openvla-oft's head.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Torch's own types are partly unknown.

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers, processors
from tokenizers.models import BPE
from torch import Tensor, nn

from policy_server.backends.openvla_model import (
    HEAD,
    INDEX,
    ActionHead,
    OpenVla,
    architecture_of,
)
from robot.arm import JOINTS

PIXELS = 56
"""Height and width of the pictures."""
HIDDEN = 64
BINS, VOCABULARY, PADDING = 256, 640, 64
MIDDLE = (0.0, -20.0, 30.0, 50.0, 0.0, 40.0)
"""Of the made-up recordings: degrees, and percent for the gripper."""
SPREAD = (70.0, 60.0, 60.0, 55.0, 100.0, 40.0)
"""From their middle to their first and 99th percentile."""
KEY = "tiny_so101"
CARD = """---
tags: [openvla, test]
---
Random weights, made by `policy_server.tiny_openvla` for tests of an SO-101: nothing was learnt.
"""
CONFIG: Mapping[str, Any] = {
    "model_type": "openvla",
    "architectures": ["OpenVLAForActionPrediction"],
    "use_fused_vision_backbone": True,
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_override_act_layers": [None, None],
    "timm_changes": [
        {"embed_dim": 32, "depth": 3, "num_heads": 2},
        {"embed_dim": 48, "depth": 4, "num_heads": 2},
    ],
    "image_sizes": [PIXELS, PIXELS],
    "n_action_bins": BINS,
    "pad_to_multiple_of": PADDING,
    "text_config": {
        "model_type": "llama",
        "vocab_size": VOCABULARY + PADDING,
        "pad_token_id": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
    },
}
PICTURES: Mapping[str, Any] = {
    "image_processor_type": "PrismaticImageProcessor",
    "image_resize_strategy": "resize-naive",
    "input_sizes": [[3, PIXELS, PIXELS]] * 2,
    "interpolations": ["bicubic", "bicubic"],
    "means": [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
    "stds": [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
    "tvf_normalize_params": [
        {"mean": [0.484375, 0.455078125, 0.40625], "std": [0.228515625, 0.2236328125, 0.224609375]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ],
}


def make(out: Path, *, seed: int = 0, head: bool = False) -> Path:
    """Write a checkpoint into the folder `out` and return it."""
    out.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        network, oft = OpenVla(architecture_of(CONFIG)), ActionHead(HIDDEN, len(JOINTS))
    _write_shards(out, _checkpoint_names(_random(network, random)))
    if head:
        weights = {f"model.{name}": tensor for name, tensor in _random(oft, random).items()}
        save_file(weights, out / f"{HEAD}--0_checkpoint.safetensors")
    for name, facts in (("config", CONFIG), ("preprocessor_config", PICTURES)):
        (out / f"{name}.json").write_text(json.dumps(facts, indent=2))
    (out / "dataset_statistics.json").write_text(json.dumps({KEY: {"action": _range()}}))
    tokenizer().save(str(out / "tokenizer.json"))
    (out / "README.md").write_text(CARD)
    return out


def tokenizer() -> Tokenizer:
    """Return one of Llama's kind that knows characters, and bytes for what else there is.

    Its last tokens stand for actions, as in OpenVLA; padding comes after them.
    """
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words += map(chr, range(33, 127))
    words += [f"spare{n}" for n in range(VOCABULARY - len(words))]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = Tokenizer(BPE(vocabulary, [], byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens(["<PAD>"])
    return made


def _random(module: nn.Module, random: torch.Generator) -> dict[str, Tensor]:
    """Return weights that keep numbers at their size, from layer to layer."""
    weights: dict[str, Tensor] = {}
    for name, like in module.state_dict().items():
        noise = torch.randn(like.shape, generator=random)
        if like.ndim > 1:
            weights[name] = noise / like[0].numel() ** 0.5
        else:
            weights[name] = 0.1 * noise + (0.0 if name.endswith("bias") else 1.0)
    if "language_model.lm_head.weight" in weights:
        # Nothing but actions is ever likely, so that random weights answer with one.
        said = weights["language_model.lm_head.weight"]
        said[: VOCABULARY - BINS] = 0.0
        said[VOCABULARY:] = 0.0
    return weights


def _checkpoint_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(".gamma", ".scale_factor"): tensor for name, tensor in weights.items()}


def _write_shards(out: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as two files and the index that says which holds what."""
    place = {
        name: f"model-0000{1 if name.startswith('vision') else 2}-of-00002.safetensors"
        for name in weights
    }
    for file in set(place.values()):
        part = {name: tensor for name, tensor in weights.items() if place[name] == file}
        save_file(part, out / file, metadata={"format": "pt"})
    (out / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": place}, indent=2))


def _range() -> dict[str, list[float] | list[bool]]:
    return {
        "q01": [m - s for m, s in zip(MIDDLE, SPREAD, strict=True)],
        "q99": [m + s for m, s in zip(MIDDLE, SPREAD, strict=True)],
        "mask": [True] * len(MIDDLE),
    }
