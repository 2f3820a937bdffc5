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

import logging
import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lerobot.configs.train import TrainPipelineConfig
from safetensors import safe_open

from policy_server import finetune_openvla
from policy_server.finetune_lerobot import LAST, train, training_of
from policy_server.finetune_plan import OPENVLA, Plan, device_here, local, plan_of, said_by, whole
from policy_server.load import BASES
from policy_server.policy import PolicyUnavailable
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
FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130

type Adjust = Callable[[TrainPipelineConfig], object]


class Failed(Exception):
    """A training that came to nothing; the message says why."""


def finetune(plan: Plan, *, adjust: Adjust = lambda _: None) -> Path:
    """Train a policy and return its folder, `plan.out`: whole, or not there at all.

    `adjust` may change what LeRobot's trainer is told. Raise `UsageError`, `PolicyUnavailable` or
    `Failed`.
    """
    part = _part(plan.out)
    if (part / LAST).is_dir():
        raise UsageError(f"{part} is a training that was cut off; resume=1 goes on, or delete it")
    training = None if plan.policy == OPENVLA else training_of(plan, part)
    if training:
        adjust(training)
    shutil.rmtree(part, ignore_errors=True)
    with _cleaned(part):
        folder = train(training) if training else _train_openvla(plan, part)
        return _publish(folder, plan.out)


def resume(words: Mapping[str, str]) -> Path:
    """Go on with a training that was cut off and return its folder; raise as `finetune` does."""
    out, part = Path(words["out"]), _part(Path(words["out"]))
    if out.exists() or not (part / LAST).is_dir():
        raise UsageError(f"resume=1 has nothing to go on with: {out} is done or {part} not begun")
    training = TrainPipelineConfig.from_pretrained(part / LAST)
    training.resume, training.steps, training.output_dir = True, whole(words, "steps"), part
    return _publish(train(training), out)


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
    )
    return part


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
