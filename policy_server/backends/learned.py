"""Policies learnt by reinforcement: an actor rebuilt from two files, in plain torch."""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from policy_server.backends.network import (
    LOG_STD,
    Encoder,
    Encoding,
    Layer,
    encoding_of,
    forward,
    layers_of,
)
from policy_server.policy import ActionChunk, PolicyRequest, PolicySpec, spec_of

FORMAT = 1
"""Version of `policy.json`; a policy of another one is refused."""
WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"


class PolicyDamaged(ValueError):
    """The files of a policy do not belong together or are not of this version."""


def describe(
    spec: PolicySpec,
    weights: bytes,
    *,
    hidden: Sequence[int],
    version: int,
    git_revision: str,
    created_at: str,
) -> str:
    """Return the text of `policy.json` for a policy whose `policy.safetensors` is `weights`."""
    facts = {
        "format": FORMAT,
        "version": version,
        "created_at": created_at,
        "git_revision": git_revision,
        "spec": asdict(spec),
        "encoding": asdict(encoding_of(spec)),
        "hidden": list(hidden),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return json.dumps(facts, indent=2) + "\n"


class LearnedPolicy:
    """A learnt actor: one row a chunk, each number from -1 to 1."""

    def __init__(
        self,
        spec: PolicySpec,
        encoding: Encoding,
        layers: Sequence[Layer],
        *,
        version: int = 0,
        seed: int = 0,
        greedy: bool = False,
    ) -> None:
        """Act by the mean if `greedy`, else by samples from a generator of its own."""
        self._spec, self.layers, self._greedy = spec, layers, greedy
        self._encode = Encoder(encoding)
        self._noise = torch.Generator().manual_seed(seed)
        self.version = version
        """Updates that the learner had taken."""

    @classmethod
    def load(cls, folder: Path, *, seed: int = 0, greedy: bool = False) -> Self:
        """Return the policy in a folder; raise `PolicyDamaged` if its files are not whole."""
        try:
            return cls.from_bytes(*_read(folder), seed=seed, greedy=greedy)
        except PolicyDamaged as error:
            raise PolicyDamaged(f"{folder}: {error}") from None

    @classmethod
    def from_bytes(
        cls, description: str, weights: bytes, *, seed: int = 0, greedy: bool = False
    ) -> Self:
        """Return the policy whose two files have these contents."""
        facts = _facts(description, weights)
        try:
            spec = spec_of(facts["spec"])
            encoding = Encoding(
                **{name: tuple(values) for name, values in facts["encoding"].items()}
            )
            sizes = (encoding.size, *facts["hidden"], 2 * spec.action_dim)
            version = int(facts["version"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PolicyDamaged(
                f"{DESCRIPTION} lacks something or holds nonsense: {error!r}"
            ) from None
        try:
            layers = layers_of(load_tensors(weights), sizes)
        except (SafetensorError, ValueError) as error:
            raise PolicyDamaged(f"{WEIGHTS} is of no use: {error}") from None
        return cls(spec, encoding, layers, version=version, seed=seed, greedy=greedy)

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        return self._spec

    @torch.inference_mode()
    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request."""
        if not requests:
            return []
        states = np.stack([join(request.state, self._spec) for request in requests])
        actions: NDArray[np.float32] = np.asarray(self._act(torch.tensor(states)), dtype=np.float32)
        actions.setflags(write=False)
        return [
            ActionChunk(actions=row[None], observed_at=request.observed_at)
            for row, request in zip(actions, requests, strict=True)
        ]

    def _act(self, states: Tensor) -> Tensor:
        mean, log_std = forward(self.layers, self._encode(states)).chunk(2, dim=1)
        if self._greedy:
            return mean.tanh()
        noise = torch.randn(mean.shape, generator=self._noise)
        return torch.addcmul(mean, log_std.clamp(*LOG_STD).exp(), noise).tanh()


def join(state: Mapping[str, NDArray[np.float32]], spec: PolicySpec) -> NDArray[np.float32]:
    """Return a spec's state vectors in one, shape (n,); raise `ValueError` if one does not fit."""
    try:
        vectors = [state[name] for name in spec.state]
    except KeyError as error:
        raise ValueError(
            f"the observation lacks {error}; the policy reads {list(spec.state)}"
        ) from None
    for vector, (name, size) in zip(vectors, spec.state.items(), strict=True):
        if vector.shape != (size,):
            raise ValueError(
                f"the observation's {name} has shape {vector.shape}, expected ({size},)"
            )
    return np.concatenate(vectors, dtype=np.float32)


def _read(folder: Path, *, tries: int = 3) -> tuple[str, bytes]:
    """Return both files, of one snapshot even while the next one is being written."""
    text, weights = (folder / DESCRIPTION).read_text(), (folder / WEIGHTS).read_bytes()
    if tries > 1 and hashlib.sha256(weights).hexdigest() not in text:
        time.sleep(0.05)
        return _read(folder, tries=tries - 1)
    return text, weights


def _facts(description: str, weights: bytes) -> dict[str, Any]:
    try:
        facts: Any = json.loads(description)
    except json.JSONDecodeError as error:
        raise PolicyDamaged(f"{DESCRIPTION} is not JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise PolicyDamaged(
            f"{DESCRIPTION} is not of format {FORMAT}; train again, or use its revision"
        )
    if facts.get("weights_sha256") != hashlib.sha256(weights).hexdigest():
        raise PolicyDamaged(f"{WEIGHTS} does not belong to {DESCRIPTION}; take the snapshot again")
    return cast(dict[str, Any], facts)
