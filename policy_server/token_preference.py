"""Direct preference optimisation of a policy that says its actions in tokens.

`python -m policy_server.token_preference base=FOLDER pairs=FILE out=FOLDER`: `base=` is an OpenVLA
or a pi0-FAST, `pairs=` what `write_pairs` wrote, and `out=` is served by `make serve-pi POLICY=…`.
Words: `steps=200`, `batch_size=8`, `lora=8` (rank), `learning_rate=1e-4`, `beta=0.1`, `seed=0`.

A pair is a moment, and two chunks of which one went better. The loss is Rafailov et al.'s (2023,
arXiv 2305.18290): the log-odds of a pair are what the policy has come to favour the better chunk
more than it did, in nats, times `beta`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# Peft's and torch's own types are partly unknown.

import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from policy_server.finetune_plan import positive, whole
from policy_server.policy import CheckpointError, PolicyRequest, PolicySpec, PolicyUnavailable
from policy_server.token_models import Chunk, TokenModel, token_model
from robot.sealed import Damaged, pack, read_limited, seal, unpack
from robot.words import UsageError, parse_words

WORDS = {
    "base": "",
    "pairs": "",
    "out": "",
    "steps": "200",
    "batch_size": "8",
    "lora": "8",
    "learning_rate": "1e-4",
    "beta": "0.1",
    "seed": "0",
}
PLAIN_LINES = 10
"""Lines of progress."""
FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkPair:
    """Two answers to one request, and which of them went better."""

    request: PolicyRequest
    better: Chunk
    worse: Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one gradient step found, before it was taken."""

    loss: float
    margin: float
    """Mean log-odds of the better chunk: `beta` times how much more it is favoured than it was."""
    right: float
    """Share of the pairs whose margin is above 0."""


def train(  # noqa: PLR0913 - the settings of one training
    model: TokenModel,
    pairs: Sequence[ChunkPair],
    out: Path,
    *,
    steps: int = 200,
    batch_size: int = 8,
    rank: int = 8,
    learning_rate: float = 1e-4,
    beta: float = 0.1,
    seed: int = 0,
    report: Callable[[int, Step], object] = lambda _number, _step: None,
) -> list[Step]:
    """Train adapters on pairs and write the checkpoint into the folder `out`; return each step.

    Raise `UsageError` for pairs of no use, `FloatingPointError` where a loss is no number; then
    nothing is written.
    """
    pairs = usable(model, pairs)
    with torch.no_grad():
        before = torch.cat([_favour(model, [pair]) for pair in pairs])
    torch.manual_seed(seed)
    draws = np.random.default_rng(seed)
    adapters = model.adapt(rank)
    weights = [one for one in adapters.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    seen: list[Step] = []
    for number in range(1, steps + 1):
        drawn = draws.choice(len(pairs), min(batch_size, len(pairs)), replace=False)
        margins = beta * (_favour(model, [pairs[i] for i in drawn]) - before[drawn])
        loss = -functional.logsigmoid(margins).mean()
        if not loss.isfinite():
            raise FloatingPointError("the loss is no number any more; lower learning_rate=")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(_step(loss, margins))
        report(number, seen[-1])
    model.write(adapters, out)
    return seen


def usable(model: TokenModel, pairs: Sequence[ChunkPair]) -> list[ChunkPair]:
    """Return the pairs whose chunks differ as tokens; raise `UsageError` where a pair fits not."""
    if not pairs:
        raise UsageError("there are no pairs to learn from")
    for number, pair in enumerate(pairs):
        _refuse_misfit(number, pair, model.spec)
    kept = [pair for pair in pairs if not model.same(pair.better, pair.worse)]
    if not kept:
        raise UsageError(
            f"in each of the {len(pairs)} pairs both chunks are the same tokens: nothing says what "
            "is better; give pairs of chunks that differ"
        )
    return kept


def write_pairs(file: Path, pairs: Sequence[ChunkPair]) -> None:
    """Keep pairs in a file, whole or not at all; all need the same vectors and pictures."""
    first = pairs[0].request
    goals = json.dumps([pair.request.goal for pair in pairs]).encode()
    arrays: dict[str, NDArray[np.generic]] = {
        "goals": np.frombuffer(goals, np.uint8),
        "better": np.stack([pair.better for pair in pairs]),
        "worse": np.stack([pair.worse for pair in pairs]),
    }
    for name in first.state:
        arrays[f"state.{name}"] = np.stack([pair.request.state[name] for pair in pairs])
    for name in first.images:
        arrays[f"images.{name}"] = np.stack([pair.request.images[name] for pair in pairs])
    seal(file, pack(arrays))


def read_pairs(file: Path) -> list[ChunkPair]:
    """Return the pairs of a file; raise `UsageError` where it holds none."""
    try:
        arrays = unpack(read_limited(file))
        goals = [str(goal) for goal in json.loads(arrays["goals"].tobytes())]
        return [_pair(arrays, number, goal) for number, goal in enumerate(goals)]
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}; give pairs=FILE") from None
    except (Damaged, OSError, KeyError, IndexError, ValueError, TypeError) as error:
        raise UsageError(f"{file} holds no pairs of chunks: {error!r}") from None


def _pair(arrays: dict[str, NDArray[np.generic]], number: int, goal: str) -> ChunkPair:
    parts = {
        kind: {
            name.removeprefix(kind): values[number]
            for name, values in arrays.items()
            if name.startswith(kind)
        }
        for kind in ("state.", "images.")
    }
    return ChunkPair(
        request=PolicyRequest(
            state={name: v.astype(np.float32) for name, v in parts["state."].items()},
            images={name: v.astype(np.uint8) for name, v in parts["images."].items()},
            goal=goal,
            observed_at=float(number),
        ),
        better=arrays["better"][number].astype(np.float32),
        worse=arrays["worse"][number].astype(np.float32),
    )


def _refuse_misfit(number: int, pair: ChunkPair, spec: PolicySpec) -> None:
    """Raise `UsageError` unless a policy can be asked what a pair was, and answer what it holds."""
    expected = (spec.horizon, spec.action_dim)
    for chunk in (pair.better, pair.worse):
        if chunk.shape != expected or not np.isfinite(chunk).all():
            raise UsageError(
                f"pair {number} has a chunk of shape {chunk.shape}, the policy answers finite rows "
                f"of {expected}: these pairs are of another policy's action space"
            )
    missing = [
        *(spec.state.keys() - pair.request.state),
        *(set(spec.images) - {*pair.request.images}),
    ]
    if missing:
        raise UsageError(
            f"pair {number} lacks {', '.join(sorted(missing))}, which the policy reads"
        )


def _favour(model: TokenModel, pairs: Sequence[ChunkPair]) -> Tensor:
    """Return how much likelier each better chunk is than the worse, nats, shape (pairs,)."""
    requests = [pair.request for pair in pairs] * 2
    chunks = [*(pair.better for pair in pairs), *(pair.worse for pair in pairs)]
    better, worse = model.likelihood(requests, chunks).sum(dim=1).split(len(pairs))
    return better - worse


def _step(loss: Tensor, margins: Tensor) -> Step:
    right = (margins > 0).float().mean()
    return Step(
        loss=float(loss.detach()), margin=float(margins.detach().mean()), right=float(right)
    )


def _run(words: dict[str, str]) -> list[Step]:
    """Train what the words ask for; the folder is whole, or not there at all."""
    out, steps = Path(words["out"]), whole(words, "steps")
    numbers = {
        name: whole(words, name, least=least)
        for name, least in (("batch_size", 1), ("lora", 1), ("seed", 0))
    }
    rates = {name: positive(words, name) for name in ("learning_rate", "beta")}
    if not out.name or out.exists():
        there = f"{out} is there already" if out.name else "it is not said where to"
        raise UsageError(f"{there}; give a folder that is still to be made: out=FOLDER")
    if not words["pairs"] or not Path(words["base"]).is_dir() or not words["base"]:
        raise UsageError("name a policy's folder and a file of pairs: base=FOLDER pairs=FILE")
    pairs, part = read_pairs(Path(words["pairs"])), out.with_name(f".{out.name}.making")
    shutil.rmtree(part, ignore_errors=True)
    try:
        seen = train(
            token_model(Path(words["base"])),
            pairs,
            part,
            steps=steps,
            batch_size=numbers["batch_size"],
            rank=numbers["lora"],
            seed=numbers["seed"],
            **rates,
            report=lambda number, step: _show(number, steps, step),
        )
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return seen


def _show(number: int, steps: int, step: Step) -> None:
    if number % max(1, steps // PLAIN_LINES) == 0 or number == steps:
        said = f"loss {step.loss:.3f}, margin {step.margin:+.3f}, {step.right:.0%} right"
        sys.stdout.write(f"step {number}/{steps}: {said}\n")
        sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    """Train; return the exit code."""
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    try:
        words = parse_words(argv, known=WORDS)
        _run(words)
    except (UsageError, CheckpointError) as error:
        return _end(f"{error}", USAGE)
    except PolicyUnavailable as error:
        return _end(f"{error}", UNAVAILABLE)
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        return _end(f"the training failed: {' '.join(str(error).split())}", FAILED)
    except KeyboardInterrupt:
        return _end("stopped; nothing was written", INTERRUPTED)
    sys.stdout.write(f"{words['out']}: serve it with make serve-pi POLICY={words['out']}\n")
    return 0


def _end(why: str, code: int) -> int:
    sys.stderr.write(f"{why}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
