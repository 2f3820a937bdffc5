"""Fine-tune a served policy on recordings of this arm: `make finetune POLICY=act DATASET=… OUT=…`.

Words: `policy=`, `dataset=` (a folder, or the name of a recording), `out=` (a folder that
`make serve-pi POLICY=…` takes), `steps=`, `base=` (a checkpoint's folder or hub id; without it the
published weights, or for act and diffusion none), `batch_size=`, `rename=front:camera1,…` (a camera
of the dataset, and what the policy calls it), `freeze_vision=1`, `expert_only=1`, `lora=8` (rank),
`learning_rate=`, `save_every=` (steps), `seed=`, and `resume=1` to go on with a run that was cut
off.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's, peft's and torch's own types are partly unknown.

import json
import logging
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.configs.default import DatasetConfig, PeftConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.factory import (
    get_policy_class,
    make_policy,
    make_policy_config,
    make_pre_post_processors,
)
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor.rename_processor import rename_stats
from lerobot.scripts import lerobot_train
from peft import PeftConfig as Adapter
from peft import PeftModel
from safetensors import safe_open

from policy_server import finetune_openvla
from policy_server.backends import fast
from policy_server.backends.lerobot_checkpoint import (
    ACTION,
    PICTURES,
    STATE,
    WEIGHTS,
    refuse_other_weights,
)
from policy_server.load import PUBLISHED
from policy_server.policy import PolicyUnavailable
from robot.arm import JOINTS
from robot.arm_config import JOURNALS
from robot.recording.dataset import LEROBOT, read_manifest
from robot.words import UsageError, parse_words

WORDS = {
    "policy": "",
    "dataset": "",
    "out": "",
    "steps": "20000",
    "base": "",
    "batch_size": "8",
    "rename": "",
    "freeze_vision": "",
    "expert_only": "",
    "lora": "",
    "learning_rate": "",
    "save_every": "5000",
    "seed": "1000",
    "resume": "",
}
OPENVLA = "openvla"
LAST = Path("checkpoints", "last", "pretrained_model")
"""Where LeRobot's trainer leaves what was learnt."""
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
TOKENIZERS = ("vlm_model_name", "text_tokenizer_name", "action_tokenizer_name")
"""Fields of LeRobot's configurations that name what a policy reads and writes words with."""
WORKERS = 4
"""Processes that decode pictures for a GPU."""
FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130


class Failed(Exception):
    """A training that came to nothing; the message says why."""


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


_PARTS = ("freeze_vision", "expert_only")
KINDS: Mapping[str, Kind] = {
    "act": Kind(name="act", fresh=True, frozen=_PARTS[:1], lora=False),
    "diffusion": Kind(name="diffusion", fresh=True, lora=False),
    "smolvla": Kind(name="smolvla", frozen=_PARTS),
    "pi0": Kind(name="pi0", frozen=_PARTS),
    "pi05": Kind(name="pi05", frozen=_PARTS),
    # As openpi's gemma_2b_lora: attention and feed-forward layers.
    "pi0_fast": Kind(
        name="pi0_fast", adapted=r".*\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
    ),
    "wall_oss": Kind(name="wall_x", adapted=r"model\.model\.layers\..*\.(q|k|v|o)_proj"),
}


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
        frozen={name: _yes(words, name) for name in _PARTS if words[name]},
        steps=_whole(words, "steps"),
        batch_size=_whole(words, "batch_size"),
        lora=_whole(words, "lora") if words["lora"] else 0,
        learning_rate=_positive(words, "learning_rate") if words["learning_rate"] else None,
        save_every=_whole(words, "save_every"),
        seed=_whole(words, "seed", least=0),
    )
    _refuse_unable(plan)
    return plan


def _whole(words: Mapping[str, str], name: str, *, least: int = 1) -> int:
    text = words[name]
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name}={text!r} is no whole number from {least} on")
    return int(text)


def _positive(words: Mapping[str, str], name: str) -> float:
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
    given = {_short(old): _short(new) for old, _, new in pairs}
    names = [given.get(name, name) for name in cameras]
    if not given.keys() <= set(cameras) or not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"rename={text!r} is not understood; expected CAMERA:NAME,… with different names, for "
            f"cameras of the dataset: {', '.join(cameras)}"
        )
    return given


def _short(key: str) -> str:
    return key.strip().removeprefix(PICTURES)


def _refuse_unable(plan: Plan) -> None:
    """Raise `UsageError` for what a policy cannot freeze or adapt, and for a bad folder."""
    kinds = {**KINDS, OPENVLA: Kind(name=OPENVLA, frozen=_PARTS[:1])}
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
        _short(key): shape[1:] if shape[0] == 3 else shape[:2]
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


def finetune(plan: Plan) -> Path:
    """Train a policy and return its folder, `plan.out`: whole, or not there at all.

    Raise `UsageError`, `PolicyUnavailable` or `Failed`.
    """
    part = _part(plan.out)
    if (part / LAST).is_dir():
        raise UsageError(f"{part} is a training that was cut off; resume=1 goes on, or delete it")
    training = None if plan.policy == OPENVLA else _training(plan, part)
    shutil.rmtree(part, ignore_errors=True)
    with _cleaned(part):
        folder = _train(training) if training else _train_openvla(plan, part)
        return _publish(folder, plan.out)


def resume(words: Mapping[str, str]) -> Path:
    """Go on with a training that was cut off and return its folder; raise as `finetune` does."""
    out, part = Path(words["out"]), _part(Path(words["out"]))
    if out.exists() or not (part / LAST).is_dir():
        raise UsageError(f"resume=1 has nothing to go on with: {out} is done or {part} not begun")
    training = TrainPipelineConfig.from_pretrained(part / LAST)
    training.resume, training.steps, training.output_dir = True, _whole(words, "steps"), part
    return _publish(_train(training), out)


def _device() -> str:
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return next((name for name, yes in has.items() if yes), "cpu")


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


@contextmanager
def _cleaned(part: Path) -> Generator[None]:
    """Remove what a training leaves behind that cannot be gone on with."""
    try:
        yield
    finally:
        if not (part / LAST).is_dir():
            shutil.rmtree(part, ignore_errors=True)


def _publish(folder: Path, out: Path) -> Path:
    """Move a trained policy to where it is served from; raise `Failed` for one of no use."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                if not weights.get_tensor(name).isfinite().all():
                    shutil.rmtree(_part(out))
                    raise Failed(f"{name} is not finite: it diverged; lower learning_rate=")
    folder.rename(out)
    shutil.rmtree(_part(out), ignore_errors=True)
    return out


def _train_openvla(plan: Plan, part: Path) -> Path:
    base = local(plan.base or PUBLISHED[OPENVLA])
    if _said(base / "config.json").get("model_type") != OPENVLA:
        raise UsageError(f"base={base} is no OpenVLA")
    seen = {new: old for old, new in zip(plan.recorded, plan.cameras, strict=True)}
    if finetune_openvla.CAMERA not in seen:
        mend = f"rename={next(iter(plan.recorded))}:{finetune_openvla.CAMERA}"
        raise UsageError(
            f"openvla looks through {finetune_openvla.CAMERA}; say which it is: {mend}"
        )
    finetune_openvla.finetune(
        base,
        plan.dataset,
        part,
        camera=seen[finetune_openvla.CAMERA],
        steps=plan.steps,
        batch_size=plan.batch_size,
        rank=plan.lora or 32,
        learning_rate=plan.learning_rate or 5e-4,
        freeze_vision=plan.frozen.get("freeze_vision", False),
        device=_device(),
        seed=plan.seed,
    )
    return part


def _training(plan: Plan, part: Path) -> TrainPipelineConfig:
    """Return what LeRobot's trainer shall do."""
    kind, config = KINDS[plan.policy], _config(plan)
    adapters = PeftConfig(target_modules=kind.adapted, r=plan.lora, lora_alpha=plan.lora)
    return TrainPipelineConfig(
        dataset=DatasetConfig(repo_id=f"local/{plan.dataset.name}", root=str(plan.dataset)),
        policy=config,
        output_dir=part,
        seed=plan.seed,
        num_workers=WORKERS if config.device == "cuda" else 0,
        batch_size=plan.batch_size,
        steps=plan.steps,
        env_eval_freq=0,
        log_freq=max(1, min(200, plan.steps // 10)),
        save_freq=plan.save_every,
        peft=adapters if plan.lora else None,
        rename_map={PICTURES + old: PICTURES + new for old, new in plan.rename.items()},
    )


def _config(plan: Plan) -> Any:  # noqa: ANN401 - fields of many classes
    """Return LeRobot's configuration of a policy that fits the recordings."""
    kind = KINDS[plan.policy]
    base = local(plan.base or PUBLISHED[plan.policy]) if plan.base or not kind.fresh else None
    config = _begun(kind, base)
    names = _looks(kind, config, plan) if config.pretrained_path else list(plan.cameras)
    if not config.pretrained_path and (plan.rename or plan.lora):
        raise UsageError("rename= and lora= need a base that LeRobot wrote")
    sizes = {name: (3, *plan.cameras[name]) for name in names}
    config.input_features = {
        STATE: PolicyFeature(FeatureType.STATE, (len(JOINTS),)),
        **{PICTURES + name: PolicyFeature(FeatureType.VISUAL, s) for name, s in sizes.items()},
    }
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (len(JOINTS),))}
    fields = {"freeze_vision": "freeze_vision_encoder", "expert_only": "train_expert_only"}
    for name, value in plan.frozen.items():
        if kind.name == "act":
            config.optimizer_lr_backbone *= not value
        else:
            setattr(config, fields[name], value)
    config.optimizer_lr = plan.learning_rate or config.optimizer_lr
    if constants.HF_HUB_OFFLINE:
        _require_words(config, base)
    return config


def _begun(kind: Kind, base: Path | None) -> Any:  # noqa: ANN401 - fields of many classes
    """Return the configuration of a base, or of a policy that begins anew."""
    begin = partial(make_policy_config, kind.name, device=_device(), push_to_hub=False)
    said = _said(base / "config.json") if base else {}
    if base is None or (kind.name == "wall_x" and "type" not in said):
        # Without a type it is WALL-OSS's own folder, from which LeRobot takes the network.
        config: Any = begin(pretrained_name_or_path=str(base)) if base else begin()
    elif said.get("type") != kind.name or said.get("use_peft"):
        adapter = " with an adapter" * bool(said.get("use_peft"))
        raise UsageError(
            f"base={base} is {said.get('type')}{adapter}, expected LeRobot's {kind.name}"
        )
    else:
        for name in (WEIGHTS, PREPROCESSOR, POSTPROCESSOR):
            if not (base / name).is_file():
                raise UsageError(f"base={base} has no {name}; LeRobot 0.6 writes one")
        config = PreTrainedConfig.from_pretrained(base)
        config.pretrained_path, config.device = base, _device()
        config.push_to_hub, config.repo_id = False, None
    # The base holds these as well; without one, ImageNet's are of use.
    for name in ("pretrained_backbone_weights", "load_vlm_weights"):
        if hasattr(config, name) and (base or constants.HF_HUB_OFFLINE):
            setattr(config, name, None if name.startswith("pretrained") else False)
    return config


def _said(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file} cannot be read: give the folder of a checkpoint") from error


def _looks(kind: Kind, config: Any, plan: Plan) -> list[str]:  # noqa: ANN401 - fields of many classes
    """Return the cameras that a base will look through; raise `UsageError` where it cannot.

    Those that read a sentence do with fewer pictures than they were built for.
    """
    wanted = {_short(key): tuple(one.shape[1:]) for key, one in config.image_features.items()}
    wanted = {name: size for name, size in wanted.items() if not name.startswith("empty_camera")}
    missing = [name for name in wanted if name not in plan.cameras]
    spare = [old for old, new in zip(plan.recorded, plan.cameras, strict=True) if new not in wanted]
    if missing and (spare or kind.fresh):
        raise UsageError(_mismatch(list(wanted), plan, missing, spare))
    sizes = {name: plan.cameras[name] for name in wanted if name not in missing}
    if kind.name == "diffusion" and sizes != wanted:
        raise UsageError(f"the base sees pictures of {wanted}, the dataset has {sizes} pixels")
    for feature in (config.robot_state_feature, config.action_feature) if kind.fresh else ():
        if feature is None or tuple(feature.shape) != (len(JOINTS),):
            raise UsageError(f"the base is for another robot: {feature}; expected {len(JOINTS)}")
    return list(sizes)


def _mismatch(
    wanted: Sequence[str], plan: Plan, missing: Sequence[str], spare: Sequence[str]
) -> str:
    """Return which cameras do not fit, and the map that would mend it."""
    mended = {**plan.rename, **dict(zip(spare, missing, strict=False))}
    mend = ",".join(f"{old}:{new}" for old, new in mended.items())
    advice = f"rename={mend} would use what there is" if spare else "record it with these as well"
    return (
        f"the base looks through {', '.join(wanted)}, the dataset has {', '.join(plan.cameras)}: "
        f"{', '.join(missing)} missing; {advice}"
    )


def _require_words(config: Any, base: Path | None) -> None:  # noqa: ANN401 - fields of many classes
    """Raise `PolicyUnavailable` for a tokenizer or a backbone that is not on this machine."""
    names = [getattr(config, name, "") for name in TOKENIZERS]
    steps = _said(base / PREPROCESSOR)["steps"] if base and config.pretrained_path else []
    names += [step.get("config", {}).get("tokenizer_name") for step in steps]
    for name in filter(None, names):
        local(name, hint=" --exclude '*.safetensors'")
    if hasattr(config, "pretrained_name_or_path"):
        local(config.pretrained_name_or_path)


def _train(training: TrainPipelineConfig) -> Path:
    """Have LeRobot train and return the folder of a policy that can be served."""
    part = Path(training.output_dir or "")
    words = [f"--config_path={part / LAST}"] if training.resume else []
    with ExitStack() as stack:
        # LeRobot reads what to resume from the command line alone.
        stack.enter_context(patch.object(sys, "argv", [sys.argv[0], *words]))
        stack.enter_context(patch.object(lerobot_train, "make_policy", _policy))
        processors = partial(_processors, training.rename_map)
        stack.enter_context(patch.object(lerobot_train, "make_pre_post_processors", processors))
        lerobot_train.train(training)
    folder = (part / LAST).resolve()
    if training.peft:
        _merge(folder)
    _forget_names(folder / PREPROCESSOR)
    return folder


def _policy(cfg: PreTrainedConfig, **options: Any) -> PreTrainedPolicy:  # noqa: ANN401 - as LeRobot's
    """Return LeRobot's policy; raise `CheckpointError` where it trained on random weights."""
    policy = make_policy(cfg, **options)
    if cfg.pretrained_path and not cfg.use_peft:
        refuse_other_weights(policy, Path(cfg.pretrained_path) / WEIGHTS)
    return policy


def _processors(rename: dict[str, str], policy_cfg: PreTrainedConfig, **options: Any) -> Any:  # noqa: ANN401 - as LeRobot's
    """Return LeRobot's processors, with what its trainer does not tell them.

    That is the statistics of pictures by the names the policy has for them, and pi0-FAST's own
    tokenizers.
    """
    overrides = [options.get(f"{when}processor_overrides", {}) for when in ("pre", "post")]
    for step in (step for override in overrides for step in override.values()):
        if "stats" in step:
            step["stats"] = rename_stats(step["stats"], rename)
    if policy_cfg.type == "pi0_fast":
        overrides[0].update(fast.overrides(policy_cfg))
    return make_pre_post_processors(policy_cfg, **options)


def _merge(folder: Path) -> None:
    """Turn the adapter in a folder into the whole policy."""
    config = PreTrainedConfig.from_pretrained(folder)
    config.use_peft = False
    base: Any = Adapter.from_pretrained(str(folder)).base_model_name_or_path
    policy: Any = get_policy_class(config.type).from_pretrained(base, config=config)
    PeftModel.from_pretrained(policy, folder).merge_and_unload().save_pretrained(folder)
    for file in (*folder.glob("adapter_*"), folder / "README.md"):
        file.unlink()


def _forget_names(file: Path) -> None:
    """Have a policy be asked by its own names of the cameras."""
    facts = _said(file)
    for step in facts["steps"]:
        if "rename_map" in step.get("config", {}):
            step["config"]["rename_map"] = {}
    file.write_text(json.dumps(facts, indent=2), encoding="utf-8")


def main(argv: list[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """Train; return the exit code."""
    # It tells at length which decoder of videos it could not load.
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    try:
        words = parse_words(argv, known=WORDS)
        out = resume(words) if words["resume"] == "1" else finetune(plan_of(words))
    except UsageError as error:
        return _end(f"{error}", USAGE)
    except PolicyUnavailable as error:
        return _end(f"{error}", UNAVAILABLE)
    except (Failed, OSError, ValueError, RuntimeError, ImportError) as error:
        return _end(f"the training failed: {' '.join(str(error).split())}", FAILED)
    except KeyboardInterrupt:
        return _end("cut off; resume=1 goes on from the last checkpoint", INTERRUPTED)
    write(f"{out}: serve it with make serve-pi POLICY={out}\n")
    return 0


def _end(why: str, code: int) -> int:
    sys.stderr.write(f"{why}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
