"""Teach a policy from recordings: `make pretrain DATASET=NAME POLICY=act|diffusion|bc OUT=FOLDER`.

`policy=bc` is a small network of our own that sees what the arm's eyes make of the recorded
pictures; reinforcement learning goes on from it (`learner.start=FOLDER`). `act` and `diffusion` are
LeRobot's, from nothing. Words: `dataset=` (a recording or a folder), `out=`, `goal="…"` (in place
of the dataset's own), `steps=`, `batch_size=`, `learning_rate=`, `seed=`, `evaluation_episodes=20`
(trials on the simulated arm afterwards; 0 for none), `episodes=` (only so many of the recordings,
bc), `cameras=` (where they stood, bc); for LeRobot's `size=small` (trains on a CPU in minutes),
`augment=0` (pictures as they are), `save_every=`, and `resume=1` after a run was cut off.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from envs.actions import EeDelta
from envs.arm_env import policy_spec
from envs.twin_env import SAFETY, make_twin_env
from policy_server.client import RemotePolicy
from policy_server.finetune_plan import plan_of, whole
from policy_server.policy import PolicyUnavailable
from rewarder.goal import Goal, UnknownGoal, parse_goal
from rl.bc import Steps, clone, steps_of, write_policy
from rl.dataset_steps import (
    CAMERAS,
    Recordings,
    episodes_of,
    open_recordings,
    single_goal,
    sound_recordings,
)
from rl.evaluate import circumstances, record, sentence, summary, write_json
from rl.own_policy_server import OwnPolicyServer
from rl.own_process import OwnProcessFailed
from rl.progress import say, shown
from rl.run_record import BadRun
from rl.trial import FIRST_SEED, Trial, TruthJudge, play_trial
from rl.trial_pool import Conditions, Contender, play
from robot.arm_config import ROOT
from robot.limits import SafetyLimits
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
    "save_every": "5000",
    "resume": "",
}
OF_BC = ("episodes", "cameras")
OF_LEROBOT = ("size", "augment", "save_every", "resume")
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    BC: {"steps": "10000", "batch_size": "256", "learning_rate": "1e-3"},
    "act": {"steps": "20000", "batch_size": "8", "learning_rate": ""},
    "diffusion": {"steps": "20000", "batch_size": "8", "learning_rate": ""},
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


def _clone(words: Mapping[str, str]) -> Taught:
    """Teach the small network and write it, with how it came about."""
    began, out = time.process_time(), Path(words["out"])
    settings = _settings(words)
    recordings, goal, steps = _recorded(words)
    updates = settings.updates
    taught = clone(
        steps,
        SPEC,
        updates=updates,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        report=lambda done, error: say(f"{done}/{updates} updates, error {error:.3f}"),
    )
    making = out.with_name(f".{out.name}.making")
    write_policy(making, taught.networks, SPEC, updates=updates)
    about = {
        "dataset": words["dataset"],
        "goal": str(goal),
        **asdict(settings),
        "recordings": int(steps.episode.max()) + 1,
        "recorded_steps": len(steps.states),
        "error": round(taught.error, 4),
        "held_out_error": taught.held_out_error and round(taught.held_out_error, 4),
        "cpu_s": round(time.process_time() - began, 1),
        **circumstances(),
    }
    write_json(making / "pretrain.json", about)
    making.rename(out)
    first = next(iter(recordings.cameras.values()))
    fps = round(recordings.contents.fps)
    return Taught(folder=out, goal=goal, fps=fps, pixels=(first.height, first.width))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """How a clone is taught."""

    updates: int
    batch_size: int
    learning_rate: float
    seed: int


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


def _train(words: Mapping[str, str]) -> Taught:
    """Have LeRobot's trainer teach a policy from nothing, or go on with that."""
    # LeRobot costs seconds, and our own policies do without.
    from policy_server.finetune import Failed, finetune, resume  # noqa: PLC0415

    contents, recorded = sound_recordings(words["dataset"])
    goal = parse_goal(words["goal"]) if words["goal"] else _common_goal(contents.episodes)
    fields = {"base": "", "rename": "", "freeze_vision": "", "expert_only": "", "lora": ""}
    try:
        if words["resume"] == "1":
            folder = resume(words)
        else:
            folder = finetune(plan_of({**words, **fields}), adjust=lambda it: _adjust(it, words))
    except Failed as error:
        raise RuntimeError(str(error)) from error
    pixels = next(iter(recorded.values()))
    return Taught(folder=folder, goal=goal, fps=round(contents.fps), pixels=pixels)


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
    return result


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
        say(f"{taught.folder}: serve it with make serve-pi POLICY={taught.folder}")
        if episodes:
            _say(evaluate(taught, episodes=episodes, remote=words["policy"] != BC))
    except (UsageError, UnknownGoal) as error:
        return _end(f"{error}", USAGE)
    except PolicyUnavailable as error:
        return _end(f"{error}", UNAVAILABLE)
    except BadRun as error:
        return _end(f"{error}", error.code)
    except (OwnProcessFailed, OSError, ValueError, RuntimeError, ImportError) as error:
        return _end(f"it failed: {' '.join(str(error).split())}", FAILED)
    except KeyboardInterrupt:
        return _end("cut off; with LeRobot's policies resume=1 goes on", INTERRUPTED)
    return 0


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
