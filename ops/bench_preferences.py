"""How many pairs a person has to judge: drawn at random, or where models disagree.

`make bench-preferences JSON=…`, or `python -m ops.bench_preferences`; words: `task=lift`,
`episodes=150`, `labels=120`, `seeds=5`, `data=FILE.npz` (episodes to use again), `json=FILE`.

All of it is simulated, and the result says so. The scripted expert plays episodes on the twin at
several levels of noise. The *person* prefers the clip with the higher return on ground truth and
errs in 5 % of pairs. The *vision-language model* compares what the heuristic makes of the
pictures, off by as much for each clip in whatever pair it is shown, and by a little more at each
question, in both orders. Every ensemble is trained on
the model's word on all pairs of a pool, and on the person's on some of them, five-fold. Held-out
pairs are of other episodes, and are judged by ground truth without error. Of clips whose returns
hardly differ the person says that they are a tie, and no such pair is held out.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.arm_env import ArmEnv
from envs.twin_env import make_twin_env
from policy_server.backends.scripted import EXPERTS, ScriptedPolicy
from policy_server.policy import Policy
from rewarder.bradley_terry import PERSON_WEIGHT, PairSet, accuracy, fit
from rewarder.goal import task_goal
from rewarder.heuristic import Judge
from rewarder.pairs import Comparison, disagreement, needs_person
from rewarder.preference import MOMENTS, Ensemble, Rows, chances, features, spread
from rewarder.shaping import PROGRESS, Moment
from rl.evaluate import write_json
from rl.progress import say
from rl.rollout import decide
from robot.revision import git_revision
from robot.scene import Truth
from robot.sealed import pack, read_limited, seal, unpack
from robot.words import UsageError, parse_words

NOISES = (0.05, 0.3, 0.6, 1.0, 1.6)
PERSON_ERRS = 0.05
TELLS = 0.02
"""Mean progress by which clips must differ for the person to tell them apart."""
VLM_BIAS, VLM_NOISE = 0.4, 0.05
"""Standard deviations of what the simulated model errs by: of a clip, and at a question."""
POOL, HELD, BATCH = 400, 400, 10
TRAIN_SHARE = 0.7
LEVELS = (0.80, 0.85, 0.90)
type Curves = Mapping[str, Sequence[Sequence[float]]]
ARMS = ("random", "disagreement", "gated")
"""How the next pairs for the person are chosen: at random; where the members of the ensemble
differ most; the same, of those alone on which ensemble and model disagree (`needs_person`)."""
WORDS = {
    "task": "lift",
    "episodes": "150",
    "labels": "120",
    "seeds": "5",
    "data": "",
    "json": "",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Played:
    """E episodes as every seed uses them."""

    clips: Rows
    """Features, shape (E, 16, D)."""
    truth: Rows
    """Mean progress on ground truth, shape (E,)."""
    seen: Rows
    """Mean progress by the heuristic, shape (E,)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Pairs that may be asked about, and what the model and the person say of them."""

    pairs: PairSet
    """Targets are the model's, weights 1."""
    model: Sequence[Comparison]
    person: Rows
    """Targets that the person would give, shape (N,)."""

    def asked(self, chosen: Sequence[int]) -> PairSet:
        """Return all pairs, those chosen with the person's word instead of the model's."""
        rows = np.array(chosen, np.intp)
        targets, weights = self.pairs.targets.copy(), self.pairs.weights.copy()
        targets[rows], weights[rows] = self.person[rows], PERSON_WEIGHT
        return replace(self.pairs, targets=targets, weights=weights)


def play(task: str, episodes: int) -> Played:
    """Play episodes on the twin and keep what each shows."""
    env = make_twin_env(task_goal(task))
    found: list[tuple[Rows, float, float]] = []
    for number in range(episodes):
        noise = NOISES[number % len(NOISES)]
        policy = ScriptedPolicy(env.policy_spec, task, noise=noise, seed=number)
        found.append(play_one(env, policy, seed=number))
        if (number + 1) % max(1, episodes // 10) == 0:
            say(f"played {number + 1}/{episodes} episodes")
    clips, truths, sights = zip(*found, strict=True)
    return Played(clips=np.stack(clips), truth=np.array(truths), seen=np.array(sights))


def play_one(env: ArmEnv, policy: Policy, *, seed: int) -> tuple[Rows, float, float]:
    """Return the moments (16, D) of an episode, its mean progress in truth, and as it looks."""
    state, info = env.reset(seed=seed)
    judge, done, rows = Judge(env.goal, env.cameras), False, list[Rows]()
    valid, seen, truth = list[bool](), list[float](), list[float]()
    while not done:
        state, _, _, done, info = env.step(decide(policy, env, state, info))
        sensed = info["sensed"]
        at = sensed.observation
        _, progress, known = judge.consider(
            sensed.estimates, at.joint_pos, at.joint_target, at.stamp
        )
        if judge.moment is not None:
            rows.append(features(judge.moment))
            valid.append(known)
            seen.append(progress)
            truth.append(PROGRESS[env.goal.task](true_moment(judge.moment, env.scene.truth()))[1])
    moments = spread(np.array(rows), np.array(valid), len(rows))
    return moments, float(np.mean(truth)), float(np.mean(seen))


def true_moment(moment: Moment, truth: Truth) -> Moment:
    """Return a moment with where things are in truth."""
    return replace(moment, thing=truth.thing, place=truth.place, held=truth.held)


def make_pool(played: Played, clips: NDArray[np.intp], rng: np.random.Generator) -> Pool:
    """Return pairs of some clips with the simulated answers to them."""
    first, second = _pairs(clips, POOL, rng)
    looks = played.seen + VLM_BIAS * rng.standard_normal(len(played.seen))
    model = [vlm(float(gap), rng) for gap in looks[first] - looks[second]]
    gaps = played.truth[first] - played.truth[second]
    errs = rng.random(len(first)) < PERSON_ERRS
    person = np.where(np.abs(gaps) < TELLS, 0.5, (gaps > 0.0) != errs)
    shares = {"first": 1.0, "second": 0.0, "tie": 0.5}
    return Pool(
        pairs=PairSet(
            clips=played.clips,
            first=first,
            second=second,
            targets=np.array([shares[said.preferred] for said in model]),
            weights=np.ones(len(first)),
        ),
        model=model,
        person=person,
    )


def vlm(gap: float, rng: np.random.Generator) -> Comparison:
    """Return what the simulated model says of clips `gap` apart; it errs anew in each order."""
    noise = VLM_NOISE * rng.standard_normal((2, 2))
    forward, backward = (float(1.0 / (1.0 + np.exp(-20.0 * (gap + a - b)))) for a, b in noise)
    sides = {forward > 0.5, backward > 0.5}
    preferred = "tie" if len(sides) == 2 else ("first" if forward > 0.5 else "second")
    return Comparison(
        preferred=preferred,
        probability=(forward + backward) / 2,
        forward=forward,
        backward=backward,
    )


def choose(
    arm: str, pool: Pool, asked: Sequence[int], ensemble: Ensemble, rng: np.random.Generator
) -> list[int]:
    """Return the next pairs for the person."""
    left = np.setdiff1d(np.arange(len(pool.pairs)), np.array(asked, np.intp))
    if arm == "random":
        return [int(row) for row in rng.choice(left, BATCH, replace=False)]
    sums = ensemble.sums(pool.pairs.clips)
    odds = chances(sums[:, pool.pairs.first], sums[:, pool.pairs.second])
    order = [int(row) for row in left[np.argsort(-disagreement(odds[:, left]), kind="stable")]]
    if arm == "gated":
        # Pairs that all agree on come last, and only when no others are left.
        order.sort(key=lambda row: not needs_person([pool.model[row]], odds[:, row]))
    return order[:BATCH]


def learn(arm: str, played: Played, *, labels: int, seed: int) -> list[float]:
    """Return the held-out accuracy with 0, 10, 20 … labels of the person."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(played.truth))
    cut = round(TRAIN_SHARE * len(order))
    pool = make_pool(played, order[:cut], rng)
    held = held_out(played, order[cut:], rng)
    asked: list[int] = []
    curve: list[float] = []
    while True:
        ensemble = fit(pool.asked(asked), seed=seed)
        right, count = accuracy(ensemble, held)
        curve.append(right / count)
        if len(asked) >= labels:
            return curve
        asked += choose(arm, pool, asked, ensemble, rng)


def held_out(played: Played, clips: NDArray[np.intp], rng: np.random.Generator) -> PairSet:
    """Return pairs of other clips that can be told apart, judged by ground truth."""
    first, second = _pairs(clips, len(clips) ** 2, rng)
    apart = np.flatnonzero(np.abs(played.truth[first] - played.truth[second]) >= TELLS)[:HELD]
    first, second = first[apart], second[apart]
    return PairSet(
        clips=played.clips,
        first=first,
        second=second,
        targets=(played.truth[first] > played.truth[second]).astype(float),
        weights=np.ones(len(first)),
    )


def needed(curve: Sequence[float], level: float) -> int | None:
    """Return how many labels reach an accuracy for good, None where it is not reached."""
    short = [index for index, value in enumerate(curve) if value < level]
    after = short[-1] + 1 if short else 0
    return BATCH * after if after < len(curve) else None


def _pairs(
    clips: NDArray[np.intp], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return `count` different pairs, or all there are, in a random order and a random side."""
    one, other = np.triu_indices(len(clips), k=1)
    chosen = rng.permutation(len(one))[:count]
    swap = rng.random(len(chosen)) < 0.5
    first, second = clips[one[chosen]], clips[other[chosen]]
    return np.where(swap, second, first), np.where(swap, first, second)


def needs(curves: Curves) -> dict[str, dict[str, int | None]]:
    """Return the labels that each way needs, on average, for some levels of accuracy.

    The last level is where labels drawn at random end.
    """
    means = {arm: [float(x) for x in np.mean(rows, axis=0)] for arm, rows in curves.items()}
    levels = [*LEVELS, round(means["random"][-1], 4)]
    return {
        f"{level:g}": {arm: needed(mean, level) for arm, mean in means.items()} for level in levels
    }


def summary(curves: Curves) -> dict[str, Any]:
    """Return mean curves, and the labels that each way needs for the same accuracy."""
    means = {arm: np.mean(rows, axis=0) for arm, rows in curves.items()}
    return {
        "labels": [BATCH * index for index in range(len(means["random"]))],
        "accuracy": {arm: [round(float(x), 4) for x in mean] for arm, mean in means.items()},
        "std": {arm: [round(float(x), 4) for x in np.std(r, axis=0)] for arm, r in curves.items()},
        "needed": needs(curves),
        "by_seed": {arm: [list(curve) for curve in rows] for arm, rows in curves.items()},
    }


def model_accuracy(played: Played) -> tuple[float, float]:
    """Return how often the simulated model is right where it decides, and how often it ties."""
    rng = np.random.default_rng(0)
    pool = make_pool(played, np.arange(len(played.truth)), rng)
    decided = (pool.pairs.targets != 0.5) & (pool.person != 0.5)
    right = played.truth[pool.pairs.first] > played.truth[pool.pairs.second]
    agree = (pool.pairs.targets == 1.0)[decided] == right[decided]
    return float(agree.mean()), float((pool.pairs.targets == 0.5).mean())


def _load_or_play(words: Mapping[str, str], task: str, episodes: int) -> Played:
    data = Path(words["data"]) if words["data"] else None
    if data is not None and data.is_file():
        return Played(**unpack(read_limited(data)))
    played = play(task, episodes)
    if data is not None:
        seal(data, pack({"clips": played.clips, "truth": played.truth, "seen": played.seen}))
    return played


def run(words: Mapping[str, str]) -> None:
    """Play, learn in every way, print and write what came of it."""
    task, count = words["task"], {n: int(words[n]) for n in ("episodes", "labels", "seeds")}
    if task not in EXPERTS:
        raise UsageError(f"task={task} has no scripted expert; expected {', '.join(EXPERTS)}")
    played = _load_or_play(words, task, count["episodes"])
    curves: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    for seed in range(count["seeds"]):
        for arm in ARMS:
            curves[arm].append(learn(arm, played, labels=count["labels"], seed=seed))
            said = ", ".join(f"{value:.3f}" for value in curves[arm][-1])
            say(f"seed {seed}, {arm}: {said}")
    right, ties = model_accuracy(played)
    found = {
        **summary(curves),
        "simulated": __doc__,
        "task": task,
        **count,
        "noise": NOISES,
        "person_errs": PERSON_ERRS,
        "person_tells": TELLS,
        "model_errs": [VLM_BIAS, VLM_NOISE],
        "model_right": round(right, 4),
        "model_ties": round(ties, 4),
        "pool": POOL,
        "moments": MOMENTS,
        "git_revision": git_revision(),
        "command": shlex.join(["python", "-m", "ops.bench_preferences", *sys.argv[1:]]),
    }
    say(f"the simulated model is right in {right:.1%} of the pairs it decides, {ties:.1%} are ties")
    for level, by in needs(curves).items():
        say(f"accuracy {level}: " + ", ".join(f"{arm} {n}" for arm, n in by.items()) + " labels")
    if words["json"]:
        write_json(Path(words["json"]), found)


def main(argv: Sequence[str]) -> int:
    """Measure; return the exit code."""
    cv2.setNumThreads(1)
    try:
        run(parse_words(argv, known=WORDS))
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
