"""Fine-tune a policy on recordings of this arm: its folder is whole, or not there at all."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's, peft's and torch's own types are partly unknown.

import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lerobot.configs.train import TrainPipelineConfig
from safetensors import safe_open

from policy_server import finetune_openvla
from policy_server.finetune_lerobot import LAST, train, training_of, write_paraphrases
from policy_server.finetune_plan import (
    NOTHING_BESIDES,
    OPENVLA,
    Besides,
    Plan,
    Reword,
    device_here,
    local,
    said_by,
    whole,
)
from policy_server.load import BASES
from robot.words import UsageError

type Adjust = Callable[[TrainPipelineConfig], object]


class Failed(Exception):
    """A training that came to nothing; the message says why."""


def finetune(
    plan: Plan, *, adjust: Adjust = lambda _: None, besides: Besides = NOTHING_BESIDES
) -> Path:
    """Train a policy and return its folder, `plan.out`: whole, or not there at all.

    `adjust` may change what LeRobot's trainer is told. Raise `UsageError`, `PolicyUnavailable` or
    `Failed`.
    """
    part = _part(plan.out)
    if cut_off(plan.out):
        raise UsageError(f"{part} is a training that was cut off; resume=1 goes on, or delete it")
    training = None if plan.policy == OPENVLA else training_of(plan, part)
    if training:
        adjust(training)
    shutil.rmtree(part, ignore_errors=True)
    with _cleaned(part):
        folder = train(training, besides) if training else _openvla(plan, part, besides.reword)
        return _publish(folder, plan.out)


def resume(words: Mapping[str, str], *, besides: Besides = NOTHING_BESIDES) -> Path:
    """Go on with a training that was cut off and return its folder; raise as `finetune` does."""
    out, part = Path(words["out"]), _part(Path(words["out"]))
    if out.exists() or not cut_off(out):
        raise UsageError(f"resume=1 has nothing to go on with: {out} is done or {part} not begun")
    training = TrainPipelineConfig.from_pretrained(part / LAST)
    training.resume, training.steps, training.output_dir = True, whole(words, "steps"), part
    return _publish(train(training, besides), out)


def cut_off(out: Path) -> bool:
    """Return whether there is a training for `out` that can be gone on with."""
    return (_part(out) / LAST).is_dir()


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


def _openvla(plan: Plan, part: Path, reword: Reword) -> Path:
    base = local(plan.base or BASES[OPENVLA])
    if said_by(base / "config.json").get("model_type") != OPENVLA:
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
        device=device_here(),
        seed=plan.seed,
        reword=reword,
    )
    write_paraphrases(part, plan.dataset, reword)
    return part
