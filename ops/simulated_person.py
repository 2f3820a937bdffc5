"""Episodes that a policy played with its own noise, and a simulated person who compares them.

The *person* prefers of two episodes the one with the higher mean progress on ground truth, errs in
5 % of pairs, and calls those a tie that hardly differ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.arm_env import ArmEnv
from ops.bench_preferences import PERSON_ERRS, TELLS, true_moment
from policy_server.backends.learned import LearnedPolicy, join
from rewarder.heuristic import Judge
from rewarder.preference import Rows, features
from rewarder.shaping import PROGRESS
from rl.bc import Steps
from rl.progress import say
from rl.rollout import TruthWatch, decide
from robot.words import UsageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Played:
    """E episodes of T steps each."""

    steps: Steps
    rows: Rows
    """What a reward sees after each step, shape (E, T, D)."""
    valid: NDArray[np.bool_]
    """Where that is known, shape (E, T)."""
    truth: Rows
    """Mean progress on ground truth, shape (E,)."""
    success: NDArray[np.bool_]
    """On ground truth, shape (E,)."""


def play(env: ArmEnv, policy: LearnedPolicy, episodes: int, *, seed: int) -> Played:
    """Have a policy play episodes with its own noise, each to the end of its time."""
    found: list[tuple[NDArray[Any], ...]] = []
    for number in range(episodes):
        found.append(play_one(env, policy, seed=1000 * seed + number))
        if (number + 1) % max(1, episodes // 10) == 0:
            say(f"played {number + 1}/{episodes} episodes")
    states, actions, rows, valid, truth, success = (
        np.stack(part) for part in zip(*found, strict=True)
    )
    steps = Steps(
        states=states.reshape(-1, states.shape[-1]),
        actions=actions.reshape(-1, actions.shape[-1]),
        episode=np.repeat(np.arange(episodes), actions.shape[1]),
    )
    return Played(steps=steps, rows=rows, valid=valid, truth=truth, success=success)


def play_one(env: ArmEnv, policy: LearnedPolicy, *, seed: int) -> tuple[NDArray[Any], ...]:
    """Return states (T, n), actions (T, a), rows (T, D), valid (T,), and truth and success."""
    state, info = env.reset(seed=seed)
    judge, watch, progress, done = Judge(env.goal, env.cameras), TruthWatch(env), 0.0, False
    for sensed in (info["look"], info["sensed"]):
        at = sensed.observation
        judge.consider(sensed.estimates, at.joint_pos, at.joint_target, at.stamp)
    notes: list[tuple[NDArray[np.float32], NDArray[np.float32], Rows, bool]] = []
    truths: list[float] = []
    while not done:
        action = decide(policy, env, state, info)
        seen = join({name: state[name] for name in policy.spec.state}, policy.spec)
        state, _, _, done, info = env.step(action)
        watch.look()
        sensed = info["sensed"]
        at = sensed.observation
        known = judge.consider(sensed.estimates, at.joint_pos, at.joint_target, at.stamp)[2]
        assert judge.moment is not None  # noqa: S101 - `consider` has just set it
        notes.append((seen, action, features(judge.moment), known))
        progress = PROGRESS[env.goal.task](true_moment(judge.moment, env.scene.truth()))[1]
        truths.append(1.0 if watch.success_at_s is not None else progress)
    ended = np.array(np.mean(truths)), np.array(watch.success_at_s is not None)
    return (*(np.array(part) for part in zip(*notes, strict=True)), *ended)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What the simulated person said of N pairs."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    said: NDArray[np.bool_]
    """Whether the first is the better, shape (N,)."""
    wrong: int
    ties: int
    """Pairs that it was shown besides and called a tie."""


def ask(truth: Rows, labels: int, rng: np.random.Generator) -> Answers:
    """Return `labels` answers to pairs drawn at random; raise `UsageError` where they run out."""
    one, other = np.triu_indices(len(truth), k=1)
    order = rng.permutation(len(one))
    swap = rng.random(len(order)) < 0.5
    first = np.where(swap, other[order], one[order])
    second = np.where(swap, one[order], other[order])
    told = np.abs(truth[first] - truth[second]) >= TELLS
    asked = np.flatnonzero(told)[:labels]
    if len(asked) < labels:
        raise UsageError(
            f"only {len(asked)} pairs can be told apart; fewer labels= or more episodes="
        )
    errs = rng.random(labels) < PERSON_ERRS
    first, second = first[asked], second[asked]
    return Answers(
        first=first,
        second=second,
        said=(truth[first] > truth[second]) != errs,
        wrong=int(errs.sum()),
        ties=int((~told[: asked[-1]]).sum()),
    )
