"""The seam to every policy: observations and an instruction in, action chunks out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """What a policy reads and what its rows mean; both sides compare it before they talk."""

    action_space: str
    """How `envs.actions` reads a row: ee_delta, joint_delta, joint_absolute or joint_pos."""
    action_dim: int
    state: Mapping[str, int]
    """Names of the observation's vectors, in the order they are joined, and their sizes."""
    images: tuple[str, ...] = ()
    """Cameras whose frames it looks at."""
    hz: float = 10.0
    """Rows a second."""
    horizon: int = 1
    """Rows in a chunk."""
    action_names: tuple[str, ...] = ()
    """What each number of a row is, in order; empty where the action space says it all."""
    action_units: tuple[str, ...] = ()
    """Unit of each number of a row: deg, percent, or 1 for shares."""
    image_size: tuple[int, int] | None = None
    """Height and width it wants pictures in, pixels; None where it takes any."""
    blank_images: tuple[str, ...] = ()
    """Cameras of `images` that may be missing."""
    reads_goal: bool = True
    """Whether the instruction matters to it."""
    rtc: tuple[str, ...] = ()
    """How it continues rows that are being carried out: `guided` or `prefix`; empty for not.

    `best_of` says that it answers what fits them best of several chunks, which goes on with them
    more or less.
    """
    robot: str = "so101"
    checkpoint: str = ""
    """First 12 hex digits of the SHA-256 of its weights; empty for a policy without any."""
    normalisation: str = ""
    """The same of its normalisation statistics; empty for a policy without any."""

    @property
    def continues(self) -> bool:
        """Return whether its chunks go on with committed rows as they are."""
        return "guided" in self.rtc or "prefix" in self.rtc


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Committed:
    """Rows of the last chunk that a new one continues: Real-Time Chunking."""

    rows: NDArray[np.float32]
    """Shape (n, action_dim): what is carried out from the observation's step on, in order."""
    delay: int
    """So many of `rows` will have been carried out when the new chunk arrives."""


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
    committed: Committed | None = None
    """What the arm goes on doing meanwhile; None at the start of an episode."""
    draw: int = 0
    """Which answer is wanted of a policy that has several to the same question."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Correction:
    """What was added to a row of another policy's, for those who learn to correct it."""

    action: NDArray[np.float32]
    """Shape (action_dim,), each number from -1 to 1: `clip(base + reach * action)` is done."""
    state: Mapping[str, NDArray[np.float32]]
    """The vectors that were read besides the environment's, by name."""
    base: NDArray[np.float32]
    """The other policy's row, shape (action_dim,)."""
    reach: NDArray[np.float32]
    """The largest correction of each number, shape (action_dim,)."""

    def nearest(self, done: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the correction that comes nearest to what somebody else did, (action_dim,)."""
        return np.clip((done - self.base) / self.reach, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionChunk:
    """Actions for the next `len(actions)` policy ticks."""

    actions: NDArray[np.float32]
    """Shape (horizon, action_dim), in the space that the policy's `PolicySpec` names.

    Row 0 belongs to the observation's own step, also where rows were committed. No rows: the
    policy has no answer, and `refusal` says why.
    """
    observed_at: float
    """Stamp of the observation the chunk was computed from."""
    refusal: str = ""
    correction: Correction | None = None
    """What of the first row is a correction; None where the whole of it is the policy's own."""


class PolicyUnavailable(Exception):
    """A policy that cannot be had here; the message says why, and what would help."""


class CheckpointError(ValueError):
    """A checkpoint that no policy can be made of; the message says what would be of use."""


class PolicyAway(Exception):
    """A policy elsewhere has had nothing to say for so long that the episode ends."""


class Policy(Protocol):
    """Anything that turns observations into action chunks."""

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        ...

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request, in the same order; a request that is wrong fails alone."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A policy that remembers something of an episode."""

    def reset(self) -> None:
        """Forget it: another episode begins."""
        ...

    def about(self) -> Mapping[str, object]:
        """Return what an episode keeps of it."""
        ...


def begin_episode(policy: Policy) -> None:
    """Have a policy forget the episode before, if it remembers any."""
    if isinstance(policy, Remembers):
        policy.reset()


def told(policy: Policy) -> Mapping[str, object]:
    """Return what a policy that remembers has to say of the episode; nothing for others."""
    return policy.about() if isinstance(policy, Remembers) else {}


def no_chunk(request: PolicyRequest, spec: PolicySpec, refusal: str) -> ActionChunk:
    """Return the chunk without rows that says why there is none."""
    rows = np.empty((0, spec.action_dim), np.float32)
    return ActionChunk(actions=rows, observed_at=request.observed_at, refusal=refusal)


def spec_of(facts: Mapping[str, Any]) -> PolicySpec:
    """Return the spec that `dataclasses.asdict` and a wire made lists of.

    Raise `TypeError` or `ValueError` for what is none.
    """
    plain: dict[str, Any] = {
        name: tuple(cast("list[object]", value)) if isinstance(value, list) else value
        for name, value in facts.items()
    }
    return PolicySpec(**plain)
