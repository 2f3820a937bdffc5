"""OpenVLA and OpenVLA-OFT: a picture and a sentence in, one row or a chunk of rows out."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Torch's own types are partly unknown.

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from policy_server.backends.openvla_model import (
    ActionHead,
    Architecture,
    OpenVla,
    architecture_of,
    head_file,
    load_head,
    load_network,
    weight_files,
)
from policy_server.backends.precision import quantise_linear
from policy_server.policy import (
    ActionChunk,
    CheckpointError,
    PolicyRequest,
    PolicySpec,
    no_chunk,
)
from robot.arm import JOINTS

STATISTICS = "dataset_statistics.json"
CROP = 0.9
"""Share of the picture's area that is left for checkpoints fine-tuned with random crops."""
KNOWN: Mapping[int, tuple[tuple[str, ...], tuple[str, ...]]] = {
    6: (JOINTS, (*("deg",) * 5, "percent")),
    7: (
        ("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        (*("m",) * 3, *("rad",) * 3, "1"),
    ),
}
"""Names and units of so many numbers: an SO-101's joints, or changes of another arm's tool pose."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionRange:
    """Where the recorded actions lay: what a checkpoint's shares from -1 to 1 stand for."""

    key: str
    """Name of the recordings."""
    low: NDArray[np.float64]
    """First percentile, shape (action_dim,), in the units of the recordings."""
    high: NDArray[np.float64]
    """The 99th percentile, of the same shape."""
    scaled: NDArray[np.bool_]
    """Which numbers were scaled; the others are what the model says."""

    @classmethod
    def of(cls, stats: Mapping[str, Any], unnorm_key: str | None) -> Self:
        """Return the range of one of a checkpoint's sets of recordings; raise `CheckpointError`."""
        if not stats:
            raise CheckpointError(f"it has neither {STATISTICS} nor norm_stats in config.json")
        key = unnorm_key or (next(iter(stats)) if len(stats) == 1 else "")
        if key not in stats:
            raise CheckpointError(f"unnorm_key={key!r} is none of {', '.join(sorted(stats))}")
        try:
            action = stats[key]["action"]
            low, high = (np.array(action[name], np.float64) for name in ("q01", "q99"))
            scaled = np.array(action.get("mask", np.ones(low.shape)), np.bool_)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the statistics of {key!r} are not whole: {error!r}") from None
        if low.ndim != 1 or not low.shape == high.shape == scaled.shape:
            raise CheckpointError(f"q01, q99 and mask of {key!r} are of different lengths")
        if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            raise CheckpointError(f"q01 and q99 of {key!r} are no ranges: {low}, {high}")
        return cls(key=key, low=low, high=high, scaled=scaled)

    @property
    def fits_so101(self) -> bool:
        """Return whether an action has as many numbers as an SO-101 has joints."""
        return len(self.low) == len(JOINTS)

    @property
    def fingerprint(self) -> str:
        """Return the first 12 hex digits of the SHA-256 of these numbers."""
        facts = [array.tolist() for array in (self.low, self.high, self.scaled)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    @property
    def meaning(self) -> dict[str, Any]:
        """Return what a `PolicySpec` says of such actions.

        Numbers that were not scaled are shares: neither degrees nor percent.
        """
        names, units = KNOWN.get(len(self.low), ((), ()))
        ours = {"action_space": "joint_pos"}
        meant = ours if self.fits_so101 else {"action_space": "other_robot", "robot": self.key}
        kept = tuple(unit if yes else "1" for unit, yes in zip(units, self.scaled, strict=False))
        return {
            **meant,
            "action_dim": len(self.low),
            "action_names": names,
            "action_units": kept,
            "normalisation": self.fingerprint,
        }

    def actions(self, shares: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return actions, shape (rows, action_dim), of shares of the same shape."""
        rows = 0.5 * (shares + 1.0) * (self.high - self.low) + self.low
        return np.where(self.scaled, rows, shares).astype(np.float32)


def shares_of(
    tokens: NDArray[np.int64], *, vocabulary: int, bins: int = 256
) -> NDArray[np.float64]:
    """Return the middles of the bins that tokens name, -1 to 1; NaN for what names none.

    `vocabulary` counts the tokens without padding (32000, not 32064): its last ones are the bins.
    """
    edges = np.linspace(-1.0, 1.0, bins)
    middles = (edges[:-1] + edges[1:]) / 2.0
    bin_of = vocabulary - tokens
    found = middles[np.clip(bin_of - 1, 0, len(middles) - 1)]
    return np.where((bin_of >= 1) & (bin_of <= bins), found, np.nan)


class Prompter:
    """Turns an instruction into the tokens that OpenVLA was trained to continue."""

    def __init__(self, tokenizer: Tokenizer, *, first: int, vocabulary: int) -> None:
        """Begin prompts with the token `first`; raise `CheckpointError` for another tokenizer."""
        known = tokenizer.get_vocab_size(with_added_tokens=False)
        if known != vocabulary:
            raise CheckpointError(
                f"tokenizer.json has {known} tokens, config.json {vocabulary} without padding:"
                " actions are counted from the last one"
            )
        # Training had this empty token (29871 of Llama's) between the prompt and the actions.
        empty = tokenizer.token_to_id("▁")
        if empty is None:
            raise CheckpointError("tokenizer.json lacks the token ▁ that every prompt ends with")
        self._tokenizer, self._first, self._empty = tokenizer, first, int(empty)

    def tokens(self, goal: str) -> list[int]:
        """Return the tokens of the prompt for an instruction."""
        text = f"In: What action should the robot take to {goal.lower()}?\nOut:"
        words: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self._first, *words, self._empty]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Eyes:
    """Turns a picture into what both towers see."""

    size: int
    """Height and width, pixels."""
    mean: Tensor
    """Shape (6, 1, 1): of DINOv2's colours, then SigLIP's, 0 to 1."""
    deviation: Tensor
    """Of the same shape."""
    center_crop: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], *, size: int, center_crop: bool) -> Self:
        """Return what `preprocessor_config.json` describes; raise `CheckpointError`."""
        ways = {config.get("image_resize_strategy"), *config.get("interpolations", ())}
        if ways != {"resize-naive", "bicubic"}:
            raise CheckpointError(f"preprocessor_config.json is not resize-naive, bicubic: {ways}")
        try:
            if {tuple(shape) for shape in config["input_sizes"]} != {(3, size, size)}:
                raise CheckpointError(f"preprocessor_config.json has not two sizes of {size} px")
            mean, deviation = (_six(config, name) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"preprocessor_config.json is of no use: {error}") from None
        return cls(size=size, mean=mean, deviation=deviation, center_crop=center_crop)

    def pixels(self, picture: NDArray[np.uint8]) -> Tensor:
        """Return shape (6, size, size), float32, of an RGB picture (height, width, 3)."""
        whole = torch.tensor(picture).permute(2, 0, 1)[None]
        small = functional.interpolate(whole, (self.size,) * 2, mode="bicubic", antialias=True)
        share = (_middle(small) if self.center_crop else small)[0].float() / 255.0
        return (share.repeat(2, 1, 1) - self.mean) / self.deviation


def _six(config: Mapping[str, Any], name: str) -> Tensor:
    """Return six channels' numbers.

    OpenVLA's processor lets the ones it once computed (rounded to bfloat16) win over `means`.
    """
    computed = config.get("tvf_normalize_params")
    both = [part[name] for part in computed] if computed else config[f"{name}s"]
    return torch.tensor(both, dtype=torch.float32).reshape(6, 1, 1)


def _middle(picture: Tensor) -> Tensor:
    """Return the middle of a picture at its own size, as TensorFlow crops, resizes and rounds."""
    side = CROP**0.5
    corners = torch.tensor([[[side, 0.0, 0.0], [0.0, side, 0.0]]])
    grid = functional.affine_grid(corners, list(picture.shape), align_corners=True)
    shares = functional.grid_sample(picture.float() / 255.0, grid, align_corners=True)
    return (shares.clamp(0.0, 1.0) * 255.5).floor()


class OpenVlaPolicy:
    """A fine-tuned OpenVLA: looks through one camera and reads the goal, not the joints."""

    def __init__(
        self,
        network: OpenVla,
        head: ActionHead | None,
        spec: PolicySpec,
        *,
        prompter: Prompter,
        eyes: Eyes,
        action_range: ActionRange,
    ) -> None:
        """Answer with numbers where there is a `head`, else with tokens."""
        self.network, self._head, self._spec = network, head, spec
        self._prompter, self._eyes, self._range = prompter, eyes, action_range

    @classmethod
    def load(  # noqa: PLR0913 - one keyword each for what a checkpoint does not say
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        int8: bool = False,
        unnorm_key: str | None = None,
        camera: str = "front",
        center_crop: bool = False,
        hz: float = 5.0,
        horizon: int = 8,
        allow_other_robot: bool = False,
    ) -> Self:
        """Return the policy of a folder; raise `CheckpointError`, or `OSError` for a missing file.

        `unnorm_key` names the recordings where there are several, `hz` is their rate, and
        `center_crop` is for checkpoints that were fine-tuned with random crops. `horizon` is how
        many rows openvla-oft's head was trained to answer; a checkpoint without one answers one.
        """
        folder, config = Path(path), _json(Path(path) / "config.json")
        plan, head_of = architecture_of(config), head_file(folder)
        action_range = ActionRange.of(_statistics(folder, config), unnorm_key)
        if not (action_range.fits_so101 or allow_other_robot):
            raise CheckpointError(_misfit(action_range))
        eyes = _eyes(folder, plan, center_crop=center_crop)
        prompter = Prompter(_tokenizer(folder), first=_first(plan), vocabulary=plan.vocabulary)
        spec = PolicySpec(
            **action_range.meaning,
            state={},
            images=(camera,),
            image_size=(plan.picture_size, plan.picture_size),
            hz=hz,
            horizon=horizon if head_of else 1,
            checkpoint=_sha256([*weight_files(folder), *([head_of] if head_of else [])]),
        )
        network = load_network(folder, plan, device=device, dtype=getattr(torch, dtype))
        head = load_head(head_of, network, action_dim=spec.action_dim) if head_of else None
        if int8:
            quantise_linear(network, *([head] if head else []))
        return cls(network, head, spec, prompter=prompter, eyes=eyes, action_range=action_range)

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy reads and writes."""
        return self._spec

    @torch.inference_mode()
    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request, in the same order; a request that is wrong fails alone."""
        refusals = [self._objection(request) for request in requests]
        sound = [request for request, why in zip(requests, refusals, strict=True) if not why]
        answers = iter(self._answers(sound))
        return [
            no_chunk(request, self._spec, why) if why else next(answers)
            for request, why in zip(requests, refusals, strict=True)
        ]

    @torch.inference_mode()
    def logits(self, requests: Sequence[PolicyRequest]) -> Tensor:
        """Return what it would say, shape (batch, action_dim, vocabulary with padding)."""
        return self.network.say(*self._inputs(requests), self._spec.action_dim)

    def _inputs(self, requests: Sequence[PolicyRequest]) -> tuple[Tensor, list[list[int]]]:
        camera = self._spec.images[0]
        pixels = torch.stack([self._eyes.pixels(request.images[camera]) for request in requests])
        return pixels, [self._prompter.tokens(request.goal) for request in requests]

    def _objection(self, request: PolicyRequest) -> str:
        """Return why a request cannot be answered; empty if it can."""
        camera = self._spec.images[0]
        picture = request.images.get(camera)
        if picture is None:
            return f"no picture of camera {camera!r}"
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            return f"picture of {camera!r} is {picture.dtype} {picture.shape}, expected RGB bytes"
        if not picture.size or not request.goal.strip():
            return "the instruction or the picture is empty"
        count = len(self._prompter.tokens(request.goal))
        room = self.network.room - self._spec.horizon * self._spec.action_dim
        return f"the instruction has {count - room} tokens too many" if count > room else ""

    def _answers(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        shares = self._shares(requests) if requests else []
        return [self._chunk(request, rows) for request, rows in zip(requests, shares, strict=True)]

    def _shares(self, requests: Sequence[PolicyRequest]) -> NDArray[np.floating[Any]]:
        """Return shares of the recorded range, shape (batch, horizon, action_dim)."""
        if self._head is not None:
            count = self._spec.horizon * self._spec.action_dim
            states = self.network.action_states(*self._inputs(requests), count)
            return self._head(states).cpu().numpy()
        tokens = self.logits(requests).argmax(-1).cpu().numpy()[:, None]
        plan = self.network.architecture
        return shares_of(tokens, vocabulary=plan.vocabulary, bins=plan.bins)

    def _chunk(self, request: PolicyRequest, shares: NDArray[np.floating[Any]]) -> ActionChunk:
        if not np.isfinite(shares).all():
            return no_chunk(request, self._spec, "the model did not answer with an action")
        rows = self._range.actions(shares)
        rows.setflags(write=False)
        return ActionChunk(actions=rows, observed_at=request.observed_at)


def _statistics(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the statistics of fine-tuning, or where there are none, of the base model."""
    file = folder / STATISTICS
    return _json(file) if file.is_file() else config.get("norm_stats") or {}


def _misfit(action_range: ActionRange) -> str:
    return (
        f"{action_range.key!r} was recorded with {len(action_range.low)} numbers an action, an"
        f" SO-101 has {len(JOINTS)}: fine-tune OpenVLA on joint targets of an SO-101"
    )


def _eyes(folder: Path, plan: Architecture, *, center_crop: bool) -> Eyes:
    facts = _json(folder / "preprocessor_config.json")
    return Eyes.of(facts, size=plan.picture_size, center_crop=center_crop)


def _first(plan: Architecture) -> int:
    if plan.text.bos_token_id is None:
        raise CheckpointError("config.json has no bos_token_id, which every prompt begins with")
    return plan.text.bos_token_id


def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(_json(folder / "tokenizer.json")))


def _json(file: Path) -> dict[str, Any]:
    try:
        facts: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file.name} is not JSON: {error}") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{file.name} is no object")
    return facts


def _sha256(files: Sequence[Path]) -> str:
    """Return 12 hex digits for the contents of files, in their order."""
    digests: list[bytes] = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    return whole.hex()[:12]
