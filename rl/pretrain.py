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
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from envs.twin_env import make_twin_env
from policy_server.client import RemotePolicy
from policy_server.finetune_plan import whole
from policy_server.policy import PolicyUnavailable
from rewarder.goal import UnknownGoal
from rl.dataset_steps import CAMERAS
from rl.evaluate import circumstances, record, sentence, summary, write_json
from rl.metrics import Metrics
from rl.model_card import write_card
from rl.own_policy_server import OwnPolicyServer
from rl.own_process import OwnProcessFailed
from rl.pretrain_bc import BC, clone_recordings
from rl.pretrain_lerobot import train_lerobot
from rl.progress import say, shown
from rl.run_folder import RunFolder
from rl.run_record import BadRun
from rl.statistics import wilson
from rl.taught import Taught, write_figures
from rl.trial import FIRST_SEED, Trial, TruthJudge, play_trial
from rl.trial_pool import Conditions, Contender, play
from robot.words import UsageError, parse_words

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
SERVED_HZ = 20
"""Rows a second of LeRobot's policies where nobody tells the server another rate."""
FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130


def pretrain(words: Mapping[str, str]) -> Taught:
    """Teach what `words` ask for; the folder is whole, or not there at all.

    Raise `UsageError`, `PolicyUnavailable`, or what LeRobot's trainer raises.
    """
    return clone_recordings(words) if words["policy"] == BC else train_lerobot(words)


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
        write_figures(metrics, taught.steps, rates)


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
