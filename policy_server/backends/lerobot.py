"""LeRobot's own policies, from a checkpoint folder or the hub: chunks of joint targets."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's and torch's own types are partly unknown.

import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.processor import PolicyProcessorPipeline
from numpy.typing import NDArray
from torch import Tensor

from policy_server.backends import fast
from policy_server.backends.guidance import Guidance, Prefix
from policy_server.backends.lerobot_checkpoint import (
    ACTION,
    KINDS,
    PICTURES,
    STATE,
    WEIGHTS,
    cameras_of,
    config_of,
    folder_of,
    processors_of,
    refuse_other_weights,
    spec_from,
)
from policy_server.backends.precision import quantise_linear
from policy_server.policy import ActionChunk, Committed, PolicyRequest, PolicySpec, no_chunk
from robot.arm import JOINTS

BATCHES = (1, 2, 4, 8)
"""Sizes of batch that a model sees: few, so that few are compiled and warmed up."""


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
        self._cameras = cameras_of(self._config)
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
    def load(  # noqa: PLR0913 - one keyword each for what a checkpoint does not say
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        int8: bool = False,
        compiled: bool = False,
        hz: float = 20.0,
        seed: int = 0,
    ) -> Self:
        """Return the policy of a folder or a hub id; raise `CheckpointError` if it is of no use.

        `hz` is the rate its rows were recorded at, which a checkpoint does not say. With `int8`
        the weights of linear layers have 8 bits.
        """
        folder = folder_of(path)
        config = config_of(folder, device=device, dtype=dtype, compiled=compiled)
        processors = processors_of(config, folder)
        policy: Any = get_policy_class(config.type).from_pretrained(folder, config=config)
        spec = spec_from(config, folder, hz=hz, guided=policy.supports_rtc())
        refuse_other_weights(policy, folder / WEIGHTS)
        if int8:
            quantise_linear(policy)
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
        drawn = [request.draw > 0 for request in requests]
        with self._precision(), self._generator():
            rows, refusals = self._predict(batch, options, drawn)
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
        self, batch: dict[str, Any], options: dict[str, Any], drawn: Sequence[bool]
    ) -> tuple[Tensor, list[str]]:
        """Return normalised rows, shape (batch, horizon, 6), and why one has none."""
        if self._config.type == "pi0_fast":
            return fast.predict(self._policy, batch, drawn=drawn)
        if self._config.type == "diffusion":
            batch = repeated(batch, times=self._config.n_obs_steps)
        return self._policy.predict_action_chunk(batch, **options), [""] * len(drawn)

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


def noise(request: PolicyRequest, shape: Sequence[int], *, seed: int) -> NDArray[np.float64]:
    """Return the noise of an answer: it depends on what was observed, when, and on the draw."""
    observed = np.array([request.observed_at, *request.state["joint_pos"]], np.float64)
    entropy = [seed, zlib.crc32(observed.tobytes()), request.draw]
    return np.random.default_rng(entropy).standard_normal(shape)
