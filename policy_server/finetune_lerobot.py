"""Fine-tuning by LeRobot's own trainer, with what it does not do by itself."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's, peft's and torch's own types are partly unknown.

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from huggingface_hub import constants
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.configs.default import DatasetConfig, PeftConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies.factory import (
    get_policy_class,
    make_policy,
    make_policy_config,
    make_pre_post_processors,
)
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import TransitionKey
from lerobot.processor.rename_processor import rename_stats
from lerobot.scripts import lerobot_train
from peft import PeftConfig as Adapter
from peft import PeftModel
from torch import nn

from policy_server.backends import fast
from policy_server.backends.lerobot_checkpoint import (
    ACTION,
    PICTURES,
    STATE,
    WEIGHTS,
    refuse_other_weights,
)
from policy_server.finetune_plan import (
    KINDS,
    WORDLESS,
    Besides,
    Kind,
    Plan,
    Reword,
    device_here,
    drawn,
    local,
    said_by,
    short_name,
)
from policy_server.load import BASES
from robot.arm import JOINTS
from robot.sealed import seal
from robot.words import UsageError

LAST = Path("checkpoints", "last", "pretrained_model")
"""Where LeRobot's trainer leaves what was learnt."""
PARAPHRASES = "paraphrases.json"
"""In the folder of a policy that learnt from sentences in other words: which, by what was said."""
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
TOKENIZERS = ("vlm_model_name", "text_tokenizer_name", "action_tokenizer_name")
"""Fields of LeRobot's configurations that name what a policy reads and writes words with."""
BACKBONE = ".backbone."
"""In the names of the weights by which ACT and Diffusion look at pictures."""
WORKERS = 4
"""Processes that decode pictures for a GPU."""


def training_of(plan: Plan, part: Path) -> TrainPipelineConfig:
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
    base = local(plan.base or BASES[plan.policy]) if plan.base or not kind.fresh else None
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
    begin = partial(make_policy_config, kind.name, device=device_here(), push_to_hub=False)
    said = said_by(base / "config.json") if base else {}
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
        config.pretrained_path, config.device = base, device_here()
        config.push_to_hub, config.repo_id = False, None
    # The base holds these as well; without one, ImageNet's are of use.
    for name in ("pretrained_backbone_weights", "load_vlm_weights"):
        if hasattr(config, name) and (base or constants.HF_HUB_OFFLINE):
            setattr(config, name, None if name.startswith("pretrained") else False)
    return config


def _looks(kind: Kind, config: Any, plan: Plan) -> list[str]:  # noqa: ANN401 - fields of many classes
    """Return the cameras that a base will look through; raise `UsageError` where it cannot.

    Those that read a sentence do with fewer pictures than they were built for.
    """
    wanted = {short_name(key): tuple(one.shape[1:]) for key, one in config.image_features.items()}
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
    steps = said_by(base / PREPROCESSOR)["steps"] if base and config.pretrained_path else []
    names += [step.get("config", {}).get("tokenizer_name") for step in steps]
    for name in filter(None, names):
        local(name, hint=" --exclude '*.safetensors'")
    if hasattr(config, "pretrained_name_or_path"):
        local(config.pretrained_name_or_path)


def train(training: TrainPipelineConfig, besides: Besides) -> Path:
    """Have LeRobot train and return the folder of a policy that can be served."""
    part = Path(training.output_dir or "")
    words = [f"--config_path={part / LAST}"] if training.resume else []
    with ExitStack() as stack:
        # LeRobot reads what to resume from the command line alone.
        stack.enter_context(patch.object(sys, "argv", [sys.argv[0], *words]))
        stack.enter_context(patch.object(lerobot_train, "make_policy", _policy))
        processors = partial(_processors, training.rename_map, besides.reword)
        stack.enter_context(patch.object(lerobot_train, "make_pre_post_processors", processors))
        update = partial(_update, lerobot_train.update_policy, training, besides)
        stack.enter_context(patch.object(lerobot_train, "update_policy", update))
        lerobot_train.train(training)
    folder = (part / LAST).resolve()
    if training.peft:
        _merge(folder)
    _forget_names(folder / PREPROCESSOR)
    if said_by(folder / "config.json")["type"] not in WORDLESS:
        write_paraphrases(folder, Path(training.dataset.root or ""), besides.reword)
    return folder


def write_paraphrases(folder: Path, dataset: Path, reword: Reword) -> None:
    """Write into a policy's folder what was said in place of a dataset's sentences, if anything."""
    tasks: Any = LeRobotDatasetMetadata(f"local/{dataset.name}", root=dataset).tasks
    said = {str(sentence): list(reword(str(sentence))) for sentence in tasks.index}
    if any(len(words) > 1 for words in said.values()):
        seal(folder / PARAPHRASES, json.dumps(said, indent=2).encode())


def _policy(cfg: PreTrainedConfig, **options: Any) -> PreTrainedPolicy:  # noqa: ANN401 - as LeRobot's
    """Return LeRobot's policy; raise `CheckpointError` where it trained on random weights."""
    policy = make_policy(cfg, **options)
    if cfg.pretrained_path and not cfg.use_peft:
        refuse_other_weights(policy, Path(cfg.pretrained_path) / WEIGHTS)
    return policy


def _processors(
    rename: dict[str, str],
    reword: Reword,
    policy_cfg: PreTrainedConfig,
    **options: Any,  # noqa: ANN401 - as LeRobot's
) -> Any:  # noqa: ANN401
    """Return LeRobot's processors, with what its trainer does not tell them.

    That is the statistics of pictures by the names the policy has for them, pi0-FAST's own
    tokenizers, and sentences in other words: a hook, which is not stored with the policy.
    """
    overrides = [options.get(f"{when}processor_overrides", {}) for when in ("pre", "post")]
    for step in (step for override in overrides for step in override.values()):
        if "stats" in step:
            step["stats"] = rename_stats(step["stats"], rename)
    if policy_cfg.type == "pi0_fast":
        overrides[0].update(fast.overrides(policy_cfg))
    before, after = make_pre_post_processors(policy_cfg, **options)
    if policy_cfg.type not in WORDLESS:
        before.register_before_step_hook(partial(_say_otherwise, reword))
    return before, after


def _update(
    update: Any,  # noqa: ANN401 - LeRobot's
    training: TrainPipelineConfig,
    besides: Besides,
    tracker: Any,  # noqa: ANN401 - LeRobot's
    policy: Any,  # noqa: ANN401 - LeRobot's, or what its accelerator makes of it
    *args: Any,  # noqa: ANN401 - as LeRobot's
    **options: Any,  # noqa: ANN401 - as LeRobot's
) -> Any:  # noqa: ANN401
    """Take a step by LeRobot's `update`, and tell of it as often as LeRobot logs."""
    if besides.frozen_steps:
        _freeze_vision(policy, frozen=tracker.steps < besides.frozen_steps)
    result = update(tracker, policy, *args, **options)
    step = tracker.steps + 1
    if besides.report and (not step % training.log_freq or step == training.steps):
        besides.report(step, tracker.loss.val, tracker.lr.val)
    return result


def _freeze_vision(policy: nn.Module, *, frozen: bool) -> None:
    """Have the backbone of ACT or Diffusion learn, or not.

    Its optimizer passes over what has no derivative. It is told after it was made, since ACT's
    leaves out for good what is frozen by then.
    """
    for name, weight in policy.named_parameters():
        if BACKBONE in name:
            weight.requires_grad_(not frozen)


def _say_otherwise(reword: Reword, step: int, transition: Any) -> None:  # noqa: ANN401 - LeRobot's
    """Replace the sentences of a batch before the first step reads them."""
    if not step:
        said = transition[TransitionKey.COMPLEMENTARY_DATA]
        said["task"] = [drawn(reword(sentence)) for sentence in said["task"]]


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
    facts = said_by(file)
    for step in facts["steps"]:
        if "rename_map" in step.get("config", {}):
            step["config"]["rename_map"] = {}
    file.write_text(json.dumps(facts, indent=2), encoding="utf-8")
