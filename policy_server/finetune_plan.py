"""What shall be fine-tuned, on which recordings, and how: words, checked before anything begins."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's, peft's and torch's own types are partly unknown.

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from policy_server.policy import PolicyUnavailable
from robot.arm import JOINTS
from robot.arm_config import JOURNALS
from robot.recording.dataset import LEROBOT, read_manifest
from robot.recording.dataset_files import ACTION, PICTURES, STATE
from robot.words import UsageError

OPENVLA = "openvla"

type Reword = Callable[[str], Sequence[str]]
"""Returns sentences that mean what one means."""
type Report = Callable[[int, float, float], object]
"""Is told the step of a training, its loss and its learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What differs between LeRobot's policies as seen from here."""

    name: str
    """LeRobot's."""
    fresh: bool = False
    """Whether it may begin without a base, and looks through just those cameras ever after."""
    frozen: tuple[str, ...] = ()
    """Those of `freeze_vision` and `expert_only` that LeRobot can do."""
    lora: bool = True
    adapted: str | None = None
    """Layers that LoRA adapts, as a regular expression; None for LeRobot's choice."""


PARTS = ("freeze_vision", "expert_only")
KINDS: Mapping[str, Kind] = {
    "act": Kind(name="act", fresh=True, frozen=PARTS[:1], lora=False),
    "diffusion": Kind(name="diffusion", fresh=True, lora=False),
    "smolvla": Kind(name="smolvla", frozen=PARTS),
    "pi0": Kind(name="pi0", frozen=PARTS),
    "pi05": Kind(name="pi05", frozen=PARTS),
    # As openpi's gemma_2b_lora: attention and feed-forward layers.
    "pi0_fast": Kind(
        name="pi0_fast", adapted=r".*\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
    ),
    "wall_oss": Kind(name="wall_x", adapted=r"model\.model\.layers\..*\.(q|k|v|o)_proj"),
}
WORDLESS = tuple(kind.name for kind in KINDS.values() if kind.fresh)
"""Policies of one goal, which read no sentence."""


def as_recorded(sentence: str) -> Sequence[str]:
    """Return a sentence and no other."""
    return (sentence,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Besides:
    """What happens in a training besides what LeRobot's trainer does."""

    reword: Reword = as_recorded
    """What a policy reads is drawn anew for each sample, from what this makes of its sentence."""
    report: Report | None = None
    frozen_steps: int = 0
    """So many steps at first leave the weights that look at pictures as they are."""


NOTHING_BESIDES = Besides()


def drawn(sentences: Sequence[str]) -> str:
    """Return one of them, by torch's own draws: a training that is resumed goes on with those."""
    return sentences[int(torch.randint(len(sentences), ()))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What shall be trained, on what, and how."""

    policy: str
    dataset: Path
    recorded: Mapping[str, tuple[int, int]]
    """Height and width of the pictures, pixels, by the dataset's name of a camera."""
    out: Path
    base: str
    rename: Mapping[str, str]
    """What the policy calls a camera, by its name in the dataset."""
    frozen: Mapping[str, bool]
    """What was said of `freeze_vision` and `expert_only`; else the base's own stays."""
    steps: int
    batch_size: int
    lora: int
    """Rank; 0 for none."""
    learning_rate: float | None
    save_every: int
    seed: int

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Return height and width of the pictures by the policy's names."""
        return {self.rename.get(name, name): size for name, size in self.recorded.items()}


def plan_of(words: Mapping[str, str]) -> Plan:
    """Return what words ask for; raise `UsageError`."""
    if words["policy"] not in (*KINDS, OPENVLA):
        known = ", ".join([*KINDS, OPENVLA])
        raise UsageError(f"policy={words['policy']!r} cannot be fine-tuned; known: {known}")
    dataset, recorded = recordings_of(words["dataset"])
    plan = Plan(
        policy=words["policy"],
        dataset=dataset,
        recorded=recorded,
        out=Path(words["out"]),
        base=words["base"],
        rename=_rename(words["rename"], list(recorded)),
        frozen={name: _yes(words, name) for name in PARTS if words[name]},
        steps=whole(words, "steps"),
        batch_size=whole(words, "batch_size"),
        lora=whole(words, "lora") if words["lora"] else 0,
        learning_rate=positive(words, "learning_rate") if words["learning_rate"] else None,
        save_every=whole(words, "save_every"),
        seed=whole(words, "seed", least=0),
    )
    _refuse_unable(plan)
    return plan


def whole(words: Mapping[str, str], name: str, *, least: int = 1) -> int:
    """Return a word that is a whole number from `least` on; raise `UsageError`."""
    text = words[name]
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name}={text!r} is no whole number from {least} on")
    return int(text)


def positive(words: Mapping[str, str], name: str) -> float:
    """Return a word that is a number above 0; raise `UsageError`."""
    try:
        number = float(words[name])
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise UsageError(f"{name}={words[name]!r} is no positive number")
    return number


def _yes(words: Mapping[str, str], name: str) -> bool:
    if words[name] not in ("0", "1"):
        raise UsageError(f"{name}={words[name]!r}; expected 1 or 0")
    return words[name] == "1"


def _rename(text: str, cameras: Sequence[str]) -> dict[str, str]:
    """Return the map that `front:camera1,side:camera2` says; raise `UsageError`."""
    pairs = [part.partition(":") for part in text.split(",") if part]
    given = {short_name(old): short_name(new) for old, _, new in pairs}
    names = [given.get(name, name) for name in cameras]
    if not given.keys() <= set(cameras) or not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"rename={text!r} is not understood; expected CAMERA:NAME,… with different names, for "
            f"cameras of the dataset: {', '.join(cameras)}"
        )
    return given


def short_name(key: str) -> str:
    """Return a camera's name without the place where LeRobot keeps its pictures."""
    return key.strip().removeprefix(PICTURES)


def _refuse_unable(plan: Plan) -> None:
    """Raise `UsageError` for what a policy cannot freeze or adapt, and for a bad folder."""
    kinds = {**KINDS, OPENVLA: Kind(name=OPENVLA, frozen=PARTS[:1])}
    kind = kinds[plan.policy]
    for name in plan.frozen.keys() - set(kind.frozen):
        able = ", ".join(policy for policy, one in kinds.items() if name in one.frozen)
        hint = "; lora=8 leaves its vision alone" if kind.adapted else ""
        raise UsageError(f"{name}= is for {able}, not for {plan.policy}{hint}")
    if plan.lora and not kind.lora:
        raise UsageError(f"lora= is not for {plan.policy}, which is small enough to train whole")
    if not plan.out.name:
        raise UsageError("say where to: out=FOLDER")
    if plan.out.exists():
        raise UsageError(f"out={plan.out} is there already; to train it further, make it the base=")


def recordings_of(word: str) -> tuple[Path, dict[str, tuple[int, int]]]:
    """Return a dataset's folder, and the size of each camera's pictures; raise `UsageError`."""
    places = [Path(word), Path(word) / LEROBOT, JOURNALS / word / LEROBOT] if word else []
    root = next((place for place in places if (place / "meta" / "info.json").is_file()), None)
    if root is None:
        raise UsageError(f"dataset={word!r} is no dataset: there is no meta/info.json in it")
    try:
        info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
        version, frames = str(info["codebase_version"]), int(info["total_frames"])
        features = {
            key: (one["dtype"], tuple(one["shape"])) for key, one in info["features"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{root}/meta/info.json is not LeRobot's: {error!r}") from None
    cameras = {
        short_name(key): shape[1:] if shape[0] == 3 else shape[:2]
        for key, (what, shape) in features.items()
        if what in ("image", "video")
    }
    if not version.startswith("v3") or not frames or not cameras:
        raise UsageError(f"{root} is {version} with {frames} frames; expected v3.0 with pictures")
    _refuse_other_actions(root, {key: shape for key, (_, shape) in features.items()})
    return root, cameras


def _refuse_other_actions(root: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UsageError` unless states and actions are an SO-101's joint positions."""
    for key in (STATE, ACTION):
        if shapes.get(key) != (len(JOINTS),):
            raise UsageError(
                f"{root} has {key} of shape {shapes.get(key)}, expected ({len(JOINTS)},): "
                f"{', '.join(JOINTS)}"
            )
    manifest = read_manifest(root)
    if manifest and manifest.actions != "absolute":
        raise UsageError(
            f"{root} has {manifest.actions} actions, and policies are served with absolute ones: "
            f"make dataset-export dataset={root.parent.name} actions=absolute"
        )


def local(name: str, *, hint: str = "") -> Path:
    """Return the folder of a checkpoint; raise `PolicyUnavailable` where it is not here."""
    if Path(name).is_dir():
        return Path(name)
    try:
        folder: str = snapshot_download(name, local_files_only=True)
        return Path(folder)
    except HFValidationError as error:
        raise UsageError(f"base={name} is neither a folder nor a hub id") from error
    except LocalEntryNotFoundError as error:
        raise PolicyUnavailable(
            f"{name} is not on this machine; get it with: hf download {name}{hint}"
        ) from error


def device_here() -> str:
    """Return the best device that there is."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return next((name for name, yes in has.items() if yes), "cpu")


def said_by(file: Path) -> dict[str, Any]:
    """Return what a JSON file of a checkpoint says; raise `UsageError`."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file} cannot be read: give the folder of a checkpoint") from error
