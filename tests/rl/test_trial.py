from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from envs.homing import ArmStopped, ArmStuckError
from envs.tasks import Task
from policy_server.policy import ActionChunk, PolicySpec
from rl.trial import TruthJudge, evaluate_policy, play_trial


class FakeClock:
    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time


@dataclass
class FakeScene:
    """Success is true at the steps that `reached` lists; step 0 is right after the reset."""

    reached: set[int]
    step: int = 0

    def reset(self, seed):
        self.step = 0

    def truth(self):
        return self.step in self.reached


@dataclass
class FakeEnv:
    reached: set[int]
    events: dict[int, list[str]] = field(default_factory=dict)
    stuck_at: str = ""
    stopped_at: int | None = None

    def __post_init__(self):
        self.scene, self.seeds, self.actions = FakeScene(self.reached), [], []
        self.arm, self.goal = SimpleNamespace(clock=FakeClock()), "Lift the red cube."
        self.task = Task(name="fake", limit_s=2.0, success=bool)
        self.step_s = 0.1

    def reset(self, *, seed):
        self.scene.reset(seed)
        if self.stuck_at == "start":
            raise ArmStuckError("held by a hand")
        self.seeds.append(seed)
        return {"at": np.zeros(1, np.float32)}, self.info()

    def step(self, action):
        self.actions.append(action)
        self.scene.step += 1
        self.arm.clock.time += 0.1
        step = self.scene.step
        stopped = ArmStopped("a key was pressed") if step == self.stopped_at else None
        late = step >= 20 or stopped is not None
        return {"at": np.full(1, step, np.float32)}, 0.0, False, late, self.info(stopped)

    def info(self, stopped=None):
        events = self.events.get(self.scene.step, [])
        commands = [SimpleNamespace(events=events)] if self.scene.step else []
        seen = SimpleNamespace(
            stamp=self.arm.clock.time, frames={}, joint_pos=np.full(6, self.scene.step**3)
        )
        sensed = SimpleNamespace(commands=commands, observation=seen, stopped=stopped)
        return {"sensed": sensed}

    def look_after(self):
        if self.stopped_at:
            raise ArmStopped("a key was pressed")
        if self.stuck_at == "park":
            raise ArmStuckError("held by a hand")


class Counting:
    """Give chunks of two actions that say what was seen."""

    spec = PolicySpec(action_space="ee_delta", action_dim=1, state={"at": 1}, horizon=2)

    def infer_batch(self, requests):
        return [
            ActionChunk(actions=np.repeat([r.state["at"]], 2, 0), observed_at=r.observed_at)
            for r in requests
        ]


def play(env):
    return play_trial(env, Counting(), seed=7, judge=TruthJudge())


def test_a_trial_ends_as_soon_as_success_has_held_half_a_second():
    trial = play(FakeEnv(reached=set(range(3, 30))))
    assert (trial.success, trial.end, trial.time_s) == (True, "done", 0.8)


def test_success_that_does_not_hold_is_no_success():
    trial = play(FakeEnv(reached={3, 4, 5, 6, 7, 9, 10, 11, 12, 13}))
    assert (trial.success, trial.end, trial.time_s) == (False, "time_limit", 2.0)


def test_success_counts_even_where_it_holds_only_at_the_very_end():
    assert play(FakeEnv(reached=set(range(15, 21)))).success


def test_success_that_begins_less_than_half_a_second_before_the_end_is_none():
    assert not play(FakeEnv(reached=set(range(16, 21)))).success


def test_an_arm_that_cannot_park_alone_was_not_gentle():
    assert play(FakeEnv(reached=set())).gentle
    assert not play(FakeEnv(reached=set(), stuck_at="park")).gentle


def test_an_arm_that_does_not_get_to_its_start_has_failed():
    trial = play(FakeEnv(reached=set(range(21)), stuck_at="start"))
    assert (trial.success, trial.end, trial.gentle) == (False, "stuck", False)


def test_a_trial_that_the_arm_s_stop_cuts_short_has_failed():
    trial = play(FakeEnv(reached=set(range(3, 30)), stopped_at=5))
    assert (trial.success, trial.end, trial.gentle) == (False, "stopped", False)


def test_a_joint_held_back_for_more_than_a_second_is_not_gentle():
    assert play(
        FakeEnv(reached=set(), events={i: ["step:elbow_flex"] for i in range(1, 11)})
    ).gentle
    assert not play(
        FakeEnv(reached=set(), events={i: ["step:elbow_flex"] for i in range(1, 12)})
    ).gentle


def test_a_break_starts_the_second_anew():
    steps = [i for i in range(1, 21) if i != 10]
    assert play(FakeEnv(reached=set(), events={i: ["step:elbow_flex"] for i in steps})).gentle


def test_squeezing_a_cube_is_gentle():
    assert play(FakeEnv(reached=set(), events={i: ["lead:gripper"] for i in range(1, 21)})).gentle


def test_a_trial_keeps_its_jerk_and_its_commands():
    trial = play(FakeEnv(reached=set()))
    # The fake's joints go as the cube of the step, which is 0.1 s.
    assert trial.jerk == pytest.approx(6000 * 5**0.5, rel=1e-4)
    assert (trial.commands, trial.answer_ms) == (20, ())


def test_guard_events_are_counted():
    trial = play(FakeEnv(reached=set(), events={1: ["table"], 2: ["table", "step:elbow_flex"]}))
    assert trial.guard_events == {"table": 2, "step:elbow_flex": 1}


def test_a_chunk_is_played_to_its_end_before_the_next_is_asked_for():
    env = FakeEnv(reached=set())
    play(env)
    assert [float(action[0]) for action in env.actions[:5]] == [0, 0, 2, 2, 4]


def test_every_seed_gets_one_trial_and_each_is_told_at_once():
    env, heard = FakeEnv(reached=set()), []
    trials = evaluate_policy(env, Counting(), [5, 9], on_trial=heard.append)
    assert env.seeds == [5, 9] == [trial.seed for trial in trials]
    assert heard == trials
