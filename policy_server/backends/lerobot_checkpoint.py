"""A LeRobot checkpoint, and whether this server can answer with it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's and torch's own types are partly unknown.

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from lerobot.configs import NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from safetensors import safe_open
from torch import Tensor

from policy_server.backends import fast
from policy_server.policy import CheckpointError, PolicySpec
from robot.arm import JOINTS

STATE, PICTURES, ACTION = "observation.state", "observation.images.", "action"
WEIGHTS = "model.safetensors"
UNITS = (*("deg",) * (len(JOINTS) - 1), "percent")
DTYPES = ("float32", "bfloat16")
_FILES = {
    "config.json": "name a LeRobot checkpoint",
    WEIGHTS: "merge an adapter into its policy and save that",
    "policy_preprocessor.json": "run LeRobot's migrate_policy_normalization.py on it",
    "policy_postprocessor.json": "run LeRobot's migrate_policy_normalization.py on it",
}
"""What a checkpoint consists of, and what to do where a file is missing."""
_NEEDED = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
"""Statistics that each way to normalise reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What differs between LeRobot's policies as seen from here."""

    rows: str = "chunk_size"
    """The configuration's field that says how many rows an answer has."""
    noise: tuple[str, str | int] | None = None
    """Shape of the noise an answer starts from, as numbers or as its fields; None for no noise."""
    draws: bool = False
    """Whether torch's own generator is drawn from: such answers depend on the whole batch."""
    reads_goal: bool = True
    compiles: str = ""
    """The module to compile; empty where LeRobot itself compiles what is worth it.

    LeRobot's own way with Diffusion renames weights before they are loaded.
    """


_FLOW = Kind(noise=("chunk_size", "max_action_dim"))
KINDS: Mapping[str, Kind] = {
    "act": Kind(reads_goal=False, compiles="model"),
    "diffusion": Kind(
        rows="n_action_steps",
        noise=("horizon", 6),
        draws=True,
        reads_goal=False,
        compiles="diffusion.unet",
    ),
    "smolvla": _FLOW,
    "pi0": _FLOW,
    "pi05": _FLOW,
    "pi0_fast": Kind(rows="n_action_steps", draws=True),
    "wall_x": Kind(draws=True, compiles="model"),
}


def refuse_other_weights(policy: PreTrainedPolicy, path: Path) -> None:
    """Raise `CheckpointError` unless every weight of a policy is the file's.

    LeRobot logs a weight that is missing, and answers with a random one.
    """
    state: dict[str, Tensor] = policy.state_dict()
    with safe_open(path, "pt") as file:
        held = {name if name in state else f"model.{name}": name for name in file.keys()}  # noqa: SIM118
        known = {state[name].data_ptr() for name in held if name in state}
        missing = [name for name, value in state.items() if value.data_ptr() not in known]
        other = [
            name
            for name, source in held.items()
            if name in state and not _same_start(state[name], file.get_slice(source))
        ]
    if missing or other:
        raise CheckpointError(
            f"{path} holds {len(held)} weights, but {len(missing)} of the policy's are missing "
            f"and {len(other)} were not loaded, such as {(missing + other)[0]}; "
            "take a checkpoint that this version of LeRobot wrote"
        )


def _same_start(loaded: Tensor, stored: Any) -> bool:  # noqa: ANN401 - safetensors' slice
    shape = stored.get_shape()
    if not shape or list(loaded.shape) != shape:
        return not shape
    start = stored[:1].flatten()[:8].to(loaded.dtype)
    return torch.equal(loaded[:1].flatten()[:8].cpu(), start)


def folder_of(path: str | Path) -> Path:
    """Return a checkpoint's folder, from the hub where it is none."""
    if Path(path).is_dir():
        return Path(path)
    return Path(snapshot_download(str(path), allow_patterns=["*.json", WEIGHTS, "*.safetensors"]))


def config_of(folder: Path, *, device: str, dtype: str, compiled: bool) -> PreTrainedConfig:
    """Return a checkpoint's configuration, for this machine and without other downloads."""
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}; known: {', '.join(DTYPES)}")
    for name, advice in _FILES.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; {advice}")
    config: Any = PreTrainedConfig.from_pretrained(folder)
    if config.type not in KINDS:
        raise CheckpointError(f"{folder} is a {config.type}; this server knows {', '.join(KINDS)}")
    if getattr(config, "prediction_mode", "diffusion") != "diffusion":
        raise CheckpointError(f"{folder} answers in words that may be none; use its flow mode")
    _refuse_other_robot(config, folder)
    by_lerobot = compiled and not KINDS[config.type].compiles
    wanted = {"device": device, "dtype": dtype, "compile_model": by_lerobot}
    # These would be downloaded only to be replaced by the checkpoint's own weights.
    wanted |= {"pretrained_backbone_weights": None, "load_vlm_weights": False}
    for name, value in wanted.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def _refuse_other_robot(config: PreTrainedConfig, folder: Path) -> None:
    """Raise `CheckpointError` unless a policy reads and moves six joints, and looks at pictures."""
    features = {"action": config.action_feature, "state": config.robot_state_feature}
    for name, feature in features.items():
        shape = tuple(feature.shape) if feature else None
        if shape != (len(JOINTS),):
            raise CheckpointError(
                f"{folder} is for another robot: its {name} has shape {shape}, an SO-101's is "
                f"({len(JOINTS)},): {', '.join(JOINTS)}; fine-tune it on recordings of this arm"
            )
    known = {STATE, *config.image_features}
    other = [name for name in config.input_features or {} if name not in known]
    if other:
        raise CheckpointError(f"{folder} reads {', '.join(other)}, which an SO-101 does not have")


def processors_of(config: PreTrainedConfig, folder: Path) -> tuple[Any, Any]:
    """Return what stands before and behind a policy; raise `CheckpointError` without statistics."""
    overrides: dict[str, Any] = {"device_processor": {"device": config.device}}
    if config.type == "pi0_fast":
        overrides |= fast.overrides(config)
    processors = make_pre_post_processors(config, str(folder), preprocessor_overrides=overrides)
    features = (config.input_features or {}, config.output_features or {})
    for pipeline, read in zip(processors, features, strict=True):
        _refuse_without_statistics(pipeline, read, config, folder)
    return processors


def _refuse_without_statistics(
    pipeline: PolicyProcessorPipeline[Any, Any],
    features: Mapping[str, PolicyFeature],
    config: Any,  # noqa: ANN401 - fields of many classes
    folder: Path,
) -> None:
    """Raise `CheckpointError` where LeRobot would hand on numbers that are not normalised."""
    held: dict[str, Tensor] = {}
    for step in pipeline.steps:
        held |= step.state_dict()
    for key, feature in features.items():
        mode = NormalizationMode(config.normalization_mapping.get(feature.type.value, "IDENTITY"))
        for name in _NEEDED[mode]:
            values = held.get(f"{key}.{name}")
            size = feature.shape[0]
            if values is None or values.numel() != size or not values.isfinite().all():
                raise CheckpointError(
                    f"{folder} has no normalisation statistics of use: {key}.{name} is {values}, "
                    f"expected {size} finite numbers; save its processors with the statistics of "
                    "the recordings it was trained on"
                )


def spec_from(config: Any, folder: Path, *, hz: float, guided: bool) -> PolicySpec:  # noqa: ANN401 - fields of many classes
    """Return what a checkpoint's policy reads and writes."""
    cameras = cameras_of(config)
    sizes = set(cameras.values())
    blank = tuple(name for name in _pictures(config) if name not in cameras)
    kind = KINDS[config.type]
    return PolicySpec(
        action_space="joint_pos",
        action_dim=len(JOINTS),
        state={"joint_pos": len(JOINTS)},
        images=(*cameras, *blank),
        blank_images=blank,
        image_size=sizes.pop() if len(sizes) == 1 else None,
        hz=hz,
        horizon=getattr(config, kind.rows),
        action_names=JOINTS,
        action_units=UNITS,
        reads_goal=kind.reads_goal,
        rtc=("guided",) if guided else (),
        checkpoint=_sha256([folder / WEIGHTS]),
        normalisation=_sha256(sorted(folder.glob("policy_*normalizer_processor.safetensors"))),
    )


def _pictures(config: PreTrainedConfig) -> dict[str, tuple[int, int]]:
    """Return height and width of every picture by its camera's short name."""
    return {
        key.removeprefix(PICTURES): (feature.shape[1], feature.shape[2])
        for key, feature in config.image_features.items()
    }


def cameras_of(config: Any) -> dict[str, tuple[int, int]]:  # noqa: ANN401 - fields of many classes
    """Return those pictures that somebody has to take: the policy fills in `empty_camera_0` …."""
    blank = {f"empty_camera_{i}" for i in range(getattr(config, "empty_cameras", 0))}
    return {name: size for name, size in _pictures(config).items() if name not in blank}


def _sha256(paths: Sequence[Path]) -> str:
    """Return the first 12 hex digits of the hash of files in a row; empty for no file."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12] if paths else ""
