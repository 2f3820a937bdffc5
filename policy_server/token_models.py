"""Policies that say their actions in tokens, and how likely they are to say a given chunk."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's, peft's and torch's own types are partly unknown.

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor

from policy_server.backends.lerobot import LeRobotPolicy
from policy_server.backends.lerobot_checkpoint import ACTION
from policy_server.backends.openvla import ActionRange, OpenVlaPolicy
from policy_server.finetune_openvla import adapted, tokens_of, write_checkpoint
from policy_server.finetune_plan import KINDS, OPENVLA, said_by
from policy_server.load import kind_of
from policy_server.policy import CheckpointError, PolicyRequest, PolicySpec
from robot.words import UsageError

type Chunk = NDArray[np.float32]
"""Rows in the policy's own action space, shape (horizon, action_dim)."""

PI0_FAST = "pi0_fast"
TOKENS, MASK = "action.tokens", "action.token_mask"
"""What LeRobot calls the tokens of a chunk, and which of them are no padding."""


class TokenModel(Protocol):
    """A policy that answers in tokens and can be trained."""

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        ...

    def likelihood(self, requests: Sequence[PolicyRequest], chunks: Sequence[Chunk]) -> Tensor:
        """Return the log-likelihood of each chunk's tokens, shape (batch, tokens).

        Each is given those before it; padding counts 0. Differentiable by what can be trained.
        """
        ...

    def same(self, one: Chunk, other: Chunk) -> bool:
        """Return whether two chunks are the same tokens."""
        ...

    def adapt(self, rank: int) -> Any:  # noqa: ANN401 - peft's
        """Put fresh adapters of a rank on its layers, which alone can be trained; return them."""
        ...

    def write(self, adapters: Any, out: Path) -> None:  # noqa: ANN401 - peft's
        """Merge adapters into the policy and write it as a checkpoint that can be served."""
        ...


def token_model(base: Path) -> TokenModel:
    """Return the policy of a folder; raise `UsageError` for one that answers in no tokens."""
    if kind_of(base) == "openvla":
        return OpenVlaTokens(base)
    kind = said_by(base / "config.json").get("type")
    if kind != PI0_FAST:
        raise UsageError(
            f"base={base} is {kind or 'a learnt policy'}, which says no tokens; give an {OPENVLA} "
            f"or a {PI0_FAST}, or, for a learnt one, make prefer RUN=…"
        )
    return FastTokens(base)


class OpenVlaTokens:
    """An OpenVLA: one row, one token for each of its numbers."""

    def __init__(self, base: Path) -> None:
        """Load a folder; raise `CheckpointError` for one that answers with numbers."""
        # What a policy is asked by is the same here and where it is served.
        self._policy: Any = OpenVlaPolicy.load(base)
        if self._policy._head is not None:
            raise CheckpointError(f"{base} answers with numbers, not in tokens; give another base")
        self._base, self._network = base, self._policy.network
        self._range: ActionRange = self._policy._range

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        return self._policy.spec

    def likelihood(self, requests: Sequence[PolicyRequest], chunks: Sequence[Chunk]) -> Tensor:
        """Return the log-likelihood of each number's token, shape (batch, action_dim)."""
        pixels, prompts = self._policy._inputs(requests)
        wanted = torch.from_numpy(np.stack([self._tokens(chunk) for chunk in chunks]))
        said = [[*p, *t[:-1]] for p, t in zip(prompts, wanted.tolist(), strict=True)]
        embeddings, mask = self._network.join(pixels, said)
        answer = self._network.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=wanted.shape[1],
        )
        return _of(answer.logits, wanted)

    def same(self, one: Chunk, other: Chunk) -> bool:
        """Return whether two rows fall into the same bins."""
        return np.array_equal(self._tokens(one), self._tokens(other))

    def adapt(self, rank: int) -> Any:  # noqa: ANN401 - peft's
        """Put fresh adapters on the projector's and Llama's layers."""
        return adapted(self._network, rank=rank, freeze_vision=True)

    def write(self, adapters: Any, out: Path) -> None:  # noqa: ANN401 - peft's
        """Write the checkpoint with the base's own statistics."""
        facts = said_by(self._base / "dataset_statistics.json")
        write_checkpoint(adapters.merge_and_unload(), self._base, out, facts)

    def _tokens(self, chunk: Chunk) -> NDArray[np.int64]:
        return tokens_of(chunk[0], self._range, self._network.architecture)


class FastTokens:
    """LeRobot's pi0-FAST: a whole chunk as compressed tokens, as many as it takes."""

    def __init__(self, base: Path) -> None:
        """Load a folder."""
        self._served: Any = LeRobotPolicy.load(base)
        self._base, self._policy = base, self._served._policy
        self._policy.eval().requires_grad_(False)

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        return self._served.spec

    def likelihood(self, requests: Sequence[PolicyRequest], chunks: Sequence[Chunk]) -> Tensor:
        """Return the log-likelihood of each token after the first, shape (batch, tokens - 1)."""
        batch = self._batch(requests, chunks)
        logits: list[Tensor] = []
        # LeRobot's own forward pass keeps the mean alone; what its head says is caught on the way.
        head = self._policy.model.paligemma_with_expert.paligemma.lm_head

        def catch(_module: object, _inputs: object, said: Tensor) -> None:
            logits.append(said)

        caught = head.register_forward_hook(catch)
        try:
            self._policy.forward(batch)
        finally:
            caught.remove()
        return _of(logits[0][:, :-1], batch[TOKENS][:, 1:]) * batch[MASK][:, 1:]

    def same(self, one: Chunk, other: Chunk) -> bool:
        """Return whether two chunks are compressed to the same tokens."""
        nowhere = dict.fromkeys(self.spec.state, np.zeros(len(one[0]), np.float32))
        size = self.spec.image_size or (64, 64)
        blank = dict.fromkeys(self.spec.images, np.zeros((*size, 3), np.uint8))
        request = PolicyRequest(state=nowhere, goal="", observed_at=0.0, images=blank)
        first, second = self._batch([request] * 2, [one, other])[TOKENS]
        return torch.equal(first, second)

    def adapt(self, rank: int) -> Any:  # noqa: ANN401 - peft's
        """Put fresh adapters on the language model's layers."""
        layers = KINDS[PI0_FAST].adapted
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
        return get_peft_model(self._policy, config)

    def write(self, adapters: Any, out: Path) -> None:  # noqa: ANN401 - peft's
        """Write the checkpoint with the base's own processors and words."""
        shutil.copytree(self._base, out)
        adapters.merge_and_unload().save_pretrained(out)

    def _batch(self, requests: Sequence[PolicyRequest], chunks: Sequence[Chunk]) -> dict[str, Any]:
        rows = torch.from_numpy(np.stack(chunks).astype(np.float32))
        return self._served._preprocess(self._served._batch(requests) | {ACTION: rows})


def _of(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the log-likelihood of tokens, of their shape, from logits over the vocabulary."""
    said = logits.float().log_softmax(dim=-1)
    return said.gather(-1, wanted.to(said.device)[..., None])[..., 0]
