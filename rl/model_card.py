"""What a taught policy is, in words: the page that a model has on the Hugging Face hub."""

# pyright: reportUnknownMemberType=false
# The hub's own types are partly unknown.

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from rl.evaluate import sentence
from rl.run_record import read_json
from robot.sealed import seal

CARD = "README.md"
ABOUT, RESULTS = "pretrain.json", "results.json"
UNTOLD = ("policy", "goal", "dataset", "command", "evaluated_revision")
"""What has a place of its own on the page, or is nobody's business."""


def write_card(folder: Path) -> None:
    """Write the page of a policy into its folder, from how it was taught and tried."""
    about = read_json(folder / ABOUT)
    tried = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else None
    seal(folder / CARD, f"---\n{_head(about)}\n---\n\n{_page(folder.name, about, tried)}".encode())


def _head(about: Mapping[str, Any]) -> str:
    tags = ["robotics", "so101", str(about["policy"])]
    return ModelCardData(pipeline_tag="robotics", tags=tags).to_yaml()


def _page(name: str, about: Mapping[str, Any], tried: Mapping[str, Any] | None) -> str:
    goal = about["goal"] or "several goals"
    rows = [f"| {key} | {value} |" for key, value in about.items() if _is_told(key, value)]
    lines = [
        f"# {name}",
        "",
        f"A {about['policy']} policy for an SO-101 arm, taught by recordings of: {goal}",
        "",
        sentence(tried) if tried else "It was not tried on the simulated arm.",
        *(["On layouts that it never saw, by the simulator's ground truth."] if tried else []),
        "",
        "| setting | |",
        "|---|---|",
        f"| dataset | {_dataset(str(about['dataset']))} |",
        *rows,
        f"| revision | {about['evaluated_revision']} |",
        "",
    ]
    return "\n".join(lines)


def _is_told(key: str, value: object) -> bool:
    return key not in UNTOLD and value not in ("", None)


def _dataset(word: str) -> str:
    """Return a dataset's name; where it lies is a matter of the machine."""
    path = Path(word)
    return path.parent.name if path.name == "lerobot" else path.name
