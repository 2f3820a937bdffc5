"""The seam to every policy: observations and an instruction in, action chunks out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """What a policy reads and what its rows mean; both sides compare it before they talk."""

    action_space: str
    """How `envs.actions` reads a row: ee_delta, joint_delta or joint_absolute."""
    action_dim: int
    state: Mapping[str, int]
    """Names of the observation's vectors, in the order they are joined, and their sizes."""
    images: tuple[str, ...] = ()
    """Cameras whose frames it looks at."""
    hz: float = 10.0
    """Rows a second."""
    horizon: int = 1
    """Rows in a chunk."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyRequest:
    """One arm's question: what to do next."""

    state: Mapping[str, NDArray[np.float32]]
    """The environment's observation vectors by name."""
    goal: str
    """The instruction in plain language."""
    observed_at: float
    """Stamp of the observation, seconds of the arm's clock."""
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict[str, NDArray[np.uint8]])
    """RGB by camera, shape (height, width, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionChunk:
    """Actions for the next `len(actions)` policy ticks."""

    actions: NDArray[np.float32]
    """Shape (horizon, action_dim), in the space that the policy's `PolicySpec` names."""
    observed_at: float
    """Stamp of the observation the chunk was computed from."""


class Policy(Protocol):
    """Anything that turns observations into action chunks."""

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        ...

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request, in the same order."""
        ...
