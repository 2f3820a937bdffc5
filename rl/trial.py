"""One evaluation trial: a policy acts on a fresh layout until it has succeeded or time is up."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from envs.arm_env import ArmEnv, EnvState, Info
from envs.homing import ArmStopped, ArmStuckError
from policy_server.policy import Policy, PolicyAway, begin_episode
from rl.course import Course
from rl.rollout import TruthWatch, request_of

FIRST_SEED = 1_000_000
"""Evaluation draws its layouts from here upwards; training stays below."""
SATURATION_S = 1.0
"""A joint that the guard holds back longer than this without a break was not treated gently."""
SQUEEZE = "lead:gripper"
"""The gripper's lead is its squeeze limit: holding a cube saturates it, as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How one trial went."""

    seed: int
    success: bool
    time_s: float
    """From the first action to the end of the trial, seconds of the arm's clock."""
    end: str
    """`done`, `time_limit`, `stuck` or `stopped`: why it was over, whatever the judge says."""
    gentle: bool
    """The arm parked without help and no joint was held back for long."""
    guard_events: Mapping[str, int]
    """In how many steps the guard changed a command, by `rule:joint`."""
    jerk: float | None = None
    """RMS jerk of the revolute joints' measured path, degrees/s^3, by `rl.course.rms_jerk`."""
    commands: int = 0
    """Commands that went out in `time_s`."""
    answer_ms: Sequence[float] = ()
    """Age of each observation when its action went out; none on a clock that waits for a policy."""


class Judge(Protocol):
    """Who says whether a trial succeeded."""

    def begin(self, env: ArmEnv) -> None:
        """Prepare for a trial in a scene that has been reset."""
        ...

    def done(self) -> bool:
        """Look at the moment after one more step; return whether a success ends the trial."""
        ...

    def success(self) -> bool:
        """Return whether the trial, which has ended, was a success."""
        ...


class TruthJudge:
    """Judge by where everything on the twin really is, never by a reward model."""

    _watch: TruthWatch

    def begin(self, env: ArmEnv) -> None:
        """Follow a fresh trial."""
        self._watch = TruthWatch(env)

    def done(self) -> bool:
        """Return whether success has held long enough."""
        self._watch.look()
        return self.success()

    def success(self) -> bool:
        """Return whether success has held long enough."""
        return self._watch.success_at_s is not None


class Saturation:
    """How often, and how long without a break, the guard held each joint back."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.longest_s = 0.0
        self._since: dict[str, float] = {}

    def add(self, events: set[str], *, began: float, now: float) -> None:
        """Count the events of one step that lasted from `began` to `now`."""
        self.counts.update(events)
        self._since = {event: self._since.get(event, began) for event in events - {SQUEEZE}}
        self.longest_s = max([self.longest_s, *(now - since for since in self._since.values())])


def play_trial(env: ArmEnv, policy: Policy, *, seed: int, judge: Judge) -> Trial:
    """Play one trial and retreat; it ends when the judge sees a success, or with the episode.

    Raise `ArmStopped` where it cannot begin.
    """
    try:
        state, info = env.reset(seed=seed)
    except ArmStuckError:
        return Trial(
            seed=seed, success=False, time_s=0.0, end="stuck", gentle=False, guard_events={}
        )
    judge.begin(env)
    course = Course()
    end, time_s, saturation = _run(env, policy, judge, (state, info), course)
    parked = _parked(env)
    return Trial(
        seed=seed,
        success=judge.success(),
        time_s=round(time_s, 3),
        end=end,
        gentle=parked and saturation.longest_s <= SATURATION_S + 1e-6,
        guard_events=dict(saturation.counts),
        jerk=course.jerk,
        commands=course.commands,
        answer_ms=tuple(course.answer_ms),
    )


def evaluate_policy(
    env: ArmEnv,
    policy: Policy,
    seeds: Iterable[int],
    *,
    judge: Judge | None = None,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Play one trial a seed and return them all; `on_trial` hears of each as soon as it is over."""
    judge = judge or TruthJudge()
    trials: list[Trial] = []
    for seed in seeds:
        trials.append(play_trial(env, policy, seed=seed, judge=judge))
        on_trial(trials[-1])
    return trials


def _run(
    env: ArmEnv, policy: Policy, judge: Judge, first: tuple[EnvState, Info], course: Course
) -> tuple[str, float, Saturation]:
    """Return why the trial was over, how long it took and what the guard had to do."""
    state, info = first
    course.see(info)
    began = now = env.arm.clock.now()
    act, saturation = _actions(env, policy), Saturation()
    end: str | None = None
    while end is None:
        try:
            action = act(state, info)
        except PolicyAway:
            return "stopped", now - began, saturation
        course.answered(info, env.arm.clock)
        state, _, _, late, info = env.step(action)
        course.see(info)
        before, now = now, env.arm.clock.now()
        saturation.add(_events(info), began=before, now=now)
        if info["sensed"].stopped:
            end = "stopped"
        elif judge.done():
            end = "done"
        elif late:
            end = "time_limit"
    return end, now - began, saturation


def _actions(env: ArmEnv, policy: Policy) -> Callable[[EnvState, Info], NDArray[np.float32]]:
    """Return what answers a state with the next row of a chunk, asking for chunks as needed."""
    rows: list[NDArray[np.float32]] = []
    begin_episode(policy)

    def act(state: EnvState, info: Info) -> NDArray[np.float32]:
        if not rows:
            rows.extend(policy.infer_batch([request_of(policy.spec, env, state, info)])[0].actions)
        return rows.pop(0) if rows else env.hold_action()

    return act


def _events(info: Info) -> set[str]:
    return {str(event) for command in info["sensed"].commands for event in command.events}


def _parked(env: ArmEnv) -> bool:
    try:
        env.look_after()
    except (ArmStuckError, ArmStopped):
        return False
    return True
