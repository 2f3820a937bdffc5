"""Tiny checkpoints of LeRobot's policies: `python -m policy_server.tiny kind=act out=FOLDER`.

They are for tests: the files, the shapes and the code path of real ones, and random weights. What
they do on an arm means nothing. `kind=openvla` makes an OpenVLA; `head=oft` adds openvla-oft's
head.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's, transformers' and torch's own types are partly unknown.

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
from lerobot.policies.pi0 import modeling_pi0, processor_pi0
from lerobot.policies.pi0_fast import modeling_pi0_fast
from lerobot.policies.pi05 import modeling_pi05, processor_pi05
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.wall_x import qwen_model
from lerobot.processor import TokenizerProcessorStep
from safetensors.torch import save_file

from policy_server import tiny_openvla
from policy_server.tiny_parts import (
    CHUNK,
    TEXT_WORDS,
    movement,
    save_fast,
    smolvlm,
    tokenizer,
)
from robot.words import UsageError, parse_words

hf: Any = transformers
wall_x: Any = qwen_model

CAMERAS = ("front", "side")
PIXELS = 64
"""Height and width of the pictures."""
PI_PIXELS = 28
"""What pi0 and its kin make of them."""
MIDDLE = (0.0, -20.0, 30.0, 50.0, 0.0, 40.0)
"""Mean of the made-up recordings: degrees, and percent for the gripper."""
SPREAD = (40.0, 35.0, 35.0, 30.0, 60.0, 25.0)
"""Their standard deviation."""
CARD = """---
tags: [lerobot, test]
---
Random weights, made by `policy_server.tiny` for tests of an SO-101: no task was learnt.
"""
BY_HEART = "Two made-up movements were learnt by heart, so that its tokens can be read at all.\n"
type Preprocess = Callable[[dict[str, Any]], dict[str, Any]]
OPENVLA = "openvla"
WORDS = {"kind": "smolvla", "out": "", "seed": "0", "head": ""}
QWEN_SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    *("<|video_pad|>", "<|placeholder|>", "<|propri|>", "<|action|>", "<|action_fast|>"),
]


def make(kind: str, out: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of a kind into the folder `out` and return it."""
    if kind not in _MAKERS:
        raise UsageError(f"no tiny {kind!r}; known kinds: {', '.join([*_MAKERS, OPENVLA])}")
    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with small_pi():
            _write(_MAKERS[kind](out), out)
    (out / "README.md").write_text(CARD + (BY_HEART if kind == "pi0_fast" else ""))
    return out


def statistics() -> dict[str, dict[str, torch.Tensor]]:
    """Return normalisation statistics of made-up recordings, as LeRobot keeps them."""
    middle, spread = torch.tensor(MIDDLE), torch.tensor(SPREAD)
    one = {"mean": middle, "std": spread, "min": middle - 2 * spread, "max": middle + 2 * spread}
    one |= {"q01": middle - 1.8 * spread, "q99": middle + 1.8 * spread}
    picture = {"mean": torch.full((3, 1, 1), 0.45), "std": torch.full((3, 1, 1), 0.25)}
    picture |= {"min": torch.zeros(3, 1, 1), "max": torch.ones(3, 1, 1)}
    pictures = {f"observation.images.{name}": picture for name in CAMERAS}
    return {"action": one, "observation.state": one, **pictures}


def _write(config: PreTrainedConfig, out: Path) -> None:
    policy = get_policy_class(config.type)(config)
    with _local_text(out / "text"):
        processors = make_pre_post_processors(config, dataset_stats=statistics())
    if config.type == "pi0_fast":
        _learn_by_heart(policy, processors[0])
    policy.save_pretrained(out)
    for processor in processors:
        processor.save_pretrained(out)


@contextmanager
def _local_text(folder: Path) -> Generator[None]:
    """Have pi0 and pi0.5 name this tokenizer, where LeRobot's code names PaliGemma's on the hub."""
    with ExitStack() as stack:
        for module in (processor_pi0, processor_pi05):
            step = partial(_text_step, folder.resolve())
            stack.enter_context(patch.object(module, "TokenizerProcessorStep", step))
        yield


def _text_step(folder: Path, **options: Any) -> object:  # noqa: ANN401
    return TokenizerProcessorStep(**(options | {"tokenizer_name": str(folder)}))


def _config(kind: str, **sizes: Any) -> PreTrainedConfig:  # noqa: ANN401 - fields of many classes
    """Return a LeRobot configuration for an SO-101 with two cameras."""
    cameras = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS))
        for name in CAMERAS
    }
    return make_policy_config(
        kind,
        device="cpu",
        push_to_hub=False,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (6,)), **cameras},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        **sizes,
    )


def _act(_out: Path) -> PreTrainedConfig:
    return _config(
        "act",
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        pretrained_backbone_weights=None,
        dim_model=32,
        n_heads=4,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_decoder_layers=1,
        n_vae_encoder_layers=1,
    )


def _smolvla(out: Path) -> PreTrainedConfig:
    backbone = out / "backbone"
    smolvlm(backbone, pixels=PIXELS)
    return _config(
        "smolvla",
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        vlm_model_name=str(backbone.resolve()),
        load_vlm_weights=False,
        num_vlm_layers=2,
        num_steps=5,
        resize_imgs_with_padding=(PIXELS, PIXELS),
    )


def _diffusion(_out: Path) -> PreTrainedConfig:
    return _config(
        "diffusion",
        horizon=CHUNK,
        n_action_steps=CHUNK // 2,
        down_dims=(16, 32),
        kernel_size=3,
        n_groups=4,
        diffusion_step_embed_dim=16,
        spatial_softmax_num_keypoints=4,
        crop_ratio=1.0,
        pretrained_backbone_weights=None,
        use_group_norm=True,
        noise_scheduler_type="DDIM",
        num_inference_steps=4,
    )


def _pi(kind: str) -> Callable[[Path], PreTrainedConfig]:
    def config(out: Path) -> PreTrainedConfig:
        tokenizer().save_pretrained(out / "text")
        return _config(
            kind,
            chunk_size=CHUNK,
            n_action_steps=CHUNK,
            num_inference_steps=5,
            max_state_dim=8,
            max_action_dim=8,
            image_resolution=(PI_PIXELS, PI_PIXELS),
            tokenizer_max_length=80,
        )

    return config


def _pi0_fast(out: Path) -> PreTrainedConfig:
    text, actions = out / "text", out / "actions"
    tokenizer().save_pretrained(text)
    save_fast(actions)
    return _config(
        "pi0_fast",
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        max_state_dim=8,
        max_action_dim=8,
        image_resolution=(PI_PIXELS, PI_PIXELS),
        tokenizer_max_length=80,
        text_tokenizer_name=str(text.resolve()),
        action_tokenizer_name=str(actions.resolve()),
        max_action_tokens=32,
        max_decoding_steps=32,
        fast_skip_tokens=8,
    )


def _learn_by_heart(policy: PreTrainedPolicy, preprocess: Preprocess, *, steps: int = 60) -> None:
    """Have pi0-FAST answer one movement to dark pictures and another to bright ones.

    The tokens of random weights are no movement.
    """
    rng = np.random.default_rng(0)
    weights = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(steps):
        loss, _ = policy.forward(preprocess(_lesson(rng)))
        weights.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        weights.step()


def _lesson(rng: np.random.Generator, *, size: int = 4) -> dict[str, Any]:
    """Return a batch of random observations, and what to do, as LeRobot has recordings."""
    bright = rng.integers(0, 2, size)
    scale, offset = torch.tensor(SPREAD), torch.tensor(MIDDLE)
    movements = np.stack([movement(0.8, -0.4) if one else movement(-0.6, 0.5) for one in bright])
    light = bright[:, None, None, None] * 0.5 + rng.uniform(0, 0.5, (size, 3, PIXELS, PIXELS))
    return {
        "observation.state": offset + scale * torch.tensor(rng.uniform(-1, 1, (size, 6))).float(),
        "task": ["Lift the red cube."] * size,
        "action": torch.tensor(movements) * scale + offset,
        **{f"observation.images.{name}": torch.tensor(light).float() for name in CAMERAS},
    }


@contextmanager
def small_pi() -> Generator[None]:
    """Build pi0, pi0.5 and pi0-FAST as small as their tiny checkpoints while this is open.

    LeRobot has their sizes in its code, so whoever loads such a checkpoint needs this as well.
    """
    with ExitStack() as stack:
        for module in (modeling_pi0, modeling_pi05, modeling_pi0_fast):
            for name, small in _small_parts(module).items():
                stack.enter_context(patch.object(module, name, small))
        yield


def _small_parts(module: Any) -> dict[str, Any]:  # noqa: ANN401 - a module has no type
    gemma = module.GemmaConfig
    parts: dict[str, Any] = {
        # LeRobot's attention counts on eight heads.
        "get_gemma_config": partial(_small_sizes, gemma),
        "PaliGemmaForConditionalGenerationWithPiGemma": partial(
            _small_vlm, module.PaliGemmaForConditionalGenerationWithPiGemma
        ),
    }
    if hasattr(module, "PiGemmaForCausalLM"):
        expert = module.PiGemmaForCausalLM
        parts["PiGemmaForCausalLM"] = partial(_small_expert, expert)
    return parts


def _small_sizes(gemma: Callable[..., Any], _variant: str) -> Any:  # noqa: ANN401
    return gemma(width=64, depth=2, mlp_dim=128, num_heads=8, num_kv_heads=1, head_dim=16)


def _small_vlm(build: Callable[..., Any], config: Any) -> Any:  # noqa: ANN401
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 4, "image_size": PI_PIXELS, "patch_size": 14}
    vision |= {"projection_dim": config.text_config.hidden_size}
    for name, value in vision.items():
        setattr(config.vision_config, name, value)
    _small_text(config.text_config)
    config.image_token_id = TEXT_WORDS - 1
    return build(config=config)


def _small_expert(build: Callable[..., Any], config: Any) -> Any:  # noqa: ANN401
    return build(config=_small_text(config))


def _small_text(config: Any) -> Any:  # noqa: ANN401 - transformers' own
    config.vocab_size = TEXT_WORDS
    return config


def _wall_x(out: Path) -> PreTrainedConfig:
    backbone = out / "backbone"
    _qwen(backbone)
    return _config(
        "wall_x",
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        pretrained_name_or_path=str(backbone.resolve()),
        vision_attn_implementation="sdpa",
    )


def _qwen(folder: Path) -> None:
    """Write what WALL-OSS builds its backbone from; its weights are the checkpoint's own."""
    words = tokenizer(additional_special_tokens=QWEN_SPECIAL)
    images = {"size": {"shortest_edge": 56 * 56, "longest_edge": 256 * 256}}
    hf.Qwen2_5_VLProcessor(
        hf.Qwen2VLImageProcessor(**images), words, hf.Qwen2VLVideoProcessor(**images)
    ).save_pretrained(folder)
    ids = dict(zip(QWEN_SPECIAL, words.convert_tokens_to_ids(QWEN_SPECIAL), strict=True))
    expert = {"hidden_size": 64, "intermediate_size": 128, "hidden_act": "silu"}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(words)}
    text |= {"num_experts": 2, "experts": [expert, expert], "dim_inputs": [64, 64]}
    text |= {"mlp_moe": True, "dof_config": {"arm": 20}}
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    vision |= {"out_hidden_size": 64, "fullatt_block_indexes": [1]}
    wall_x.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        agent_pos_config={"arm": 20},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    ).save_pretrained(folder)
    save_file({}, folder / "model.safetensors")


_MAKERS: Mapping[str, Callable[[Path], PreTrainedConfig]] = {
    "act": _act,
    "smolvla": _smolvla,
    "pi0_fast": _pi0_fast,
    "pi0": _pi("pi0"),
    "pi05": _pi("pi05"),
    "diffusion": _diffusion,
    "wall_x": _wall_x,
}


def _made(words: Mapping[str, str]) -> Path:
    kind, out, seed, head = words["kind"], Path(words["out"]), int(words["seed"]), words["head"]
    if not words["out"] or head not in ("", "oft") or (head and kind != OPENVLA):
        raise UsageError("say where to, out=FOLDER; and perhaps head=oft for kind=openvla")
    if kind == OPENVLA:
        return tiny_openvla.make(out, seed=seed, head=bool(head))
    return make(kind, out, seed=seed)


def main(argv: list[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """Make one checkpoint; return the exit code."""
    try:
        out = _made(parse_words(argv, known=WORDS))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    write(f"{out}: random weights, for tests\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
