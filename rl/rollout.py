"""One episode: look, act until the clock or the arm's own eyes say stop, retreat, look again."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from envs.arm_env import ArmEnv, EnvState, Info, Sensed
from envs.homing import ArmStopped, ArmStuckError
from envs.tasks import HOLD_S
from policy_server.backends.residual import PREFIX
from policy_server.policy import (
    ActionChunk,
    Correction,
    Policy,
    PolicyAway,
    PolicyRequest,
    PolicySpec,
    begin_episode,
    told,
)
from rewarder.heuristic import Judge
from robot.arm import Observation
from robot.camera import encode_jpeg
from robot.envelope import sentences
from robot.journal import SOURCES, End, Episode, EpisodeInfo, Source

SEEMS_DONE_S = 0.8
"""For so long a goal must seem reached before an episode ends early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known of an episode before it begins."""

    episode: str
    arm: str
    seed: int
    source: Source
    policy: str
    """Name and version, e.g. `learned/000042`."""
    greedy: bool
    git_revision: str
    config: Mapping[str, object]


class _Notes:
    """What an episode has collected so far."""

    def __init__(self, look: Observation, source: Source) -> None:
        self.observations = [look]
        self.states: list[EnvState] = []
        self.actions: list[NDArray[np.float32]] = []
        self.sources: list[Source] = []
        self.events: list[tuple[str, ...]] = []
        self.corrections: list[Correction] = []
        """One for each state, where the policy corrects another one's rows."""
        self._source: Source = source

    @property
    def helped(self) -> bool:
        """Return whether a person took over in any step."""
        return self._source != "human" and "human" in self.sources

    def see(self, state: EnvState, info: Info) -> None:
        self.states.append(state)
        self.observations.append(info["sensed"].observation)

    def decide(self, chunk: ActionChunk) -> None:
        """Keep what a correction was made of."""
        if chunk.correction:
            self.corrections.append(chunk.correction)

    def act(self, action: NDArray[np.float32], sensed: Sensed) -> None:
        """Keep the policy's action, or the person's where one took over; of either what is new."""
        person = sensed.taken if sensed.human else None
        done = action if person is None else person
        if self.corrections:
            last = self.corrections[-1]
            done = last.action if person is None else last.nearest(person)
        self.actions.append(done)
        self.sources.append(self._source if person is None else "human")
        commands = sensed.commands
        self.events.append(tuple(str(event) for command in commands for event in command.events))


class Eyes:
    """The arm's own opinion of how far it has come, from what its cameras show."""

    def __init__(self, env: ArmEnv, start: Info) -> None:
        """Begin with what a reset showed."""
        self._judge = Judge(env.goal, env.cameras)
        self._enough = round(SEEMS_DONE_S / env.step_s)
        self._in_a_row = 0
        for sensed in (start["look"], start["sensed"]):
            self.see(sensed)

    def see(self, sensed: Sensed) -> bool:
        """Return whether the goal has seemed reached for long enough."""
        seen = sensed.observation
        success, _, valid = self._judge.consider(
            sensed.estimates, seen.joint_pos, seen.joint_target, seen.stamp
        )
        self._in_a_row = self._in_a_row + 1 if success and valid else 0
        return self._in_a_row >= self._enough


class TruthWatch:
    """Follows, on ground truth, whether a task's success has held long enough."""

    def __init__(self, env: ArmEnv) -> None:
        self._env, self._held, self._step = env, 0, 0
        self._enough = round(HOLD_S / env.step_s)
        self.success_at_s: float | None = None

    def look(self) -> None:
        """Judge the moment after one more step."""
        self._step += 1
        self._held = self._held + 1 if self._env.task.success(self._env.scene.truth()) else 0
        if self._held > self._enough and self.success_at_s is None:
            self.success_at_s = self._step * self._env.step_s

    def said(self) -> Mapping[str, bool | float]:
        """Return what an `EpisodeInfo` keeps."""
        if self.success_at_s is None:
            return {"success": False}
        return {"success": True, "success_at_s": self.success_at_s}


def run_episode(
    env: ArmEnv, policy: Policy, plan: Plan, *, stop: Callable[[], bool] = lambda: False
) -> Episode:
    """Run one episode and return it, ready to be sealed.

    It ends early once the goal has seemed reached, to the arm's own eyes, for `SEEMS_DONE_S`:
    robot time is dear, and whether it was true the reward model says later. `stop()` ends it
    between two steps as the operator's wish. A stop of the arm or a lost link ends it before the
    step that was cut short, a policy that is away too long ends it as a lost link, and a retreat
    that does not arrive ends it as a fault; all with a last look from where the arm is, if it can
    be had. Raise `ArmStopped` where no step was made.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begin_episode(policy)
    state, info = env.reset(seed=plan.seed)
    notes, watch = _Notes(info["look"].observation, plan.source), _watch(env)
    notes.see(state, info)
    eyes = Eyes(env, info)
    end: End | None = None
    while end is None:
        try:
            chunk = ask(policy, env, state, info)
        except PolicyAway as away:
            end = _cut_short(env, notes, ArmStopped(str(away), end="lost_link"))
            break
        notes.decide(chunk)
        action = row_of(chunk, env)
        state, _, _, late, info = env.step(action)
        if stopped := info["sensed"].stopped:
            end = _cut_short(env, notes, stopped)
            break
        notes.act(action, info["sensed"])
        notes.see(state, info)
        watch = _follow(watch)
        done = eyes.see(info["sensed"])
        end = _end(late=late, done=done, stopped=stop())
    else:
        _ask_once_more(policy, env, notes, state, info)
        end = _look_after(env, notes, end)
    truth = watch.said() if watch else None
    plan = replace(plan, config={**plan.config, **told(policy)})
    return _episode(notes, _info(env, plan, end, started, truth, notes))


def _watch(env: ArmEnv) -> TruthWatch | None:
    try:
        env.scene.truth()
    except NotImplementedError:
        return None
    return TruthWatch(env)


def _follow(watch: TruthWatch | None) -> TruthWatch | None:
    """Judge the moment after a step; return None from where nobody can tell any more."""
    try:
        if watch:
            watch.look()
    except ArmStopped:
        return None
    return watch


def decide(policy: Policy, env: ArmEnv, state: EnvState, info: Info) -> NDArray[np.float32]:
    """Return what the policy does next; where it has no answer, the arm holds."""
    return row_of(ask(policy, env, state, info), env)


def ask(policy: Policy, env: ArmEnv, state: EnvState, info: Info) -> ActionChunk:
    """Return a policy's answer to one moment."""
    return policy.infer_batch([request_of(policy.spec, env, state, info)])[0]


def row_of(chunk: ActionChunk, env: ArmEnv) -> NDArray[np.float32]:
    """Return the first row of a chunk; without one, the action that holds."""
    return chunk.actions[0] if len(chunk.actions) else env.hold_action()


def _ask_once_more(policy: Policy, env: ArmEnv, notes: _Notes, state: EnvState, info: Info) -> None:
    """Keep what the last state would have been corrected from: learners look one step ahead."""
    if notes.corrections:
        with suppress(PolicyAway):
            notes.decide(ask(policy, env, state, info))


def request_of(spec: PolicySpec, env: ArmEnv, state: EnvState, info: Info) -> PolicyRequest:
    """Return what a policy is told of one moment."""
    seen = info["sensed"].observation
    return PolicyRequest(
        state={name: state[name] for name in spec.state},
        images={name: seen.frames[name].image for name in spec.images if name in seen.frames},
        goal=str(env.goal),
        observed_at=seen.stamp,
    )


def _end(*, late: bool, done: bool, stopped: bool) -> End | None:
    if stopped:
        return "operator"
    if done:
        return "seems_done"
    return "time_limit" if late else None


def _cut_short(env: ArmEnv, notes: _Notes, stopped: ArmStopped) -> End:
    """Return how an episode ends that the arm has cut short; there must have been one."""
    if not notes.actions:
        raise stopped
    _last_look(env, notes)
    return stopped.end


def _look_after(env: ArmEnv, notes: _Notes, end: End) -> End:
    try:
        notes.observations.append(env.look_after())
    except ArmStuckError:
        _last_look(env, notes)
        return "fault"
    except ArmStopped as stopped:
        _last_look(env, notes)
        return stopped.end
    return end


def _last_look(env: ArmEnv, notes: _Notes) -> None:
    """Look from where the arm is; an arm out of reach leaves no such look."""
    with suppress(ArmStopped):
        notes.observations.append(env.arm.observe())


def _info(
    env: ArmEnv,
    plan: Plan,
    end: End,
    started: str,
    truth: Mapping[str, bool | float] | None,
    notes: _Notes,
) -> EpisodeInfo:
    return EpisodeInfo(
        episode=plan.episode,
        arm=plan.arm,
        task=env.task.name,
        goal=str(env.goal),
        seed=plan.seed,
        end=end,
        started_at=started,
        action_space=f"{PREFIX if notes.corrections else ''}{env.policy_spec.action_space}",
        policy=plan.policy,
        # What a person helped with says nothing of the policy's own success.
        greedy=plan.greedy and not notes.helped,
        git_revision=plan.git_revision,
        config={**plan.config, **_about(env, notes)},
        truth=truth,
    )


def _about(env: ArmEnv, notes: _Notes) -> Mapping[str, object]:
    """Return what is to be known of the arm: for a twin nothing."""
    about = env.about()
    if not about:
        return about
    seen = notes.observations[1 : len(notes.states) + 1]
    said = sentences(
        np.array([observation.joint_target for observation in seen]),
        np.array([observation.joint_pos for observation in seen]),
        np.array([observation.stamp for observation in seen]),
    )
    return {**about, "tracking": said}


def _episode(notes: _Notes, info: EpisodeInfo) -> Episode:
    seen = notes.observations
    cameras = dict.fromkeys(name for observation in seen for name in observation.frames)
    vectors = [name for name, value in notes.states[0].items() if value.ndim == 1]
    return Episode(
        info=info,
        stamps=np.array([observation.stamp for observation in seen]),
        joint_pos=np.array([observation.joint_pos for observation in seen]),
        joint_target=np.array([observation.joint_target for observation in seen]),
        frames={name: [_jpeg(observation, name) for observation in seen] for name in cameras},
        first_step=1,
        state={
            **{name: np.array([state[name] for state in notes.states]) for name in vectors},
            **_corrected(notes),
        },
        actions=np.array(notes.actions, np.float32),
        source=np.array([SOURCES.index(source) for source in notes.sources], np.uint8),
        guard_events=notes.events,
    )


def _corrected(notes: _Notes) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of the corrections, shape (T+1, size); the last one stays if need be."""
    if not notes.corrections:
        return {}
    missing = len(notes.states) - len(notes.corrections)
    kept = [*notes.corrections, *[notes.corrections[-1]] * missing]
    return {name: np.array([one.state[name] for one in kept]) for name in kept[0].state}


def _jpeg(observation: Observation, camera: str) -> bytes:
    frame = observation.frames.get(camera)
    return encode_jpeg(frame.image) if frame else b""
