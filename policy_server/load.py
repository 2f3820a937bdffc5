"""Policies by the name that a person types: a kind, and where its weights are.

`scripted:place`, `scripted:place?noise=0.3&hz=10`, `null`, `learned:runs/20261121_lift_1a2b3c4d`, `openpi:ws://host:8000`,
`openvla:FOLDER`, `lerobot:FOLDER`; a folder alone says its kind by what is in it, and `pi0_fast`,
`smolvla` and their like are the published weights.
"""

# pyright: reportUnknownVariableType=false
# The hub's types are partly unknown.

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policy_server.backends.residual import RECIPE
from policy_server.best_of import best_of
from policy_server.policy import Policy, PolicyUnavailable

PUBLISHED: Mapping[str, str] = {
    "pi0_fast": "lerobot/pi0fast-base",
    "pi0": "lerobot/pi0_base",
    "pi05": "lerobot/pi05_base",
    "smolvla": "lerobot/smolvla_base",
    "openvla": "openvla/openvla-7b",
}
"""Where a policy's published weights are, by its name."""
BASES: Mapping[str, str] = {**PUBLISHED, "wall_oss": "x-square-robot/wall-oss-flow"}
"""The same of what fine-tuning begins with, some of which no policy can be made of as it is."""


type Load = Callable[[str, "Device"], Policy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A policy of the list that could not be had."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where and how models compute."""

    device: str = "auto"
    """cpu, cuda, mps; auto takes the best there is."""
    dtype: str = "float32"
    """float32 or bfloat16."""
    int8: bool = False
    """Whether the weights of linear layers are kept as int8."""
    compiled: bool = False
    samples: int = 1
    """Chunks that are drawn for a request; see `policy_server.best_of`."""
    hz: float = 20.0
    """Rows a second of LeRobot's checkpoints, which do not say."""

    @property
    def found(self) -> str:
        """Return the device to compute on."""
        if self.device != "auto":
            return self.device
        import torch  # noqa: PLC0415 - costs seconds

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"


def load_policy(name: str, device: Device | None = None) -> Policy:
    """Return the policy of a name; raise `PolicyUnavailable`."""
    device = device or Device()
    kind, where = _found(name)
    return best_of(_loaded(_LOADERS[kind], where, device), device.samples)


def plain_policy(name: str, device: Device) -> Policy | None:
    """Return the same policy in float32 and uncompiled; raise `PolicyUnavailable`.

    None where it is that already: there is nothing to compare.
    """
    plain = Device(device=device.device, hz=device.hz)
    if replace(device, samples=1) == plain or _found(name)[0] not in _COMPUTED:
        return None
    return load_policy(name, plain)


def _found(name: str) -> tuple[str, str]:
    """Return a policy's kind, and where it is; raise `PolicyUnavailable`."""
    kind, _, where = name.partition(":")
    if kind in _LOADERS:
        return kind, where
    if Path(name).is_dir():
        return kind_of(Path(name)), name
    if name in PUBLISHED:
        return "openvla" if name == "openvla" else "lerobot", str(downloaded(name))
    if name in BASES:
        raise PolicyUnavailable(
            f"{BASES[name]} says neither joints nor cameras nor their scales: fine-tune it with "
            f"make finetune POLICY={name} DATASET=…, and give the folder that this writes"
        )
    known = ", ".join([*_LOADERS, *PUBLISHED])
    raise PolicyUnavailable(f"there is no such folder or policy; known: {known}")


def kind_of(folder: Path) -> str:
    """Return which back end reads a folder; raise `PolicyUnavailable`."""
    if (folder / "policy.json").is_file() or (folder / "policy" / "policy.json").is_file():
        return "learned"
    try:
        facts = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise PolicyUnavailable(
            f"{folder} has no readable config.json or policy.json: give the folder of a checkpoint"
        ) from error
    return "openvla" if facts.get("model_type") == "openvla" else "lerobot"


def downloaded(name: str) -> Path:
    """Return the folder of published weights; raise `PolicyUnavailable` where they are not here."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for published weights
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder: str = snapshot_download(PUBLISHED[name], local_files_only=True)
        return Path(folder)
    except LocalEntryNotFoundError as error:
        raise PolicyUnavailable(
            f"its weights are not on this machine; get them with: hf download {PUBLISHED[name]}"
        ) from error


def _loaded(load: Load, where: str, device: Device) -> Policy:
    try:
        return load(where, device)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise PolicyUnavailable(" ".join(str(error).split())) from error


def _numbers(words: str, *, known: Sequence[str]) -> dict[str, float]:
    """Return the options of a name, `a=1&b=2`; raise `ValueError` for what is none of `known`."""
    options = [word.partition("=") for word in words.split("&") if word]
    try:
        found = {name: float(value) for name, _, value in options}
    except ValueError:
        found = {"": 0.0}
    if not found.keys() <= set(known):
        expected = "&".join(f"{name}=NUMBER" for name in known)
        raise ValueError(f"?{words} is not understood; expected some of ?{expected}")
    return found


# Each back end is imported for its own policies alone: torch and transformers cost seconds.


def _null(where: str, _: Device) -> Policy:
    from policy_server.backends.null import NullPolicy  # noqa: PLC0415

    return NullPolicy(where)


def _scripted(where: str, _: Device) -> Policy:
    from policy_server.backends.foresight import ForesightPolicy  # noqa: PLC0415

    task, words = where.partition("?")[::2]
    return ForesightPolicy(task or "place", **_numbers(words, known=("noise", "hz")))


def _learned(where: str, _: Device) -> Policy:
    from policy_server.backends.learned import LearnedPolicy  # noqa: PLC0415

    folder = Path(where)
    inner = folder / "policy"
    policy = inner if inner.is_dir() else folder
    if (policy / RECIPE).is_file():
        raise PolicyUnavailable(
            "it corrects another policy's rows, which takes a policy of each arm's own: act by it "
            f"with make run-arm run={where} policy=residual policy.url=…, or try it with make "
            f"evaluate RUN={where}"
        )
    return LearnedPolicy.load(policy, greedy=True)


def _lerobot(where: str, device: Device) -> Policy:
    from policy_server.backends.lerobot import LeRobotPolicy  # noqa: PLC0415

    return LeRobotPolicy.load(
        where,
        device=device.found,
        dtype=device.dtype,
        int8=device.int8,
        compiled=device.compiled,
        hz=device.hz,
    )


def _openvla(where: str, device: Device) -> Policy:
    from policy_server.backends.openvla import OpenVlaPolicy  # noqa: PLC0415

    return OpenVlaPolicy.load(where, device=device.found, dtype=device.dtype, int8=device.int8)


def _openpi(where: str, _: Device) -> Policy:
    from policy_server.backends.openpi import OpenPiPolicy  # noqa: PLC0415

    return OpenPiPolicy(where)


_LOADERS: Mapping[str, Load] = {
    "null": _null,
    "scripted": _scripted,
    "learned": _learned,
    "lerobot": _lerobot,
    "openvla": _openvla,
    "openpi": _openpi,
}
_COMPUTED = ("lerobot", "openvla")
"""Kinds that `Device` makes a difference to."""
