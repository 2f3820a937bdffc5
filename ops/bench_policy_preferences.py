"""The same answers to pairs, taken in by the policy itself or by way of a reward.

`make bench-policy-preferences RUN=runs/…`, or `python -m ops.bench_policy_preferences`; words:
`run=` (whose policy all begin with, best at 30 to 60 % success), `episodes=150` (played with noise
by that policy), `labels=100`, `trials=100` (fresh layouts, ground truth), `updates=300`,
`learning_rate=3e-4`, `keep=0.1`, `regression_keep=0.01`, `alpha=0.1`, `relative=1`, `seed=0`
(the first), `seeds=3`, `json=FILE`.

The person is simulated (`ops.simulated_person`) and errs in 5 % of pairs; ties are not counted as
labels. All ways use the same episodes and the same labels, take the same number of steps from the
same policy, and are kept near it, by a weight that suits their loss. A paired test holds for the
policies of one seed: other episodes and labels make other policies, and the seeds show how much
that is.

- `cpl`: contrastive preference learning on the policy (`rl.preference`);
- `reward`: an ensemble of rewards by Bradley and Terry (`rewarder.bradley_terry`), which then pays
  every step of the episodes, and advantage-weighted regression (Peng et al. 2019, arXiv
  1910.00177);
- `clone`: no labels, all that was done is imitated.
"""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from envs.arm_env import ArmEnv
from envs.twin_env import make_twin_env
from ops.bench_preferences import PERSON_ERRS, TELLS
from ops.simulated_person import Answers, Played, ask, play
from policy_server.backends.learned import LearnedPolicy, PolicyDamaged
from policy_server.backends.network import Encoder, encoding_of
from policy_server.policy import PolicySpec
from rewarder.bradley_terry import PairSet, ends_of, fit, progress_of
from rewarder.goal import parse_goal
from rewarder.preference import About, Rows, spread
from rl.adam import Adam
from rl.bc import Steps
from rl.command_line import find_run
from rl.evaluate import RUNS, circumstances, summary, write_json
from rl.networks import Networks
from rl.preference import Contrast, Ranked, actor_of, divergence, log_density, prefer
from rl.progress import say, score
from rl.run_record import BadRun, RunRecord, read_run
from rl.statistics import mcnemar_exact
from rl.trial import FIRST_SEED, Trial, evaluate_policy
from robot.words import UsageError, parse_words

WAYS = ("cpl", "reward", "clone")
DISCOUNT = 0.97
"""Of the returns that advantages are made of, as the learner's."""
MOST_WEIGHT = 20.0
"""Of a step in advantage-weighted regression, as its authors have it."""
VALUE_UPDATES, BATCH = 1000, 256
WORDS = {
    "run": "",
    "episodes": "150",
    "labels": "100",
    "trials": "100",
    "updates": "300",
    "learning_rate": "3e-4",
    "keep": "0.1",
    "regression_keep": "0.01",
    "alpha": "0.1",
    "relative": "1",
    "seed": "0",
    "seeds": "3",
    "json": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How every way learns."""

    contrast: Contrast
    regression_keep: float
    """Weight of the divergence from the base where steps are imitated."""
    updates: int
    learning_rate: float
    seed: int


def ranked_of(played: Played, answers: Answers) -> Ranked:
    """Return the answers as the policy learns from them."""
    return Ranked(
        steps=played.steps,
        better=np.where(answers.said, answers.first, answers.second),
        worse=np.where(answers.said, answers.second, answers.first),
        weights=np.ones(len(answers.said), np.float32),
    )


def paid_by_a_reward(played: Played, answers: Answers, task: str, *, seed: int) -> Rows:
    """Return the progress after each step, (E, T), by rewards that learnt from the answers."""
    horizon = played.valid.shape[1]
    clips = [
        spread(rows, valid, horizon) for rows, valid in zip(played.rows, played.valid, strict=True)
    ]
    pairs = PairSet(
        clips=np.stack(clips),
        first=answers.first,
        second=answers.second,
        targets=answers.said.astype(float),
        weights=np.ones(len(answers.said)),
    )
    ensemble = fit(pairs, seed=seed)
    low, high = ends_of(ensemble, played.rows[played.valid], 1.0)
    about = About(
        task=task,
        horizon=horizon,
        k=1.0,
        low=low,
        high=high,
        threshold=None,
        pairs=len(pairs),
        people_pairs=0,
        accuracy=None,
    )
    return np.stack([progress_of(ensemble, about, rows) for rows in played.rows])


def returns_of(rewards: Rows) -> Rows:
    """Return the discounted sum of what follows each step, shape (E, T); the end is no end."""
    # Time runs out without anything being lost: what was earned last would have gone on.
    found, later = np.zeros_like(rewards), rewards[:, -1] / (1.0 - DISCOUNT)
    for step in reversed(range(rewards.shape[1])):
        later = found[:, step] = rewards[:, step] + DISCOUNT * later
    return found


def values_of(inputs: Tensor, returns: Tensor, draws: np.random.Generator) -> Tensor:
    """Return what a small network expects of each state, shape (n,), learnt from the returns."""
    networks = Networks(1, (inputs.shape[1], 64, 64, 1))
    optimizer = Adam([networks.flat], 1e-3)
    for _ in range(VALUE_UPDATES):
        rows = draws.integers(len(inputs), size=BATCH)
        loss = (networks.trained(inputs[rows])[0][:, 0] - returns[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return networks.values(inputs)[0][:, 0]


def regress(
    networks: Networks, spec: PolicySpec, steps: Steps, plan: Plan, *, returns: Rows | None
) -> dict[str, float]:
    """Have an actor do what was done, the more so the more came of it; without returns, evenly."""
    draws = np.random.default_rng(plan.seed)
    inputs = Encoder(encoding_of(spec))(torch.from_numpy(steps.states))
    actions, weights = torch.from_numpy(steps.actions), torch.ones(len(inputs))
    if returns is not None:
        scaled = torch.from_numpy(
            (returns.ravel() - returns.mean()) / (returns.std() + 1e-6)
        ).float()
        gain = scaled - values_of(inputs, scaled, draws)
        weights = (gain / gain.std()).exp().clamp(max=MOST_WEIGHT)
    start, optimizer = networks.values(inputs)[0].clone(), Adam([networks.flat], plan.learning_rate)
    for _ in range(plan.updates):
        rows = torch.from_numpy(draws.integers(len(inputs), size=BATCH))
        outputs = networks.trained(inputs[rows])[0]
        likely = (weights[rows] * log_density(outputs, actions[rows])).mean()
        moved = divergence(outputs, start[rows]).mean()
        optimizer.zero_grad()
        (plan.regression_keep * moved - likely).backward()
        optimizer.step()
    moved: Tensor = divergence(networks.values(inputs)[0], start).mean()
    return {"moved": round(moved.item(), 4), "heaviest": round(float(weights.max()), 2)}


def taught(
    way: str, base: LearnedPolicy, played: Played, answers: Answers, plan: Plan, task: str
) -> tuple[LearnedPolicy, Mapping[str, object]]:
    """Return the base as one way has taught it, and what that says of itself."""
    networks, spec, began = actor_of(base), base.spec, time.process_time()
    torch.manual_seed(plan.seed)
    if way == "cpl":
        learnt = prefer(
            networks,
            spec,
            ranked_of(played, answers),
            plan.contrast,
            updates=plan.updates,
            learning_rate=plan.learning_rate,
            held_out=0.0,
            seed=plan.seed,
        )
        said: dict[str, object] = dict(asdict(learnt))
    elif way == "reward":
        paid = paid_by_a_reward(played, answers, task, seed=plan.seed)
        said = dict(regress(networks, spec, played.steps, plan, returns=returns_of(paid)))
        agrees = np.array(np.corrcoef(paid.mean(axis=1), played.truth), np.float64)
        said["agrees_with_truth"] = round(float(agrees[0, 1]), 3)
    else:
        said = dict(regress(networks, spec, played.steps, plan, returns=None))
    policy = LearnedPolicy(spec, encoding_of(spec), networks.layers[0], greedy=True)
    return policy, {**said, "cpu_s": round(time.process_time() - began, 1)}


def paired(one: Sequence[Trial], other: Sequence[Trial]) -> Mapping[str, object]:
    """Return what the same layouts say of two policies, by McNemar's exact test."""
    only = [
        sum(a.success and not b.success for a, b in zip(*both, strict=True))
        for both in ((one, other), (other, one))
    ]
    return {"only_first": only[0], "only_second": only[1], "p_value": mcnemar_exact(*only)}


def judged(tried: Mapping[str, Sequence[Trial]]) -> dict[str, Mapping[str, object]]:
    """Return how every way compares with the base, and the two that read labels with each other."""
    pairs = [*((way, "base") for way in tried if way != "base"), ("cpl", "reward")]
    return {f"{a} against {b}": paired(tried[a], tried[b]) for a, b in pairs}


def measure(
    run: RunRecord, plans: Sequence[Plan], *, episodes: int, labels: int, trials: int
) -> dict[str, object]:
    """Play, ask, learn in every way and try what came of it, once for each plan."""
    env = make_twin_env(parse_goal(run.goal), preset=run.preset)
    layouts = range(FIRST_SEED, FIRST_SEED + trials)
    base = evaluate_policy(env, LearnedPolicy.load(run.policy, greedy=True), layouts)
    say(f"base: {score(sum(trial.success for trial in base), trials)}")
    rounds = [
        one_round(env, run, plan, base, layouts, episodes=episodes, labels=labels) for plan in plans
    ]
    found = [one["successes"] for one in rounds]
    means = {way: float(np.mean([one[way] for one in found])) / trials for way in WAYS}
    for way, mean in means.items():
        say(f"{way}: {[one[way] for one in found]} of {trials}, mean {mean:.0%}")
    return {"base": summary(base), "mean": means, "rounds": rounds}


def one_round(  # noqa: PLR0913 - what is measured, and on what
    env: ArmEnv,
    run: RunRecord,
    plan: Plan,
    base: Sequence[Trial],
    layouts: range,
    *,
    episodes: int,
    labels: int,
) -> dict[str, Any]:
    """Return what came of the episodes, labels and trainings of one seed."""
    policy = LearnedPolicy.load(run.policy, seed=plan.seed)
    played = play(env, policy, episodes, seed=plan.seed)
    say(f"seed {plan.seed}: with noise {score(int(played.success.sum()), episodes)}")
    answers = ask(played.truth, labels, np.random.default_rng(plan.seed))
    tried, learnt = {"base": base}, dict[str, Mapping[str, object]]()
    for way in WAYS:
        acts, learnt[way] = taught(way, policy, played, answers, plan, run.task)
        tried[way] = evaluate_policy(env, acts, layouts)
        successes = sum(trial.success for trial in tried[way])
        say(f"seed {plan.seed}, {way}: {score(successes, len(layouts))}, {learnt[way]}")
    return {
        "seed": plan.seed,
        "played_successes": int(played.success.sum()),
        "labels_wrong": answers.wrong,
        "ties": answers.ties,
        "learnt": learnt,
        "successes": {way: sum(t.success for t in one) for way, one in tried.items()},
        "tried": {way: summary(tried[way]) for way in WAYS},
        "paired": judged(tried),
    }


def run_bench(words: Mapping[str, str]) -> None:
    """Measure what `words` ask for, print it and write it."""
    counts = {name: int(words[name]) for name in ("episodes", "labels", "trials")}
    if min(counts.values()) < 2:
        raise UsageError(f"episodes=, labels= and trials= are 2 or more, not {counts}")
    seeds = range(int(words["seed"]), int(words["seed"]) + int(words["seeds"]))
    if not words["run"] or not seeds:
        raise UsageError("name a run and how many seeds: run=runs/… seeds=3")
    run = read_run(find_run(words["run"], RUNS).path)
    plan = Plan(
        contrast=Contrast(
            alpha=float(words["alpha"]),
            keep=float(words["keep"]),
            relative=words["relative"] == "1",
        ),
        regression_keep=float(words["regression_keep"]),
        updates=int(words["updates"]),
        learning_rate=float(words["learning_rate"]),
        seed=seeds[0],
    )
    began = time.process_time()
    found = measure(run, [replace(plan, seed=seed) for seed in seeds], **counts)
    result = {
        "task": run.task,
        "run": run.folder.name,
        "base_updates": run.updates,
        **counts,
        **asdict(plan),
        **found,
        "simulated": __doc__,
        "person_errs": PERSON_ERRS,
        "person_tells": TELLS,
        "cpu_s": round(time.process_time() - began, 1),
        **circumstances(),
    }
    if words["json"]:
        write_json(Path(words["json"]), result)


def main(argv: Sequence[str]) -> int:
    """Measure; return the exit code."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        run_bench(parse_words(argv, known=WORDS))
    except BadRun as error:
        return _end(str(error), error.code)
    except (UsageError, ValueError, OSError, PolicyDamaged) as error:
        return _end(str(error), 2)
    except KeyboardInterrupt:
        return 130
    return 0


def _end(why: str, code: int) -> int:
    sys.stderr.write(f"{why}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
