"""LoRA for OpenVLA on recordings of an SO-101: the tokens of joint targets, as they are served.

The recipe is OpenVLA's own (arXiv 2406.09246, `vla-scripts/finetune.py`): rank 32 on every linear
layer, a constant rate of 5e-4, and the loss of the action's tokens alone.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's, peft's and torch's own types are partly unknown.

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from policy_server.backends.openvla import STATISTICS, ActionRange, Eyes, Prompter
from policy_server.backends.openvla_model import (
    HEAD,
    INDEX,
    Architecture,
    CheckpointError,
    OpenVla,
    architecture_of,
    head_file,
    load_network,
)
from policy_server.finetune_plan import Reword, as_recorded, drawn
from robot.recording.dataset import LEROBOT

type Lesson = tuple[Tensor, list[int], list[int]]
type Batch = tuple[Tensor, list[list[int]], list[list[int]]]
CAMERA, HZ = "front", 5.0
"""What `OpenVlaPolicy.load` looks through, and how often it is asked a second."""
HIGHEST_ALPHA = 16
SHARD = "5GB"
WORKERS = 4
"""Processes that decode pictures for a GPU."""
PLAIN_LINES = 10
"""Lines of progress where there is no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """What was done at each frame of a dataset."""

    targets: NDArray[np.float64]
    """Where the joints were sent until OpenVLA is asked again, shape (frames, action_dim)."""
    facts: dict[str, Any]
    """Statistics in the form that OpenVLA's checkpoints have."""


def recorded(dataset: LeRobotDataset, key: str) -> Recorded:
    """Return the joint targets of a dataset and their statistics, named `key`."""
    table: Any = dataset.hf_dataset.with_format("numpy")
    actions = np.stack(table["action"][:]).astype(np.float64)
    episodes = np.asarray(table["episode_index"][:])
    ends = np.searchsorted(episodes, episodes, side="right") - 1
    later = max(0, round(dataset.meta.fps / HZ) - 1)
    low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    facts = {"q01": low, "q99": high, "mean": actions.mean(0), "std": actions.std(0)}
    facts |= {"min": actions.min(0), "max": actions.max(0), "mask": np.ones(len(low), np.bool_)}
    counts = {"num_transitions": len(actions), "num_trajectories": len(set(episodes.tolist()))}
    said = {key: {"action": {name: value.tolist() for name, value in facts.items()}, **counts}}
    return Recorded(targets=actions[np.minimum(np.arange(len(actions)) + later, ends)], facts=said)


def tokens_of(
    actions: NDArray[np.floating[Any]], action_range: ActionRange, plan: Architecture
) -> NDArray[np.int64]:
    """Return the tokens of actions, the inverse of `shares_of`, of the same shape."""
    width = action_range.high - action_range.low
    shares = 2.0 * (actions - action_range.low) / np.where(width > 0, width, 1.0) - 1.0
    edges = np.linspace(-1.0, 1.0, plan.bins)
    return plan.vocabulary - np.digitize(np.clip(shares, -1.0, 1.0), edges)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lessons(Dataset[Lesson]):
    """Pictures, prompts and the tokens of what was done, one for each frame."""

    frames: LeRobotDataset
    camera: str
    eyes: Eyes
    prompter: Prompter
    tokens: NDArray[np.int64]
    """Shape (frames, action_dim)."""
    reword: Reword = as_recorded
    """What is said in place of a frame's sentence."""

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self.tokens)

    def __getitem__(self, index: int) -> Lesson:
        """Return pixels (6, size, size), the tokens of the prompt, and those of the action."""
        frame: Any = self.frames[index]
        shares = frame[f"observation.images.{self.camera}"].permute(1, 2, 0).numpy()
        picture = np.rint(shares * 255.0).astype(np.uint8)
        return (
            self.eyes.pixels(picture),
            self.prompter.tokens(drawn(self.reword(frame["task"]))),
            self.tokens[index].tolist(),
        )


def loss_of(
    network: OpenVla, pixels: Tensor, prompts: Sequence[list[int]], actions: Sequence[list[int]]
) -> Tensor:
    """Return the mean loss of the actions' tokens, each given those before it."""
    wanted = torch.tensor(actions, device=pixels.device)
    said = [prompt + action[:-1] for prompt, action in zip(prompts, actions, strict=True)]
    embeddings, mask = network.join(pixels, said)
    answer = network.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=wanted.shape[1],
    )
    return functional.cross_entropy(answer.logits.float().flatten(0, 1), wanted.flatten())


def adapted(network: OpenVla, *, rank: int, freeze_vision: bool) -> Any:  # noqa: ANN401 - peft's
    """Return peft's wrapper of a network with fresh adapters, which alone can be trained."""
    left = ("lm_head", "vision_backbone") if freeze_vision else ("lm_head",)
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not any(part in name for part in left)
    ]
    config = LoraConfig(
        r=rank,
        lora_alpha=min(rank, HIGHEST_ALPHA),
        target_modules=layers,
        init_lora_weights="gaussian",
    )
    return get_peft_model(network, config)


def finetune(  # noqa: PLR0913 - one keyword each
    base: Path,
    dataset: Path,
    out: Path,
    *,
    camera: str,
    steps: int,
    batch_size: int,
    rank: int,
    learning_rate: float,
    freeze_vision: bool,
    device: str,
    seed: int,
    reword: Reword = as_recorded,
) -> list[float]:
    """Write a checkpoint trained on a dataset into the folder `out`; return each step's loss.

    What it reads is drawn anew for each frame, from what `reword` makes of the frame's sentence.
    Raise `CheckpointError` for a base that does not answer in tokens.
    """
    if head_file(base):
        raise CheckpointError(f"{base} answers with {HEAD}, not in tokens; give another base")
    frames = LeRobotDataset(f"local/{dataset.name}", root=dataset)
    done = recorded(frames, dataset.parent.name if dataset.name == LEROBOT else dataset.name)
    plan = architecture_of(_said(base / "config.json"))
    lessons = replace(_lessons(base, plan, frames, done, camera=camera), reword=reword)
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    network = load_network(base, plan, device=device, dtype=dtype)
    tuned = adapted(network, rank=rank, freeze_vision=freeze_vision)
    losses = _losses(network, _batches(lessons, batch_size, device), learning_rate)
    seen = list(_shown(islice(losses, steps), steps))
    write_checkpoint(tuned.merge_and_unload(), base, out, done.facts)
    return seen


def _said(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _lessons(
    base: Path, plan: Architecture, frames: LeRobotDataset, done: Recorded, *, camera: str
) -> Lessons:
    words = Tokenizer.from_file(str(base / "tokenizer.json"))
    first = plan.text.bos_token_id
    if first is None:
        raise CheckpointError("config.json has no bos_token_id, which every prompt begins with")
    pictures = _said(base / "preprocessor_config.json")
    return Lessons(
        frames=frames,
        camera=camera,
        eyes=Eyes.of(pictures, size=plan.picture_size, center_crop=False),
        prompter=Prompter(words, first=first, vocabulary=plan.vocabulary),
        tokens=tokens_of(done.targets, ActionRange.of(done.facts, None), plan),
    )


def _batches(lessons: Lessons, size: int, device: str) -> Iterator[Batch]:
    """Yield batches without end, every frame once in a while as long as all of them."""
    workers = WORKERS if device == "cuda" else 0
    loader = DataLoader(
        lessons,
        batch_size=size,
        shuffle=True,
        num_workers=workers,
        collate_fn=_joined,
        persistent_workers=workers > 0,
        # What decodes videos does not survive a fork.
        multiprocessing_context="spawn" if workers else None,
    )
    while True:
        for pixels, prompts, actions in loader:
            yield pixels.to(device), prompts, actions


def _joined(lessons: Sequence[Lesson]) -> Batch:
    pixels, prompts, actions = zip(*lessons, strict=True)
    return torch.stack(pixels), list(prompts), list(actions)


def _losses(network: OpenVla, batches: Iterator[Batch], learning_rate: float) -> Iterator[float]:
    """Train the adapters of a network and yield the loss of every batch before its step."""
    weights = [one for one in network.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    for batch in batches:
        loss = loss_of(network, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def _shown(losses: Iterator[float], steps: int) -> Iterator[float]:
    """Pass losses on, and show them with how long it takes yet."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"))
    terminal = sys.stdout.isatty()
    with Progress(*columns, TimeRemainingColumn(), disable=not terminal) as bar:
        task = bar.add_task("", total=steps, loss="")
        for step, loss in enumerate(losses, start=1):
            bar.update(task, completed=step, loss=f"{loss:.3f}")
            if not terminal and (step % max(1, steps // PLAIN_LINES) == 0 or step == steps):
                sys.stdout.write(f"step {step}/{steps}: loss {loss:.3f}\n")
                sys.stdout.flush()
            yield loss


def write_checkpoint(network: OpenVla, base: Path, out: Path, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint: weights by their published names, and what else the base has."""
    out.mkdir(parents=True)
    for file in base.glob("*.*"):
        if file.suffix in (".json", ".model", ".py") and file.name not in (INDEX, STATISTICS):
            shutil.copyfile(file, out / file.name)
    config = _said(base / "config.json") | {"norm_stats": facts}
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (out / STATISTICS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
    # Llama's own names and timm's, but for the one that transformers would take for its own.
    weights = {_published(name): tensor for name, tensor in network.state_dict().items()}
    save_torch_state_dict(weights, out, max_shard_size=SHARD)


def _published(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return f"{stem}.scale_factor" if last == "gamma" else name
