"""Have LeRobot's trainer teach ACT or Diffusion from nothing: `make pretrain POLICY=act`."""

import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from policy_server.finetune_plan import Besides, plan_of
from rewarder.goal import Goal, UnknownGoal, parse_goal
from rl.dataset_steps import sound_recordings
from rl.evaluate import circumstances, write_json
from rl.metrics import Metrics
from rl.model_card import ABOUT
from rl.run_folder import RunFolder
from rl.taught import Taught, making_of, write_figures
from robot.sealed import make_folder
from robot.words import UsageError

SMALL: Mapping[str, Mapping[str, Any]] = {
    "act": {
        "pretrained_backbone_weights": None,
        "chunk_size": 20,
        "n_action_steps": 10,
        "dim_model": 128,
        "n_heads": 4,
        "dim_feedforward": 512,
        "n_encoder_layers": 2,
        "use_vae": False,
        "dropout": 0.0,
        "optimizer_lr": 3e-4,
        "optimizer_lr_backbone": 3e-4,
    },
    "diffusion": {
        "pretrained_backbone_weights": None,
        "use_group_norm": True,
        "horizon": 16,
        "n_action_steps": 8,
        "drop_n_last_frames": 7,
        "down_dims": (64, 128, 256),
        "diffusion_step_embed_dim": 64,
        "num_inference_steps": 10,
        "optimizer_lr": 3e-4,
        "scheduler_warmup_steps": 100,
    },
}
"""Fields of LeRobot's configurations, so that a core takes a step of eight pictures in a second."""
NOT_FOR_FRESH = dict.fromkeys(("base", "rename", "freeze_vision", "expert_only", "lora"), "")
"""What `make finetune` asks for besides."""
NOT_SAID = ("episodes", "cameras", "out", "resume", "evaluation_episodes", "save_every")
"""Words that say nothing of how a policy was taught."""


def train_lerobot(words: Mapping[str, str]) -> Taught:
    """Have LeRobot's trainer teach a policy from nothing, or go on with that."""
    # LeRobot costs seconds, and our own policies do without.
    from policy_server.finetune import Failed, cut_off, finetune, resume  # noqa: PLC0415

    out = Path(words["out"])
    contents, recorded = sound_recordings(words["dataset"])
    goal = parse_goal(words["goal"]) if words["goal"] else _common_goal(contents.episodes)
    plan = plan_of({**words, **NOT_FOR_FRESH})
    frozen_steps = round(_share(words["frozen_share"]) * plan.steps)
    with _figures(out, is_kept=cut_off) as metrics:
        besides = Besides(report=partial(_report_step, metrics), frozen_steps=frozen_steps)
        try:
            if words["resume"] == "1":
                resume(words, besides=besides)
            else:
                finetune(plan, adjust=lambda it: _adjust(it, words), besides=besides)
        except Failed as error:
            raise RuntimeError(str(error)) from error
    fps, pixels = round(contents.fps), next(iter(recorded.values()))
    about = {**_said(words), "goal": goal and str(goal), "frames_a_second": fps}
    write_json(out / ABOUT, {**about, **circumstances()})
    return Taught(folder=out, goal=goal, fps=fps, steps=plan.steps, pixels=pixels)


@contextmanager
def _figures(out: Path, *, is_kept: Callable[[Path], bool]) -> Generator[Metrics]:
    """Yield what writes figures of a training into the folder `out`, once that is whole.

    LeRobot takes no folder that is there already, so they lie beside it until then. They are gone
    on with where the training `is_kept`, and of no use where it came to nothing.
    """
    making = making_of(out)
    if not is_kept(out):
        shutil.rmtree(making, ignore_errors=True)
    make_folder(making)
    try:
        with closing(Metrics(RunFolder(making), name=out.name)) as metrics:
            yield metrics
    finally:
        for found in making.glob("*") if out.is_dir() else ():
            found.rename(out / found.name)
        if not is_kept(out):
            shutil.rmtree(making, ignore_errors=True)


def _said(words: Mapping[str, str]) -> dict[str, object]:
    """Return the words that say how a policy of LeRobot's was taught."""
    return {name: value for name, value in words.items() if name not in NOT_SAID}


def _report_step(metrics: Metrics, step: int, loss: float, learning_rate: float) -> None:
    write_figures(metrics, step, {"loss": loss, "learning_rate": learning_rate})


def _adjust(training: Any, words: Mapping[str, str]) -> None:  # noqa: ANN401 - LeRobot's
    """Have pictures changed at random, and the network be of the size that was asked for."""
    training.dataset.image_transforms.enable = words["augment"] == "1"
    if not words["size"]:
        return
    for name, value in SMALL[words["policy"]].items():
        if not (name.startswith("optimizer_lr") and words["learning_rate"]):
            setattr(training.policy, name, value)


def _common_goal(episodes: Iterable[Mapping[str, Any]]) -> Goal | None:
    """Return the goal of all episodes; None where they differ or are of no task of ours."""
    sentences = {str(task) for episode in episodes for task in episode["tasks"]}
    try:
        goals = {str(goal): goal for goal in map(parse_goal, sentences)}
    except UnknownGoal:
        return None
    return next(iter(goals.values())) if len(goals) == 1 else None


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 1.0:
        raise UsageError(f"frozen_share={text!r}; expected a number from 0 to below 1")
    return share
