"""Teach a policy from recordings: `make pretrain DATASET=NAME POLICY=act|diffusion|bc OUT=FOLDER`.

`policy=bc` is a small network of our own that sees what the arm's eyes make of the recorded
pictures; reinforcement learning goes on from it (`learner.start=FOLDER`). `act` and `diffusion` are
LeRobot's, from nothing. Words: `dataset=` (a recording or a folder), `out=`, `goal="…"` (in place
of the dataset's own), `steps=`, `batch_size=`, `learning_rate=`, `seed=`, `evaluation_episodes=20`
(trials on the simulated arm afterwards; 0 for none), `episodes=` (only so many of the recordings,
bc), `cameras=` (where they stood, bc), `save_every=`, and `resume=1` beside the same words after a
run was cut off; for LeRobot's `size=small` (trains on a CPU in minutes), `augment=0` (pictures as
they are) and `frozen_share=0.3` (what looks at pictures learns after that share of the steps).
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from envs.actions import EeDelta
from envs.arm_env import policy_spec
from envs.twin_env import SAFETY, make_twin_env
from policy_server.client import RemotePolicy
from policy_server.finetune_plan import Besides, plan_of, whole
from policy_server.policy import PolicyUnavailable
from rewarder.goal import Goal, UnknownGoal, parse_goal
from rl.bc import Clone, Lesson, Steps, clone, steps_of, write_policy
from rl.bc_checkpoint import CHECKPOINT, Checkpoint
from rl.dataset_steps import (
    CAMERAS,
    Recordings,
    episodes_of,
    open_recordings,
    single_goal,
    sound_recordings,
)
from rl.evaluate import circumstances, record, sentence, summary, write_json
from rl.metrics import Metrics
from rl.model_card import ABOUT, write_card
from rl.own_policy_server import OwnPolicyServer
from rl.own_process import OwnProcessFailed
from rl.progress import say, shown
from rl.run_folder import RunFolder
from rl.run_record import BadRun
from rl.statistics import wilson
from rl.trial import FIRST_SEED, Trial, TruthJudge, play_trial
from rl.trial_pool import Conditions, Contender, play
from robot.arm_config import ROOT
from robot.limits import SafetyLimits
from robot.sealed import make_folder
from robot.words import UsageError, parse_words

LEROBOT_KINDS = ("act", "diffusion")
BC = "bc"
SPEC = policy_spec(EeDelta(SafetyLimits.load(SAFETY)))
"""What a clone reads and writes: what a policy that practises does."""
WORDS = {
    "policy": "",
    "dataset": "",
    "out": "",
    "goal": "",
    "steps": "",
    "batch_size": "",
    "learning_rate": "",
    "seed": "0",
    "evaluation_episodes": "20",
    "episodes": "",
    "cameras": CAMERAS,
    "size": "",
    "augment": "1",
    "frozen_share": "0",
    "save_every": "",
    "resume": "",
}
OF_BC = ("episodes", "cameras")
OF_LEROBOT = ("size", "augment", "frozen_share")
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    BC: {"steps": "10000", "batch_size": "256", "learning_rate": "1e-3", "save_every": "500"},
    "act": {"steps": "20000", "batch_size": "8", "learning_rate": "", "save_every": "5000"},
    "diffusion": {"steps": "20000", "batch_size": "8", "learning_rate": "", "save_every": "5000"},
}
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
SERVED_HZ = 20
"""Rows a second of LeRobot's policies where nobody tells the server another rate."""
FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A policy that was taught, and what it is to be tried at."""

    folder: Path
    goal: Goal | None
    """None where the dataset has several."""
    fps: int
    steps: int
    """Updates that it was taught by."""
    pixels: tuple[int, int]
    """Height and width of the recorded pictures."""


def pretrain(words: Mapping[str, str]) -> Taught:
    """Teach what `words` ask for; the folder is whole, or not there at all.

    Raise `UsageError`, `PolicyUnavailable`, or what LeRobot's trainer raises.
    """
    return _clone(words) if words["policy"] == BC else _train(words)


def words_of(argv: list[str]) -> dict[str, str]:
    """Return all words with the policy's own defaults; raise `UsageError`."""
    given = parse_words(argv, known=WORDS)
    policy = given["policy"]
    if policy not in DEFAULTS:
        raise UsageError(f"policy={policy!r}; expected act, diffusion or bc")
    others = OF_LEROBOT if policy == BC else OF_BC
    for name in others:
        if given[name] != WORDS[name]:
            raise UsageError(f"{name}= is not for policy={policy}; leave it out")
    if given["size"] not in ("", "small") or given["augment"] not in ("0", "1"):
        raise UsageError("size= is small or left out, augment= is 1 or 0")
    out = Path(given["out"])
    if not out.name or out.exists():
        there = f"{out} is there already" if out.name else "it is not said where to"
        raise UsageError(f"{there}; give a folder that is still to be made: out=FOLDER")
    return {**given, **{name: given[name] or v for name, v in DEFAULTS[policy].items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """How a clone is taught."""

    updates: int
    batch_size: int
    learning_rate: float
    seed: int


def _clone(words: Mapping[str, str]) -> Taught:
    """Teach the small network and write it, with how it came about."""
    began, out = time.process_time(), Path(words["out"])
    settings, making = _settings(words), _making(out)
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


def _making(out: Path) -> Path:
    """Return where a policy lies until it is whole."""
    return out.with_name(f".{out.name}.making")


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
    _write(metrics, lesson.update, numbers)


def _write(metrics: Metrics, step: int, numbers: Mapping[str, float]) -> None:
    named = {"step": step, **numbers}
    metrics.write(step, {f"pretrain/{name}": number for name, number in named.items()})


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


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 1.0:
        raise UsageError(f"frozen_share={text!r}; expected a number from 0 to below 1")
    return share


def _train(words: Mapping[str, str]) -> Taught:
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
    making = _making(out)
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
    others = (*OF_BC, "out", "resume", "evaluation_episodes", "save_every")
    return {name: value for name, value in words.items() if name not in others}


def _report_step(metrics: Metrics, step: int, loss: float, learning_rate: float) -> None:
    _write(metrics, step, {"loss": loss, "learning_rate": learning_rate})


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


# Trials of what was taught


def evaluate(taught: Taught, *, episodes: int, remote: bool) -> Mapping[str, object] | None:
    """Try a policy on fresh layouts, on ground truth, and write `results.json` into its folder.

    With `remote` it is served by a process of its own and acts over the wire, in real time. Return
    None where it cannot be tried here.
    """
    if taught.goal is None or (remote and taught.fps != SERVED_HZ):
        return None
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    played = _over_the_wire(taught, seeds) if remote else _in_process(taught, seeds)
    recorded = record(played, taught.folder / "results.jsonl")
    trials = [trial for _, trial in shown(recorded, total=episodes, title=taught.goal.task)]
    result = {
        "task": taught.goal.task,
        "goal": str(taught.goal),
        **summary(trials),
        "remote": remote,
        "first_seed": FIRST_SEED,
        **circumstances(),
    }
    write_json(taught.folder / "results.json", result)
    _track(taught, trials)
    return result


def _track(taught: Taught, trials: Sequence[Trial]) -> None:
    """Add the success on fresh layouts to the figures of a training."""
    successes = sum(trial.success for trial in trials)
    lower, upper = wilson(successes, len(trials))
    with closing(Metrics(RunFolder(taught.folder))) as metrics:
        rates = {"success": successes / len(trials), "success_low": lower, "success_high": upper}
        _write(metrics, taught.steps, rates)


def _in_process(taught: Taught, seeds: range) -> Iterator[tuple[int, Trial]]:
    contender = Contender(policy=taught.folder, goal=str(taught.goal), preset="stiff")
    jobs = [(contender, seed) for seed in seeds]
    return play(jobs, Conditions(episodes=len(jobs), processes=min(2, len(jobs))))


def _over_the_wire(taught: Taught, seeds: range) -> Iterator[tuple[int, Trial]]:
    """Yield trials of a policy that is served, on a twin that keeps real time."""
    assert taught.goal is not None  # noqa: S101 - `evaluate` has looked
    env = make_twin_env(
        taught.goal,
        actions="joint_pos",
        image_size=taught.pixels,
        hz=float(taught.fps),
        realtime=True,
    )
    with closing(OwnPolicyServer(str(taught.folder), taught.folder / "server.log")) as server:
        server.wait()
        with closing(RemotePolicy(server.url, env.offers)) as policy:
            for index, seed in enumerate(seeds):
                yield index, play_trial(env, policy, seed=seed, judge=TruthJudge())


def main(argv: list[str]) -> int:
    """Teach, then try; return the exit code."""
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    try:
        words = words_of(argv)
        episodes = whole(words, "evaluation_episodes", least=0)
        taught = pretrain(words)
        say(f"{taught.folder}: serve it with make serve-pi {_served(taught, words['policy'])}")
        if episodes:
            _say(evaluate(taught, episodes=episodes, remote=words["policy"] != BC))
        write_card(taught.folder)
    except (UsageError, UnknownGoal) as error:
        return _end(f"{error}", USAGE)
    except PolicyUnavailable as error:
        return _end(f"{error}", UNAVAILABLE)
    except BadRun as error:
        return _end(f"{error}", error.code)
    except (OwnProcessFailed, OSError, ValueError, RuntimeError, ImportError) as error:
        return _end(f"it failed: {' '.join(str(error).split())}", FAILED)
    except KeyboardInterrupt:
        return _end("cut off; resume=1 beside the same words goes on", INTERRUPTED)
    return 0


def _served(taught: Taught, policy: str) -> str:
    """Return the words that serve a policy at the rate it was taught at."""
    hz = f" hz={taught.fps}" if policy != BC and taught.fps != SERVED_HZ else ""
    return f"POLICY={taught.folder}{hz}"


def _say(result: Mapping[str, object] | None) -> None:
    if result is None:
        say(
            "it is not tried here: that takes a dataset of one goal of ours, and for LeRobot's "
            f"policies of {SERVED_HZ} frames a second"
        )
    else:
        say(sentence(result))


def _end(why: str, code: int) -> int:
    sys.stderr.write(f"{why}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
