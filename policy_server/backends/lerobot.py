"""LeRobot's own policies, from a checkpoint folder or the hub: chunks of joint targets."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's and torch's own types are partly unknown.

import hashlib
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from huggingface_hub import snapshot_download
from lerobot.configs import NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.processor import PolicyProcessorPipeline
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from policy_server.backends import fast
from policy_server.backends.guidance import Guidance, Prefix
from policy_server.policy import ActionChunk, Committed, PolicyRequest, PolicySpec, no_chunk
from robot.arm import JOINTS

STATE, PICTURES, ACTION = "observation.state", "observation.images.", "action"
WEIGHTS = "model.safetensors"
UNITS = (*("deg",) * (len(JOINTS) - 1), "percent")
DTYPES = ("float32", "bfloat16")
BATCHES = (1, 2, 4, 8)
"""Sizes of batch that a model sees: few, so that few are compiled and warmed up."""
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


class CheckpointError(ValueError):
    """A checkpoint that this server cannot answer with; the message says what would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What differs between LeRobot's policies as seen from here."""

    rows: str = "chunk_size"
    """The configuration's field that says how many rows an answer has."""
    noise: tuple[str, str | int] | None = None
    """Shape of the noise an answer starts from, as numbers or as its fields; None for no noise."""
    draws: bool = False
    """Whether torch's own generator is drawn from: its answers then depend on the whole batch."""
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
    "pi0_fast": Kind(rows="n_action_steps"),
    "wall_x": Kind(draws=True, compiles="model"),
}


class LeRobotPolicy:
    """A LeRobot checkpoint as a policy that keeps nothing from one request to the next."""

    def __init__(
        self,
        policy: PreTrainedPolicy,
        processors: tuple[PolicyProcessorPipeline[Any, Any], PolicyProcessorPipeline[Any, Any]],
        spec: PolicySpec,
        *,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        """Answer with a loaded policy; `seed` picks the noise that its answers start from."""
        self._policy: Any = policy
        self._spec, self._seed = spec, seed
        self._preprocess, self._postprocess = processors
        self._config: Any = policy.config
        self._kind = KINDS[self._config.type]
        self._cameras = _cameras(self._config)
        self._dtype = dtype
        # With fewer than its steps as limit, the first correction would be left incomplete.
        steps = getattr(self._config, "num_steps", None) or getattr(
            self._config, "num_inference_steps", 10
        )
        self._guidance = Guidance(limit=float(steps)) if spec.rtc else None
        if self._guidance is not None:
            self._config.rtc_config = RTCConfig()
            self._policy.model.rtc_processor = self._guidance

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        compiled: bool = False,
        hz: float = 20.0,
        seed: int = 0,
    ) -> Self:
        """Return the policy of a folder or a hub id; raise `CheckpointError` if it is of no use.

        `hz` is the rate its rows were recorded at, which a checkpoint does not say.
        """
        folder = _folder(path)
        config = _config(folder, device=device, dtype=dtype, compiled=compiled)
        processors = _processors(config, folder)
        policy: Any = get_policy_class(config.type).from_pretrained(folder, config=config)
        spec = _spec(config, folder, hz=hz, guided=policy.supports_rtc())
        refuse_other_weights(policy, folder / WEIGHTS)
        if compiled and (module := KINDS[config.type].compiles):
            policy.set_submodule(module, torch.compile(policy.get_submodule(module)))
        autocast = torch.float32 if hasattr(config, "dtype") else getattr(torch, dtype)
        return cls(policy, processors, spec, dtype=autocast, seed=seed)

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        return self._spec

    @torch.no_grad()
    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request, in the same order; a request that is wrong fails alone."""
        refusals = [objection(request, self._spec) for request in requests]
        sound = [request for request, why in zip(requests, refusals, strict=True) if not why]
        answers = iter(self._answers(sound))
        return [
            no_chunk(request, self._spec, why) if why else next(answers)
            for request, why in zip(requests, refusals, strict=True)
        ]

    def _answers(self, requests: Sequence[PolicyRequest]) -> Iterable[ActionChunk]:
        for start in range(0, len(requests), BATCHES[-1]):
            part = requests[start : start + BATCHES[-1]]
            size = next(size for size in BATCHES if size >= len(part))
            rows, refusals = self._infer([*part, *[part[-1]] * (size - len(part))])
            for request, row, why in zip(part, rows, refusals, strict=False):
                yield self._chunk(request, row, why)

    def _infer(self, requests: Sequence[PolicyRequest]) -> tuple[NDArray[np.float32], list[str]]:
        """Return rows in the robot's units, shape (batch, horizon, 6), and why one has none."""
        self._policy.reset()
        batch: dict[str, Any] = self._preprocess(self._batch(requests))
        options: dict[str, Any] = self._noise(requests)
        options |= self._prefix(batch.pop(ACTION, None), options.get("noise"), requests)
        with self._precision(), self._generator():
            rows, refusals = self._predict(batch, options, len(requests))
        actions: Tensor = self._postprocess(rows.float())
        return actions.cpu().numpy(), refusals

    def _batch(self, requests: Sequence[PolicyRequest]) -> dict[str, Any]:
        """Return requests as LeRobot's own batch: pictures from 0 to 1, shape (batch, 3, h, w)."""
        states = np.stack([request.state["joint_pos"] for request in requests])
        batch: dict[str, Any] = {
            STATE: torch.from_numpy(states.astype(np.float32)),
            "task": [request.goal for request in requests],
        }
        for name, size in self._cameras.items():
            pictures = [picture(request.images[name], size) for request in requests]
            batch[PICTURES + name] = torch.stack(pictures)
        if self._guidance is not None and any(request.committed for request in requests):
            # As actions of a recording they are made relative and normalised like any other.
            batch[ACTION] = committed_rows(requests, self._spec.horizon)
        return batch

    def _predict(
        self, batch: dict[str, Any], options: dict[str, Any], size: int
    ) -> tuple[Tensor, list[str]]:
        """Return normalised rows, shape (batch, horizon, 6), and why one has none."""
        if self._config.type == "pi0_fast":
            return fast.predict(self._policy, batch)
        if self._config.type == "diffusion":
            batch = repeated(batch, times=self._config.n_obs_steps)
        return self._policy.predict_action_chunk(batch, **options), [""] * size

    def _noise(self, requests: Sequence[PolicyRequest]) -> dict[str, Tensor]:
        """Return the noise of each request, the same whenever and with whomever it comes."""
        if self._kind.noise is None:
            return {}
        names = self._kind.noise
        shape = [name if isinstance(name, int) else getattr(self._config, name) for name in names]
        rows = np.stack([noise(request, shape, seed=self._seed) for request in requests])
        return {"noise": torch.tensor(rows, dtype=torch.float32).to(self._config.device)}

    def _prefix(
        self, rows: Tensor | None, like: Tensor | None, requests: Sequence[PolicyRequest]
    ) -> dict[str, Prefix | int]:
        """Return what the chunks continue; `rows`, shape (batch, horizon, 6), are normalised."""
        if self._guidance is None or rows is None or like is None:
            return {}
        given = [request.committed for request in requests]
        known = [
            row[: len(old.rows)] if old else None for row, old in zip(rows, given, strict=True)
        ]
        delays = [old.delay if old else 0 for old in given]
        prefix = self._guidance.prefix(like, known, delays)
        return {"prev_chunk_left_over": prefix, "inference_delay": 0}

    def _precision(self) -> AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self._config.device).type, dtype=self._dtype)

    @contextmanager
    def _generator(self) -> Generator[None]:
        """Seed torch's own generator for the policies that draw from it, and give it back."""
        if not self._kind.draws:
            yield
            return
        device = torch.device(self._config.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self._seed)
            yield

    def _chunk(self, request: PolicyRequest, rows: NDArray[np.float32], why: str) -> ActionChunk:
        """Return an answer's rows, or no chunk where there are none or one is not finite."""
        expected = (self._spec.horizon, self._spec.action_dim)
        if why:
            return no_chunk(request, self._spec, why)
        if rows.shape != expected:
            return no_chunk(request, self._spec, f"rows of shape {rows.shape}, expected {expected}")
        if not np.isfinite(rows).all():
            return no_chunk(request, self._spec, "the policy's rows are not finite")
        actions = rows.astype(np.float32)
        actions.setflags(write=False)
        return ActionChunk(actions=actions, observed_at=request.observed_at)


def objection(request: PolicyRequest, spec: PolicySpec) -> str:
    """Return why a policy cannot answer a request; empty where it can."""
    for name, size in spec.state.items():
        vector = request.state.get(name)
        if vector is None:
            return f"the observation lacks {name}; the policy reads {list(spec.state)}"
        if vector.shape != (size,) or not np.isfinite(vector).all():
            return f"{name} must be {size} finite numbers, received {vector}"
    for name in set(spec.images) - set(spec.blank_images):
        image = request.images.get(name)
        if image is None:
            return f"picture {name!r} is missing, received {sorted(request.images)}"
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            return f"picture {name!r} must be RGB bytes, received {image.dtype} {image.shape}"
    return _objection_to_rows(request.committed, spec)


def _objection_to_rows(committed: Committed | None, spec: PolicySpec) -> str:
    if committed is None:
        return ""
    rows, delay = committed.rows, committed.delay
    if rows.ndim != 2 or rows.shape[1] != spec.action_dim or not np.isfinite(rows).all():
        return f"committed rows must be (n, {spec.action_dim}) finite numbers, received {rows}"
    if not 0 <= delay <= len(rows):
        return f"the delay must be from 0 to {len(rows)}, the committed rows; received {delay}"
    return ""


def committed_rows(requests: Sequence[PolicyRequest], horizon: int) -> Tensor:
    """Return what each arm carries out, shape (batch, horizon, 6), with zeros behind its end."""
    rows = torch.zeros(len(requests), horizon, len(JOINTS))
    for index, request in enumerate(requests):
        if request.committed is not None:
            given = torch.tensor(request.committed.rows[:horizon])
            rows[index, : len(given)] = given
    return rows


def picture(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Return a picture in a policy's height and width, from 0 to 1, shape (3, height, width)."""
    if image.shape[:2] != size:
        image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    return torch.tensor(image).permute(2, 0, 1).to(torch.float32) / 255


def repeated(batch: Mapping[str, Any], *, times: int) -> dict[str, Any]:
    """Return a batch whose observation was seen for `times` steps: no history is kept here."""
    return {
        name: value.unsqueeze(1).repeat(1, times, *[1] * (value.ndim - 1))
        if name == STATE or name.startswith(PICTURES)
        else value
        for name, value in batch.items()
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


def _folder(path: str | Path) -> Path:
    """Return a checkpoint's folder, from the hub where it is none."""
    if Path(path).is_dir():
        return Path(path)
    return Path(snapshot_download(str(path), allow_patterns=["*.json", WEIGHTS, "*.safetensors"]))


def _config(folder: Path, *, device: str, dtype: str, compiled: bool) -> PreTrainedConfig:
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


def _processors(config: PreTrainedConfig, folder: Path) -> tuple[Any, Any]:
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


def _spec(config: Any, folder: Path, *, hz: float, guided: bool) -> PolicySpec:  # noqa: ANN401 - fields of many classes
    cameras = _cameras(config)
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


def _cameras(config: Any) -> dict[str, tuple[int, int]]:  # noqa: ANN401 - fields of many classes
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


def noise(request: PolicyRequest, shape: Sequence[int], *, seed: int) -> NDArray[np.float64]:
    """Return the noise that an answer starts from: it depends on what was observed, and when."""
    observed = np.array([request.observed_at, *request.state["joint_pos"]], np.float64)
    return np.random.default_rng([seed, zlib.crc32(observed.tobytes())]).standard_normal(shape)
