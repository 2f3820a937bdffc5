"""pi0-FAST's answers: tokens decoded, and turned into rows only where they are whole."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's and torch's own types are partly unknown.

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TOKENS, MASK = "observation.language.tokens", "observation.language.attention_mask"
PREFIX, END = "Action: ", "|"
UNREADABLE = "\ufffd"
"""What a byte-level tokenizer puts for bytes that are no character; as a coefficient, 65533."""

TEMPERATURE = 0.7
"""Of the answers that are drawn, for best of several; the first one is the likeliest."""


def overrides(config: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401 - fields of one class of LeRobot
    """Return what LeRobot does not keep of the action tokenizer beside a checkpoint."""
    return {
        "action_tokenizer_processor": {
            "action_tokenizer_name": config.action_tokenizer_name,
            "paligemma_tokenizer_name": config.text_tokenizer_name,
            "fast_skip_tokens": config.fast_skip_tokens,
        }
    }


def predict(
    policy: Any,  # noqa: ANN401
    batch: Mapping[str, Any],
    *,
    drawn: Sequence[bool],
) -> tuple[Tensor, list[str]]:
    """Return normalised rows, shape (batch, horizon, action_dim), and why a chunk has none.

    Rows of a chunk that has none are NaN. `drawn` says which are drawn, and not the likeliest.
    """
    config = policy.config
    shape = (config.n_action_steps, config.output_features["action"].shape[0])
    tokens = _tokens(policy, batch, drawn)
    refusals = [trouble(policy, answer.tolist(), shape) for answer in tokens]
    rows = torch.full((len(tokens), *shape), torch.nan)
    for index, why in enumerate(refusals):
        if not why:
            rows[index] = policy.detokenize_actions(tokens[index].cpu(), *shape)
    return rows, refusals


def _tokens(policy: Any, batch: Mapping[str, Any], drawn: Sequence[bool]) -> list[Tensor]:  # noqa: ANN401
    """Return the tokens of each answer of a batch."""
    pictures, seen = policy._preprocess_images(batch)
    found: dict[int, Tensor] = {}
    for temperature, is_drawn in ((0.0, False), (TEMPERATURE, True)):
        which = [index for index, one in enumerate(drawn) if one is is_drawn]
        if which:
            answers = policy.model.sample_actions_fast_kv_cache(
                [picture[which] for picture in pictures],
                [mask[which] for mask in seen],
                batch[TOKENS][which],
                batch[MASK][which],
                max_decoding_steps=policy.config.max_decoding_steps,
                temperature=temperature,
            )
            found |= dict(zip(which, answers, strict=True))
    return [found[index] for index in range(len(drawn))]


def trouble(policy: Any, answer: Sequence[int], shape: tuple[int, int]) -> str:  # noqa: ANN401
    """Return why tokens are no rows of this shape; empty where they are.

    LeRobot answers zeros, the mean of all recordings, for tokens that it cannot read, and fills up
    with zeros what is too short.
    """
    text = policy._paligemma_tokenizer
    end = text.convert_tokens_to_ids(END)
    if end not in answer:
        return f"the answer has no end after {len(answer)} tokens"
    prefix = text.encode(PREFIX, add_special_tokens=False)
    body = list(answer[: answer.index(end)])
    if body[: len(prefix)] != prefix:
        return f"the answer does not begin with {PREFIX!r}: tokens {body[: len(prefix)]}"
    top = text.vocab_size - 1 - policy.config.fast_skip_tokens
    codes = [top - token for token in body[len(prefix) :]]
    words = policy.action_tokenizer.bpe_tokenizer
    wrong = [code for code in codes if not 0 <= code < words.vocab_size]
    if wrong:
        return f"the answer holds {len(wrong)} tokens that are no actions, such as {top - wrong[0]}"
    coefficients = words.decode(codes)
    if UNREADABLE in coefficients:
        return "the answer's words do not add up to characters"
    count = len(coefficients)
    if count != shape[0] * shape[1]:
        return f"the answer holds {count} coefficients, expected {shape[0]} x {shape[1]}"
    return ""
