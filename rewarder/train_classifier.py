"""Train a classifier: `python -m rewarder.train_classifier data=FOLDER out=FOLDER`.

Words: `data` (labelled moments, see `rewarder.labelled`), `out`, `epochs=12`, `held=0.15` (share of
the scenes that the figures are told of), `seed=0`, `threads=1`.
"""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from rewarder.agreement import area_under_curve
from rewarder.classifier import Facts, Network, encoded, judged, save_classifier
from rewarder.goal import UnknownGoal, parse_goal
from rewarder.labelled import BadSet, Labelled, load_moments, split
from rewarder.statistics import wilson
from robot.vision import Image
from robot.words import UsageError, parse_words

BATCH, RATE, DECAY = 64, 1e-3, 0.02
FEWEST = 40
"""Labelled moments under which nothing is trained."""
FAULTY = 0.04
"""Share of a batch that shows nothing, black or blurred, so that nothing there is a success."""
SHIFT_PX, GAIN, NOISE = 3, (0.8, 1.25), 3.0
"""How far a picture is moved, made brighter and made noisy while it is trained on."""
WORDS = {"data": "", "out": "", "epochs": "12", "held": "0.15", "seed": "0", "threads": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to train."""

    epochs: int
    held: float
    seed: int
    threads: int

    def __post_init__(self) -> None:
        if not (1 <= self.epochs <= 1000 and 0.0 < self.held <= 0.5 and 1 <= self.threads <= 64):
            raise UsageError("expected epochs= from 1, held= above 0 to 0.5, threads= from 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a classifier does on moments that it was not trained on."""

    count: int
    right: int
    auc: float
    false_positives: int
    failures: int

    def __str__(self) -> str:
        low, high = wilson(self.right, self.count)
        wrong = f"{self.false_positives} of {self.failures} failures taken for a success"
        return (
            f"{self.count} held-out moments: accuracy {self.right / self.count:.3f} "
            f"({low:.3f}-{high:.3f}), AUC {self.auc:.3f}, {wrong}"
        )


def train(moments: Labelled, plan: Plan) -> tuple[Network, Result]:
    """Return a network trained on most scenes of a set and what it does on the others."""
    kept, held = split(moments, share=plan.held, seed=plan.seed)
    if len(kept) < FEWEST or kept.success.all() or not kept.success.any():
        raise BadSet(
            f"{int(kept.success.sum())} successes of {len(kept)} moments are not enough to learn "
            f"from; expected {FEWEST} moments or more, with successes and failures"
        )
    torch.manual_seed(plan.seed)
    network = Network(*moments.pictures.shape[1:3])
    goals = _encoded(kept)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    steps = plan.epochs * -(-len(kept) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    rng = np.random.default_rng(plan.seed)
    for rows in _watched(_batches(len(kept), plan.epochs, rng), steps):
        loss = _loss(network, *_seen(kept, rows, rng), goals[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    return network, tested(network, held)


def tested(network: Network, moments: Labelled) -> Result:
    """Return how a network does on labelled moments."""
    logit = judged(network, moments.pictures, _encoded(moments))[:, 0]
    said, truth = logit > 0.0, moments.success
    return Result(
        count=len(moments),
        right=int((said == truth).sum()),
        auc=area_under_curve(logit, truth) or 0.0,
        false_positives=int((said & ~truth).sum()),
        failures=int((~truth).sum()),
    )


def _encoded(moments: Labelled) -> Tensor:
    try:
        return encoded([parse_goal(str(goal)) for goal in moments.goals])
    except UnknownGoal as error:
        raise BadSet(f"a classifier learns the known goals only: {error}") from error


def _batches(count: int, epochs: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    for _ in range(epochs):
        order = rng.permutation(count)
        yield from (order[at : at + BATCH] for at in range(0, count, BATCH))


def _loss(network: Network, pictures: Tensor, wanted: Tensor, goals: Tensor) -> Tensor:
    """Return the cross-entropy of success and progress (n, 2), progress as a soft label."""
    return cross_entropy(network(pictures, goals), wanted)


def _seen(
    moments: Labelled, rows: NDArray[np.intp], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return pictures (n, h, w, 3) as a camera might have taken them, and what is wanted (n, 2)."""
    pictures = np.stack([_varied(moments.pictures[row], rng) for row in rows])
    wanted = np.stack([moments.success[rows], moments.progress[rows]], axis=1).astype(np.float32)
    faulty = np.flatnonzero(rng.random(len(rows)) < FAULTY)
    for at in faulty:
        pictures[at] = cv2.GaussianBlur(pictures[at], (0, 0), 4.0) if rng.random() < 0.5 else 0
        wanted[at] = 0.0
    return torch.tensor(pictures), torch.tensor(wanted)


def _varied(picture: Image, rng: np.random.Generator) -> Image:
    down, right = rng.integers(-SHIFT_PX, SHIFT_PX + 1, 2)
    padded = np.pad(picture, [(SHIFT_PX, SHIFT_PX), (SHIFT_PX, SHIFT_PX), (0, 0)], mode="edge")
    height, width = picture.shape[:2]
    top, left = SHIFT_PX + down, SHIFT_PX + right
    moved = padded[top : top + height, left : left + width] * np.float32(rng.uniform(*GAIN))
    noise = rng.standard_normal(picture.shape, np.float32) * np.float32(NOISE * rng.random())
    return np.clip(moved + noise, 0, 255).astype(np.uint8)


def _watched[T](batches: Iterator[T], steps: int) -> Iterator[T]:
    quiet = not sys.stdout.isatty()
    return iter(track(batches, "training", total=steps, transient=True, disable=quiet))


def _plan(words: Mapping[str, str]) -> Plan:
    try:
        return Plan(
            epochs=int(words["epochs"]),
            held=float(words["held"]),
            seed=int(words["seed"]),
            threads=int(words["threads"]),
        )
    except ValueError as error:
        raise UsageError(f"epochs=, held=, seed= and threads= are numbers: {error}") from None


def run(words: Mapping[str, str], write: Callable[[str], object]) -> None:
    """Train as the words say, write the classifier and say how well it does."""
    plan = _plan(words)
    if not words["data"] or not words["out"]:
        raise UsageError("name both folders: make train-classifier DATA=… OUT=…")
    torch.set_num_threads(plan.threads)
    moments = load_moments(Path(words["data"]))
    write(f"{len(moments)} moments, {int(moments.success.sum())} of them successes\n")
    network, result = train(moments, plan)
    height, width = moments.pictures.shape[1:3]
    digest = hashlib.sha256(moments.pictures.tobytes() + moments.success.tobytes()).hexdigest()
    facts = Facts(
        height=height,
        width=width,
        trained_on=digest[:12],
        accuracy=result.right / result.count,
        auc=result.auc,
    )
    save_classifier(Path(words["out"]), network, facts)
    write(f"{result}\n{words['out']}: use it with reward=classifier reward.folder={words['out']}\n")


def main(argv: Sequence[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """Train; return the exit code."""
    try:
        run(parse_words(argv, known=WORDS), write)
    except (UsageError, BadSet) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
