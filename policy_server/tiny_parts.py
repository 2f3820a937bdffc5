"""Parts of tiny checkpoints by transformers alone: tokenizers, and a backbone to build on."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# Transformers' and torch's own types are partly unknown.

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from scipy.fft import dct
from tokenizers import ByteLevelBPETokenizer, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Split
from transformers import ProcessorMixin

type Tokens = Any
"""One of transformers' tokenizers."""
hf: Any = transformers

TEXT_WORDS, ACTION_WORDS = 512, 320
"""Sizes of the vocabularies of text and of FAST's actions."""
CHUNK = 16
"""Rows of a chunk."""
SPECIAL = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def tokenizer(**special: Any) -> Tokens:  # noqa: ANN401 - transformers' own
    """Return a tokenizer of characters and the word `Action`, with PaliGemma's mark of a space."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "Action", "▁", "\n", *map(chr, range(33, 127))]
    words += [f"<loc{i:04}>" for i in range(TEXT_WORDS - len(words))]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, words[3]))
    core.normalizer = Replace(" ", "▁")
    core.pre_tokenizer = Split(Regex(r"Action|[\s\S]"), behavior="isolated")
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), words, strict=False))
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, **names, **special)


class FastProcessor(ProcessorMixin):
    """FAST (arXiv 2501.09747) with its own vocabulary: rounded DCT coefficients as BPE words."""

    def __init__(self, bpe_tokenizer: Tokens, scale: float = 10.0, min_token: int = -128) -> None:
        """Round to 1 / `scale`; `min_token` is the smallest coefficient that has a character."""
        self.scale, self.min_token = scale, min_token
        super().__init__(bpe_tokenizer)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - as LeRobot calls it
        self, actions: torch.Tensor
    ) -> list[list[int]]:
        """Return the words of chunks, shape (batch, horizon, action_dim)."""
        texts = [_coefficients(chunk, self.scale, self.min_token) for chunk in actions.numpy()]
        words: Tokens = self.bpe_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        return [words.encode(text, add_special_tokens=False) for text in texts]


def _coefficients(chunk: NDArray[np.float32], scale: float, min_token: int) -> str:
    coefficients = np.asarray(dct(chunk, axis=0, norm="ortho"))
    rounded = np.around(coefficients * scale).astype(int) - min_token
    return "".join(map(chr, np.maximum(rounded, 0).ravel()))


def save_fast(folder: Path) -> None:
    """Write an action tokenizer as LeRobot loads it: with code, which names the class above."""
    rng = np.random.default_rng(0)
    chunks = [movement(*rng.uniform(-1, 1, 2)) for _ in range(64)]
    words = ByteLevelBPETokenizer()
    texts = [_coefficients(chunk, 10.0, -128) for chunk in chunks]
    words.train_from_iterator(texts, vocab_size=ACTION_WORDS, min_frequency=2, special_tokens=[])
    core = Tokenizer.from_str(words.to_str())
    FastProcessor(hf.PreTrainedTokenizerFast(tokenizer_object=core)).save_pretrained(folder)
    path = folder / "processor_config.json"
    facts = json.loads(path.read_text())
    facts["auto_map"] = {"AutoProcessor": "processing_tiny.FastProcessor"}
    path.write_text(json.dumps(facts))
    (folder / "processing_tiny.py").write_text(
        "from policy_server.tiny_parts import FastProcessor\n"
    )


def movement(pan: float, lift: float) -> NDArray[np.float32]:
    """Return a smooth movement of two joints in normalised units, shape (CHUNK, 6)."""
    rows = np.zeros((CHUNK, 6), np.float32)
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, CHUNK))
    rows[:, 0], rows[:, 1] = pan * share, lift * share
    return rows


def smolvlm(folder: Path, *, pixels: int) -> None:
    """Write what SmolVLA builds its backbone from: sizes, a tokenizer and a picture processor."""
    words = tokenizer(extra_special_tokens=SPECIAL)
    images = {"size": {"longest_edge": pixels}, "max_image_size": {"longest_edge": pixels}}
    hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(**images), words, hf.SmolVLMVideoProcessor(**images)
    ).save_pretrained(folder)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": pixels, "patch_size": 16}
    text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"head_dim": 16, "vocab_size": len(words), "pad_token_id": 0}
    hf.SmolVLMConfig(
        vision_config=vision,
        text_config=text,
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids(SPECIAL["image_token"]),
    ).save_pretrained(folder)
