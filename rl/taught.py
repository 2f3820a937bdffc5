"""What a policy that was taught by recordings is, and where it lies until it is whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rewarder.goal import Goal
from rl.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A policy that was taught, and what it is to be tried at."""

    folder: Path
    goal: Goal | None
    """None where the dataset has several."""
    fps: int
    steps: int
    """Updates that it was taught by."""
    pixels: tuple[int, int]
    """Height and width of the recorded pictures."""


def making_of(out: Path) -> Path:
    """Return where a policy lies until it is whole."""
    return out.with_name(f".{out.name}.making")


def write_figures(metrics: Metrics, step: int, numbers: Mapping[str, float]) -> None:
    """Write numbers of a training at a step of it, by name."""
    named = {"step": step, **numbers}
    metrics.write(step, {f"pretrain/{name}": number for name, number in named.items()})
