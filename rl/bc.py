"""Behaviour cloning: a small network learns what was done in recordings, from what was seen."""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors
from torch import Tensor

from policy_server.backends.learned import (
    DESCRIPTION,
    WEIGHTS,
    LearnedPolicy,
    PolicyDamaged,
    describe,
    join,
)
from policy_server.backends.network import LOG_STD, Encoder, Encoding, encoding_of, tensors_of
from policy_server.policy import PolicySpec
from rl.adam import Adam
from rl.bc_checkpoint import Checkpoint
from rl.networks import Networks
from robot.journal import SOURCES, Episode, Source
from robot.revision import git_revision
from robot.sealed import make_folder, seal

NOT_A_CAUSE = ("action", "time_left")
"""What follows from the steps before: a clone that reads it repeats them instead of looking."""
LEAST_STD, SATURATED = 0.05, 0.98
"""Least spread of an action, and where the tanh's inverse is cut off: further out it runs away."""
EXPERTS: Sequence[Source] = ("human", "scripted")
"""Who takes over from a policy and is to be copied (HG-DAgger)."""
REPORTS = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps:
    """What was seen and done in recordings, step by step."""

    states: NDArray[np.float32]
    """The state vectors of a spec, joined, shape (n, size)."""
    actions: NDArray[np.float32]
    """Shape (n, action_dim), each number from -1 to 1."""
    episode: NDArray[np.int64]
    """Which episode each step is of, shape (n,)."""


def steps_of(
    episodes: Iterable[Episode], spec: PolicySpec, *, by: Sequence[Source] = SOURCES
) -> Steps:
    """Return the steps, taken `by` these, of episodes that were kept for policies of this spec."""
    wanted = [SOURCES.index(source) for source in by]
    states: list[NDArray[np.float32]] = []
    actions: list[NDArray[np.float32]] = []
    lengths: list[int] = []
    for episode in episodes:
        chosen = np.flatnonzero(np.isin(episode.source, wanted))
        rows = [
            join({name: values[step] for name, values in episode.state.items()}, spec)
            for step in chosen
        ]
        states += rows
        actions.append(episode.actions[chosen])
        lengths.append(len(rows))
    return Steps(
        states=np.array(states, np.float32),
        actions=np.concatenate(actions),
        episode=np.repeat(np.arange(len(lengths)), lengths),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clone:
    """A network that was taught, and how it did."""

    networks: Networks
    error: float
    """Root mean square of its actions' error on the steps that it learnt from."""
    held_out_error: float | None
    """The same on episodes that it did not see; None where none were held out."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a training goes."""

    update: int
    error: float
    """Root mean square of the actions' error on the last batch."""
    held_out_error: float | None
    learning_rate: float


def clone(  # noqa: PLR0913 - the settings of one training
    steps: Steps,
    spec: PolicySpec,
    *,
    hidden: Sequence[int] = (256, 256),
    updates: int = 10_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    held_out: float = 0.1,
    seed: int = 0,
    report: Callable[[Lesson], object] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Clone:
    """Return a tanh-Gaussian actor, laid out as SAC's, that does what was done.

    Its mean learns by squared error, its spread what error is left. The learning rate falls to 0
    along a cosine. Twenty times on the way `report` is told how it goes. With `checkpoint` it goes
    on from what is kept there, and ends as if it had never stopped.
    """
    draws = np.random.default_rng(seed)
    encoding = encoding_of(spec)
    torch.manual_seed(seed)
    networks = Networks(1, (encoding.size, *hidden, 2 * spec.action_dim))
    kept, aside = _split(steps, held_out, draws)
    optimizer, batches = Adam([networks.flat], learning_rate), Batches(kept, spec, draws)

    def held_out_error() -> float | None:
        return _error(networks, aside, encoding) if len(aside.states) else None

    done = checkpoint.load(networks, optimizer, draws) if checkpoint else 0
    for update in range(done + 1, updates + 1):
        rate = optimizer.param_groups[0]["lr"] = _cosine(learning_rate, update / updates)
        error = descend(networks, optimizer, *batches.draw(batch_size))
        if checkpoint and not update % checkpoint.every:
            checkpoint.save(update, networks, optimizer, draws)
        if report and not update % max(1, updates // REPORTS):
            report(Lesson(update, error, held_out_error(), rate))
    return Clone(
        networks=networks,
        error=_error(networks, kept, encoding),
        held_out_error=held_out_error(),
    )


class Batches:
    """Draws encoded states and their actions, evenly and with replacement."""

    def __init__(self, steps: Steps, spec: PolicySpec, draws: np.random.Generator) -> None:
        """Give the vectors of `NOT_A_CAUSE` of other steps, so that nothing is read in them."""
        self._states, self._actions = steps.states, torch.tensor(steps.actions)
        self._encode, self._draws = Encoder(encoding_of(spec)), draws
        self._mixed = _columns(spec, NOT_A_CAUSE)

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Return inputs, shape (size, inputs), and actions, shape (size, action_dim)."""
        drawn, others = self._draws.integers(len(self._states), size=(2, size))
        states = self._states[drawn]
        states[:, self._mixed] = self._states[others][:, self._mixed]
        return self._encode(torch.from_numpy(states)), self._actions[drawn]


class Copying:
    """Steps of an actor towards what was done in recordings."""

    def __init__(
        self,
        steps: Steps,
        spec: PolicySpec,
        networks: Networks,
        draws: np.random.Generator,
        *,
        batch_size: int = 256,
    ) -> None:
        """Copy `steps`, drawn by `draws`."""
        self._batches, self._networks = Batches(steps, spec, draws), networks
        self._batch_size = batch_size

    def descend(self, optimizer: Adam) -> float:
        """Take one step and return the root mean square of the actor's error."""
        return descend(self._networks, optimizer, *self._batches.draw(self._batch_size))

    def tensors(self) -> Mapping[str, Tensor]:
        """Return nothing: it remembers nothing of the actor that it began with."""
        return {}


def descend(networks: Networks, optimizer: Adam, inputs: Tensor, actions: Tensor) -> float:
    """Take one step of an actor towards actions; return the root mean square of its error."""
    mean, log_std = networks.trained(inputs)[0].chunk(2, dim=1)
    off = mean.tanh() - actions
    squared = (off * off).mean()
    # In the space before the tanh, where the actor draws its noise; the mean stays out of it.
    wanted = actions.clamp(-SATURATED, SATURATED).atanh()
    known = mean.detach().clamp(-math.atanh(SATURATED), math.atanh(SATURATED))
    spread = log_std.clamp(math.log(LEAST_STD), LOG_STD[1])
    likelihood = (0.5 * ((wanted - known) / spread.exp()) ** 2 + spread).mean()
    optimizer.zero_grad()
    (squared + 0.1 * likelihood).backward()
    optimizer.step()
    return math.sqrt(float(squared.detach()))


def write_policy(folder: Path, networks: Networks, spec: PolicySpec, *, updates: int) -> None:
    """Write a clone as `policy.safetensors` and `policy.json`; the latter makes it whole."""
    layers = networks.layers[0]
    weights = save_tensors(tensors_of(layers))
    description = describe(
        spec,
        weights,
        hidden=[len(layer.bias) for layer in layers[:-1]],
        version=updates,
        git_revision=git_revision(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    make_folder(folder)
    seal(folder / WEIGHTS, weights)
    seal(folder / DESCRIPTION, description.encode())


def start_from(folder: Path, networks: Networks, spec: PolicySpec) -> None:
    """Give an actor the weights of a policy's folder; raise `ValueError` where they do not fit."""
    try:
        policy = LearnedPolicy.load(folder)
    except (OSError, PolicyDamaged) as error:
        raise ValueError(
            f"start={folder} is no policy to start from ({error}); "
            "make pretrain POLICY=bc makes one"
        ) from None
    mine, theirs = tensors_of(networks.layers[0]), tensors_of(policy.layers)
    shapes = [{name: tuple(t.shape) for name, t in one.items()} for one in (mine, theirs)]
    if policy.spec != spec or shapes[0] != shapes[1]:
        raise ValueError(
            f"start={folder} reads {policy.spec} by layers of {list(shapes[1].values())}; "
            f"expected {spec} by {list(shapes[0].values())}: pretrain it for this arm"
        )
    for name, tensor in mine.items():
        tensor.copy_(theirs[name])


def _split(steps: Steps, share: float, draws: np.random.Generator) -> tuple[Steps, Steps]:
    """Return the steps to learn from, and those of the episodes that are held out."""
    episodes = np.unique(steps.episode)
    aside = draws.permutation(episodes)[: round(share * len(episodes))]
    held = np.isin(steps.episode, aside)
    return _of(steps, ~held), _of(steps, held)


def _of(steps: Steps, which: NDArray[np.bool_]) -> Steps:
    return Steps(
        states=steps.states[which], actions=steps.actions[which], episode=steps.episode[which]
    )


def _columns(spec: PolicySpec, names: Sequence[str]) -> list[int]:
    """Return where these vectors are among the joined ones."""
    ends = np.cumsum([0, *spec.state.values()]).tolist()
    starts = dict(zip(spec.state, ends, strict=False))
    return [
        column
        for name in names
        if name in starts
        for column in range(starts[name], starts[name] + spec.state[name])
    ]


def _cosine(start: float, progress: float) -> float:
    return 0.5 * start * (1 + math.cos(math.pi * progress)) + 1e-6


@torch.inference_mode()
def _error(networks: Networks, steps: Steps, encoding: Encoding) -> float:
    mean = networks.values(Encoder(encoding)(torch.from_numpy(steps.states)))[0].chunk(2, dim=1)[0]
    return float((mean.tanh() - torch.from_numpy(steps.actions)).square().mean().sqrt())
