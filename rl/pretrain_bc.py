"""Teach the small network that reinforcement learning goes on from: `make pretrain POLICY=bc`."""

import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from envs.actions import EeDelta
from envs.arm_env import policy_spec
from envs.twin_env import SAFETY
from policy_server.finetune_plan import whole
from rewarder.goal import Goal, parse_goal
from rl.bc import Clone, Lesson, Steps, clone, steps_of, write_policy
from rl.bc_checkpoint import CHECKPOINT, Checkpoint
from rl.dataset_steps import Recordings, episodes_of, open_recordings, single_goal
from rl.evaluate import circumstances, write_json
from rl.metrics import Metrics
from rl.model_card import ABOUT
from rl.progress import say
from rl.run_folder import RunFolder
from rl.taught import Taught, making_of, write_figures
from robot.arm_config import ROOT
from robot.limits import SafetyLimits
from robot.sealed import make_folder
from robot.words import UsageError

BC = "bc"


SPEC = policy_spec(EeDelta(SafetyLimits.load(SAFETY)))
"""What a clone reads and writes: what a policy that practises does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """How a clone is taught."""

    updates: int
    batch_size: int
    learning_rate: float
    seed: int


def clone_recordings(words: Mapping[str, str]) -> Taught:
    """Teach the small network and write it, with how it came about."""
    began, out = time.process_time(), Path(words["out"])
    settings, making = _settings(words), making_of(out)
    file = making / CHECKPOINT
    _refuse_to_lose(file, resume=words["resume"] == "1")
    recordings, goal, steps = _recorded(words)
    facts = {
        "dataset": words["dataset"],
        "goal": str(goal),
        **asdict(settings),
        "recordings": int(steps.episode.max()) + 1,
        "recorded_steps": len(steps.states),
    }
    checkpoint = Checkpoint(file=file, every=whole(words, "save_every"), facts=facts)
    taught = _taught(steps, settings, checkpoint, name=out.name)
    write_policy(making, taught.networks, SPEC, updates=settings.updates)
    about = {
        "policy": BC,
        **facts,
        "error": round(taught.error, 4),
        "held_out_error": taught.held_out_error and round(taught.held_out_error, 4),
        "cpu_s": round(time.process_time() - began, 1),
        **circumstances(),
    }
    write_json(making / ABOUT, about)
    file.unlink(missing_ok=True)
    making.rename(out)
    first = next(iter(recordings.cameras.values()))
    return Taught(
        folder=out,
        goal=goal,
        fps=round(recordings.contents.fps),
        steps=settings.updates,
        pixels=(first.height, first.width),
    )


def _refuse_to_lose(checkpoint: Path, *, resume: bool) -> None:
    """Raise `UsageError` where there is nothing to go on with, or something to lose."""
    making = checkpoint.parent
    if resume and not checkpoint.is_file():
        raise UsageError(f"resume=1 has nothing to go on with: there is no {checkpoint}")
    if not resume and checkpoint.is_file():
        raise UsageError(f"{making} is a training that was cut off; resume=1 goes on, or delete it")
    if not resume:
        shutil.rmtree(making, ignore_errors=True)


def _taught(steps: Steps, settings: _Settings, checkpoint: Checkpoint, *, name: str) -> Clone:
    """Teach a clone, or go on with that, and write how it goes beside its checkpoint."""
    # The fastest for networks this small, and the same sums wherever a training is gone on with.
    torch.set_num_threads(1)
    making = checkpoint.file.parent
    make_folder(making)
    with closing(Metrics(RunFolder(making), name=name)) as metrics:
        return clone(
            steps,
            SPEC,
            updates=settings.updates,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            report=partial(_report, metrics, settings.updates),
            checkpoint=checkpoint,
        )


def _report(metrics: Metrics, updates: int, lesson: Lesson) -> None:
    say(f"{lesson.update}/{updates} updates, error {lesson.error:.3f}")
    numbers = {"error": lesson.error, "learning_rate": lesson.learning_rate}
    if lesson.held_out_error is not None:
        numbers["held_out_error"] = lesson.held_out_error
    write_figures(metrics, lesson.update, numbers)


def _settings(words: Mapping[str, str]) -> _Settings:
    return _Settings(
        updates=whole(words, "steps"),
        batch_size=whole(words, "batch_size"),
        learning_rate=_rate(words["learning_rate"]),
        seed=whole(words, "seed", least=0),
    )


def _recorded(words: Mapping[str, str]) -> tuple[Recordings, Goal, Steps]:
    """Return the recordings, their goal and their steps, as many as `words` ask for."""
    most = whole(words, "episodes") if words["episodes"] else None
    recordings = open_recordings(
        words["dataset"],
        goal=parse_goal(words["goal"]) if words["goal"] else None,
        cameras=ROOT / words["cameras"],
    )
    goal = single_goal(recordings)
    say(f"looking at the pictures of {len(recordings.goals)} recordings")
    return recordings, goal, steps_of(islice(episodes_of(recordings), most), SPEC)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < 1.0:
        raise UsageError(f"learning_rate={text!r}; expected a number above 0 and below 1")
    return rate
