"""Does the sentence matter? `python -m rl.grounding run=RUN pairs=20 json=PATH`.

Two cubes of different colours lie on the table of a twin. On each layout the policy acts twice: the
sentence names the one cube, then the other. It is followed where the tool comes nearest to the cube
that was named, by where everything really is. `make grounding RUN=…` writes RUN/grounding.json.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich.progress import track

from envs.arm_env import ArmEnv
from policy_server.policy import Policy
from rewarder.goal import Goal, UnknownGoal, parse_goal, task_goal
from rl.command_line import find_run
from rl.evaluate import RUNS, circumstances, training, write_json
from rl.evaluations import GROUNDING
from rl.progress import say
from rl.run_record import BadRun, RunRecord, read_run
from rl.statistics import wilson
from rl.trial import FIRST_SEED, play_trial
from rl.trial_pool import contender_of
from robot.scene import COLOURS, Item, Layout
from robot.words import UsageError, parse_words

KNOWN = {"run": "", "pairs": "20", "first_seed": str(FIRST_SEED), "json": ""}
TASKS = ("reach", "lift", "stack")
"""Tasks about cubes alone: the other cube can be named in the same sentence."""
NEAR_M = 0.08
"""Who never comes this near to a cube has followed no sentence; a reach ends 60 mm above it."""

type Named = Literal["thing", "place"]


class NearestJudge:
    """Judge by which of two cubes the tool came nearest to."""

    def __init__(self, named: Named) -> None:
        """Expect the layout's `thing` or its `place` to be the one."""
        self._named: Named = named

    def begin(self, env: ArmEnv) -> None:
        """Follow a fresh trial."""
        self._env = env
        self._nearest = {"thing": np.inf, "place": np.inf}

    def done(self) -> bool:
        """Look, and leave the trial running to its end."""
        truth = self._env.scene.truth()
        for name, where in (("thing", truth.thing), ("place", truth.place)):
            if where is not None:
                distance = float(np.linalg.norm(truth.tool - where))
                self._nearest[name] = min(self._nearest[name], distance)
        return False

    def success(self) -> bool:
        """Return whether it came near, and nearest to the cube that was named."""
        other = "place" if self._named == "thing" else "thing"
        mine = self._nearest[self._named]
        return mine <= NEAR_M and mine < self._nearest[other]


def asked(goal: Goal) -> tuple[Layout, dict[Named, Goal]]:
    """Return two cubes, and the sentence that names each; raise `BadRun` for other tasks."""
    if goal.task not in TASKS:
        raise BadRun(
            f"{goal.task} is about more than cubes; grounding is measured of {', '.join(TASKS)}",
            code=2,
        )
    one = goal.thing.colour
    other = next(c for c in COLOURS if c != one)
    if goal.place:
        other = goal.place.colour
    layout = Layout(thing=Item("cube", one), place=Item("cube", other))
    sentences: dict[Named, Goal] = {
        "thing": task_goal(goal.task, one, other),
        "place": task_goal(goal.task, other, one),
    }
    return layout, sentences


def follow(run: RunRecord, seeds: Sequence[int]) -> Iterator[tuple[bool, bool]]:
    """Yield whether each sentence was followed, for every layout."""
    layout, sentences = asked(parse_goal(run.goal))
    stored = contender_of(run, run.preset).policy
    import torch  # noqa: PLC0415 - a usage error needs neither torch nor MuJoCo

    torch.set_num_threads(1)
    policy = _policy(stored)
    envs: dict[Named, ArmEnv] = {
        named: _env(run, goal, layout, policy) for named, goal in sentences.items()
    }
    for seed in track(seeds, description=f"{run.task}, two sentences a layout", transient=True):
        said = [
            play_trial(env, policy, seed=seed, judge=NearestJudge(named)).success
            for named, env in envs.items()
        ]
        yield said[0], said[1]


def _policy(stored: Path) -> Policy:
    from policy_server.backends.learned import LearnedPolicy  # noqa: PLC0415

    try:
        return LearnedPolicy.load(stored, greedy=True)
    except (OSError, ValueError) as error:
        raise BadRun(f"{stored} cannot be played: {error}") from None


def _env(run: RunRecord, goal: Goal, layout: Layout, policy: Policy) -> ArmEnv:
    from envs.twin_env import make_twin_env  # noqa: PLC0415

    actions, preset = policy.spec.action_space, _twin(run.preset)
    env = make_twin_env(goal, preset=preset, actions=actions, layout=layout)
    if policy.spec != env.policy_spec:
        raise BadRun(
            f"{run.policy} reads {policy.spec}, the arm gives {env.policy_spec}; "
            "check out the revision that trained it"
        )
    return env


def _twin(preset: str) -> str:
    return "stiff" if preset == "emulated" else preset


def result_of(
    run: RunRecord, followed: Sequence[tuple[bool, bool]], first_seed: int
) -> dict[str, object]:
    """Return what is written of a measurement."""
    trials, hits = 2 * len(followed), sum(one + other for one, other in followed)
    both = sum(one and other for one, other in followed)
    _, sentences = asked(parse_goal(run.goal))
    return {
        "task": run.task,
        "goals": [str(goal) for goal in sentences.values()],
        "pairs": len(followed),
        "trials": trials,
        "followed": hits,
        "followed_each": [sum(pair[i] for pair in followed) for i in (0, 1)],
        "wilson95": [round(bound, 4) for bound in wilson(hits, trials)],
        "both": both,
        "both_wilson95": [round(bound, 4) for bound in wilson(both, len(followed))],
        "judge": "truth",
        "preset": _twin(run.preset),
        "first_seed": first_seed,
        **training(run),
        **circumstances(),
    }


def measure(given: Mapping[str, str]) -> dict[str, object]:
    """Play, write into the run's folder and return the result; raise `UsageError`, `BadRun`."""
    pairs, first_seed = (_whole(given, name) for name in ("pairs", "first_seed"))
    if not given["run"] or not pairs:
        raise UsageError("expected run=RUN and pairs=1 or more; use `make grounding RUN=runs/...`")
    run = read_run(find_run(given["run"], RUNS).path)
    seeds = range(first_seed, first_seed + pairs)
    result = result_of(run, list(follow(run, seeds)), first_seed)
    for path in (run.folder / GROUNDING, *([Path(given["json"])] if given["json"] else [])):
        write_json(path, result)
    return result


def _whole(given: Mapping[str, str], name: str) -> int:
    if not given[name].isdigit():
        raise UsageError(f"{name}={given[name]}; expected a whole number")
    return int(given[name])


def sentence(result: Mapping[str, object]) -> str:
    """Return a result in one line."""
    return (
        f"{result['followed']} of {result['trials']} sentences followed, "
        f"both of a layout {result['both']} of {result['pairs']} times (95 %: "
        "{:.0%} to {:.0%})".format(*result["both_wilson95"])  # pyright: ignore
    )


def main(words: Sequence[str]) -> int:
    """Measure, print, return the exit code."""
    try:
        result = measure(parse_words(words, known=KNOWN))
    except (UsageError, BadRun, UnknownGoal) as error:
        sys.stderr.write(f"error: {error}\n")
        return getattr(error, "code", 2)
    say(sentence(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
