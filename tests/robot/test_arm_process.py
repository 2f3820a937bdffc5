"""Modes, silence, stops, parking and lost replies of an arm's process, on a clock that is set."""

import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robot.arm import frozen
from robot.arm_config import ArmConfig
from robot.guard import Guard
from robot.limits import SafetyLimits
from robot.process.arm_process import ArmProcess, Mode, ModeRefused, run_cycle
from robot.process.servos import LostReply, ServoHealth
from tests.robot.clock import SetClock

LIMITS = SafetyLimits.load(Path(__file__).parents[2] / "conf" / "safety" / "default.yaml")
GUARD = Guard(LIMITS)
START = frozen([0, -40, 30, 85, 90, 20])
PARK = ArmConfig.load("arm01").park_pose
DT = 0.02


class FakeServos:
    """Six servos that go where they are told, those in `stuck` excepted."""

    def __init__(self, pose=START):
        self.pos = np.array(pose)
        self.sent, self.switched = [], []
        self.losses = 0
        self.stuck = np.zeros(6, bool)
        self.torque_on = False
        self.last_health = None

    def joint_pos(self):
        if self.losses:
            self.losses -= 1
            raise LostReply("elbow_flex (id 3) did not answer")
        return self.pos.copy()

    def command(self, joint_target):
        self.sent.append(np.array(joint_target))
        if self.torque_on:
            self.pos = np.where(self.stuck, self.pos, joint_target)

    def health(self):
        return self.last_health

    def torque(self, *, on):
        self.torque_on = on
        self.switched.append((on, len(self.sent)))

    def close(self):
        pass


class Rig:
    """A process, its servos, its clock, and clients that live."""

    def __init__(self, stop_file=None, pose=START, **options):
        self.clock, self.servos = SetClock(), FakeServos(pose)
        self.beating = {"policy", "person"}
        self.process = ArmProcess(
            self.servos, GUARD, self.clock, park_pose=PARK, stop_file=stop_file, **options
        )
        self.tick()

    def tick(self, seconds=DT, *, goal=None, human=False):
        """Let cycles run; propose `goal` at 25 Hz meanwhile."""
        for cycle in range(max(1, round(seconds / DT))):
            self.clock.time += DT
            for client in self.beating:
                self.process.beat(client)
            if goal is not None and cycle % 2 == 0:
                self.propose(goal, human=human)
            self.process.tick()

    def propose(self, goal, *, human=False, age=0.0):
        return self.process.propose(
            goal,
            stamp=self.clock.time - age,
            client="person" if human else "policy",
            human=human,
        )

    def run(self):
        self.process.request(Mode.RUN, client="policy")
        self.tick(2.0)
        return self

    def take_over(self):
        self.process.request(Mode.TAKEOVER, client="person", human=True)
        self.tick(2.0)
        return self

    @property
    def mode(self):
        return self.process.mode

    @property
    def state(self):
        return self.process.state()


@pytest.fixture
def rig():
    return Rig()


def test_it_starts_holding_the_pose_it_found(rig):
    assert rig.mode is Mode.HOLD
    np.testing.assert_array_equal(rig.servos.sent, [START])


def test_torque_comes_on_after_the_measured_pose_was_sent(rig):
    assert rig.servos.switched == [(True, 1)]


@pytest.mark.parametrize(("losses", "works"), [(2, True), (3, False)])
def test_it_asks_three_times_where_the_arm_is_before_it_starts(losses, works):
    servos = FakeServos()
    servos.losses = losses
    with nullcontext() if works else pytest.raises(LostReply):
        ArmProcess(servos, GUARD, SetClock(), park_pose=PARK)


def test_a_running_arm_reaches_its_goal(rig):
    goal = START + [10, 5, -5, 0, 0, 20]
    rig.run().tick(1.0, goal=goal)
    np.testing.assert_array_equal(rig.servos.sent[-1], goal)


def test_goals_at_20_hz_become_even_steps_at_50_hz(rig):
    rig.run()
    first = len(rig.servos.sent)
    for hundredth in range(1, 101):
        rig.clock.time += 0.01
        if hundredth % 5 == 0:
            rig.process.beat("policy")
            rig.propose(rig.process.observation().joint_target + frozen([1, 0, 0, 0, 0, 0]))
        if hundredth % 2 == 0:
            rig.process.tick()
    steps = np.diff(np.array(rig.servos.sent)[first:, 0])
    np.testing.assert_allclose(steps[5:], 0.4)


def test_what_a_proposal_is_answered_with_is_the_accepted_goal(rig):
    rig.run()
    command = rig.propose(START + frozen([40, 0, 0, 0, 0, 0]))
    assert [str(event) for event in command.events] == ["step:shoulder_pan"]
    np.testing.assert_array_equal(rig.process.observation().joint_target, command.joint_target)
    assert not command.human


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.PARK, Mode.STOP])
def test_goals_move_nothing_unless_the_arm_runs(rig, mode):
    rig.run()
    rig.process.request(mode, client="policy")
    command = rig.propose(START + 5.0)
    assert [str(event) for event in command.events] == [f"refused:mode:{mode}"]


def test_a_second_client_cannot_drive_along(rig):
    rig.run()
    command = rig.process.propose(START + 5.0, stamp=rig.clock.time, client="other")
    assert [str(event) for event in command.events] == ["refused:driver:policy"]


def test_an_old_observation_moves_nothing(rig):
    rig.run()
    rig.tick(0.2, goal=None)
    command = rig.propose(START + 5.0, age=0.6)
    assert [str(event) for event in command.events] == ["refused:stale"]


def test_the_first_command_of_a_mode_is_the_measured_pose(rig):
    rig.tick(1.0)
    rig.servos.pos = START - [3, 2, 1, 0, 0, 0]
    rig.process.request(Mode.RUN, client="policy")
    rig.tick()
    np.testing.assert_array_equal(rig.servos.sent[-1], START - [3, 2, 1, 0, 0, 0])


def test_a_state_says_since_when_its_mode_is(rig):
    rig.tick(1.0)
    rig.process.request(Mode.RUN, client="policy")
    entered = rig.clock.time
    rig.tick(0.1)
    assert rig.state.since == entered < rig.state.stamp


def test_an_arm_that_sags_does_not_sink_with_every_change_of_mode(rig):
    rig.run()
    rig.servos.pos = rig.servos.pos - [0, 2, 0, 0, 0, 0]
    rig.process.stop("a test wants it")
    rig.tick()
    latched = rig.servos.sent[-1]
    for change in (rig.process.reset, lambda: rig.process.request(Mode.RUN, client="policy")):
        rig.servos.pos = rig.servos.pos - [0, 1, 0, 0, 0, 0]
        change()
        rig.tick()
        np.testing.assert_array_equal(rig.servos.sent[-1], latched)


def test_speed_rises_from_nothing_within_a_second_and_a_half(rig):
    rig.process.request(Mode.RUN, client="policy")
    rig.tick(3.0, goal=START + [100, 0, 0, 0, 0, 0])
    steps = np.abs(np.diff(np.array(rig.servos.sent)[:, 0]))
    times = np.arange(len(steps)) * DT
    allowed = LIMITS.max_speed[0] * DT * np.minimum(1.0, (times + DT) / 1.5)
    assert (steps <= allowed + 1e-9).all()
    assert steps.max() == pytest.approx(LIMITS.max_speed[0] * DT, rel=0.02)


def test_a_silent_client_holds_the_arm_within_two_cycles_of_the_limit(rig):
    rig.run().tick(0.5, goal=START + [30, 0, 0, 0, 0, 0])
    rig.beating = set()
    rig.tick(0.14)
    assert rig.mode is Mode.RUN
    rig.tick(0.04)
    assert rig.mode is Mode.HOLD
    assert "'policy' was not heard of" in rig.state.reason


def test_a_held_arm_keeps_the_last_command(rig):
    rig.run().tick(0.5, goal=START + [60, 0, 0, 0, 0, 0])
    rig.process.request(Mode.HOLD, client="policy")
    last = rig.servos.sent[-1]
    rig.servos.pos = rig.servos.pos - 1.0
    rig.tick(0.5)
    assert (np.array(rig.servos.sent[-20:]) == last).all()


def test_a_client_that_stays_silent_has_the_arm_parked_and_let_go_at_rest(rig):
    rig.run()
    rig.beating = set()
    rig.tick(0.2)
    rig.tick(2.9)
    assert rig.mode is Mode.HOLD
    rig.tick(0.2)
    assert rig.mode is Mode.PARK
    first = len(rig.servos.sent)
    rig.tick(12.0)
    assert (rig.mode, rig.servos.torque_on) == (Mode.IDLE, False)
    np.testing.assert_allclose(rig.servos.pos, PARK, atol=1e-6)
    steps = np.abs(np.diff(np.array(rig.servos.sent)[first:], axis=0))
    assert steps[:, :5].max() <= 15.0 * DT + 1e-9


def test_a_client_that_comes_back_in_time_is_not_parked(rig):
    rig.run()
    rig.beating = set()
    rig.tick(1.0)
    rig.beating = {"policy"}
    rig.tick(5.0)
    assert rig.mode is Mode.HOLD


def test_a_client_whose_link_ends_is_not_waited_for(rig):
    rig.run()
    rig.process.leave("policy")
    rig.beating = set()
    rig.tick()
    assert (rig.mode, rig.state.reason) == (Mode.HOLD, "'policy' has gone")
    rig.tick(2.9)
    assert rig.mode is Mode.HOLD
    rig.tick(0.2)
    assert rig.mode is Mode.PARK


@pytest.mark.parametrize("human", [False, True])
def test_an_arm_that_was_asked_to_hold_holds_when_whoever_drove_is_gone(rig, human):
    if human:
        rig.take_over()
    else:
        rig.run()
    rig.process.request(Mode.HOLD, client="person" if human else "policy", human=human)
    rig.beating = set()
    rig.tick(10.0)
    assert rig.mode is Mode.HOLD


def test_a_second_policy_does_not_take_an_arm_from_the_first(rig):
    rig.run()
    with pytest.raises(ModeRefused, match="'policy' drives the arm"):
        rig.process.request(Mode.RUN, client="other")
    assert rig.propose(START).events == ()


def test_whoever_drives_after_another_begins_at_the_measured_pose_and_slowly(rig):
    rig.run().tick(1.0, goal=START + [20, 0, 0, 0, 0, 0])
    rig.process.leave("policy")
    rig.process.request(Mode.RUN, client="other")
    here = rig.servos.pos.copy()
    for _ in range(4):
        rig.clock.time += DT
        rig.process.beat("other")
        goal = here + [60, 0, 0, 0, 0, 0]
        rig.process.propose(goal, stamp=rig.clock.time, client="other")
        rig.process.tick()
    assert np.abs(rig.servos.sent[-1] - here).max() < 0.5


def test_an_arm_that_nobody_drove_yet_just_holds(rig):
    rig.beating = set()
    rig.tick(10.0)
    assert rig.mode is Mode.HOLD


def test_an_idle_arm_is_sent_nothing(rig):
    rig.process.request(Mode.IDLE, client="policy")
    assert rig.mode is Mode.PARK
    rig.tick(14.0)
    count = len(rig.servos.sent)
    rig.tick(1.0)
    assert (rig.mode, len(rig.servos.sent)) == (Mode.IDLE, count)


def test_an_idle_arm_that_was_moved_by_hand_runs_from_where_it_is(rig):
    rig.process.request(Mode.IDLE, client="policy")
    rig.tick(14.0)
    rig.servos.pos = np.array(START)
    rig.process.request(Mode.RUN, client="policy")
    rig.tick()
    np.testing.assert_array_equal(rig.servos.sent[-1], START)
    assert rig.servos.torque_on


def test_an_arm_that_is_kept_from_its_park_pose_keeps_its_torque_and_says_so(rig):
    rig.servos.stuck[2] = True
    rig.process.request(Mode.PARK, client="policy")
    rig.tick(20.0)
    assert (rig.mode, rig.servos.torque_on) == (Mode.HOLD, True)
    assert any("elbow_flex stays at 30°" in fault for fault in rig.state.faults)


def test_parking_passes_nothing_that_is_out_of_bounds():
    rng, count = np.random.default_rng(3), 0
    while count < 8:
        pose = rng.uniform(LIMITS.joint_lower, LIMITS.joint_upper)
        if (GUARD.volumes.violations(pose[None]) > 0).any():
            continue
        count += 1
        rig = Rig(pose=pose)
        rig.process.request(Mode.PARK, client="policy")
        rig.tick(25.0)
        assert (GUARD.volumes.violations(np.array(rig.servos.sent)) <= 1e-9).all()
        assert rig.mode in {Mode.IDLE, Mode.HOLD}


def test_a_stop_makes_the_measured_pose_the_goal_once(rig):
    rig.run().tick(0.5, goal=START + [60, 0, 0, 0, 0, 0])
    rig.servos.stuck[:] = True
    stopped_at = rig.servos.pos.copy()
    rig.process.stop("the button was pressed")
    rig.tick()
    rig.servos.pos = rig.servos.pos - [0, 1, 0, 0, 0, 0]
    rig.tick(0.5)
    assert (np.array(rig.servos.sent[-20:]) == stopped_at).all()
    assert (rig.mode, rig.state.reason) == (Mode.STOP, "the button was pressed")


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.STOP])
def test_a_stop_is_left_by_a_reset_only(rig, mode):
    rig.process.stop("the button was pressed")
    with pytest.raises(ModeRefused, match=r"the button was pressed.*reset it first"):
        rig.process.request(mode, client="person", human=True)
    rig.tick(10.0)
    assert rig.mode is Mode.STOP


def test_a_reset_holds_and_starts_nothing(rig):
    rig.run()
    rig.process.stop("the button was pressed")
    rig.tick()
    rig.process.reset()
    rig.tick(1.0, goal=START + 5.0)
    assert rig.mode is Mode.HOLD
    np.testing.assert_array_equal(rig.servos.sent[-1], START)


def test_a_stop_of_a_resting_arm_does_not_give_it_torque(rig):
    rig.process.request(Mode.IDLE, client="policy")
    rig.tick(14.0)
    rig.process.stop("the button was pressed")
    rig.tick(0.5)
    rig.process.reset()
    rig.tick(0.5)
    assert (rig.mode, rig.servos.torque_on) == (Mode.IDLE, False)


def test_a_file_stops_the_arm_and_has_to_go_before_a_reset(tmp_path):
    file = tmp_path / "arm01.stop"
    rig = Rig(stop_file=file).run()
    file.touch()
    rig.tick()
    assert rig.mode is Mode.STOP
    with pytest.raises(ModeRefused, match="remove it"):
        rig.process.reset()
    file.unlink()
    rig.process.reset()
    assert rig.mode is Mode.HOLD


@pytest.mark.parametrize(("losses", "mode"), [(1, Mode.RUN), (2, Mode.RUN), (3, Mode.STOP)])
def test_lost_replies_hold_the_arm_and_three_in_a_row_stop_it(rig, losses, mode):
    rig.run()
    count = len(rig.servos.sent)
    rig.servos.losses = losses
    rig.tick(losses * DT)
    assert (rig.mode, len(rig.servos.sent)) == (mode, count)
    assert "elbow_flex (id 3) did not answer" in rig.state.faults[0]


def test_a_loss_now_and_then_stops_nothing(rig):
    rig.run()
    for _ in range(20):
        rig.servos.losses = 2
        rig.tick(3 * DT)
    assert rig.mode is Mode.RUN


def test_an_arm_whose_bus_is_lost_is_not_reset(rig):
    rig.servos.losses = 100
    rig.tick(0.1)
    with pytest.raises(ModeRefused, match="do not answer"):
        rig.process.reset()
    rig.servos.losses = 0
    rig.tick()
    rig.process.reset()
    rig.tick()
    assert rig.mode is Mode.HOLD
    assert rig.servos.switched[-1][0]


def test_a_person_takes_over_within_a_cycle(rig):
    rig.run().tick(0.5, goal=START + [60, 0, 0, 0, 0, 0])
    rig.process.request(Mode.TAKEOVER, client="person", human=True)
    rig.tick()
    here = rig.servos.sent[-1]
    rig.tick(0.5, goal=START - [60, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(rig.servos.sent[-1], here)


def test_a_policy_is_told_what_the_person_makes_of_its_goal(rig):
    rig.run().take_over()
    person = rig.propose(START + [2, 0, 0, 0, 0, 0], human=True)
    policy = rig.propose(START - [2, 0, 0, 0, 0, 0])
    assert policy.human
    np.testing.assert_array_equal(policy.joint_target, person.joint_target)


def test_a_policy_cannot_end_a_take_over(rig):
    rig.run().take_over()
    for mode in (Mode.RUN, Mode.HOLD, Mode.PARK):
        with pytest.raises(ModeRefused, match="hand back"):
            rig.process.request(mode, client="policy")


def test_only_a_person_takes_over(rig):
    with pytest.raises(ModeRefused, match="only a person"):
        rig.process.request(Mode.TAKEOVER, client="policy")


def test_a_hand_back_starts_at_the_measured_pose_and_blends(rig):
    rig.run().take_over().tick(1.0, goal=START + [20, 0, 0, 0, 0, 0], human=True)
    rig.servos.pos = rig.servos.pos - [2, 0, 0, 0, 0, 0]
    handed = rig.servos.pos.copy()
    rig.process.request(Mode.RUN, client="person", human=True)
    rig.tick()
    np.testing.assert_array_equal(rig.servos.sent[-1], handed)
    rig.tick(0.06, goal=START - [60, 0, 0, 0, 0, 0])
    assert rig.mode is Mode.RUN
    assert np.abs(rig.servos.sent[-1] - handed).max() < 0.5


def test_the_silence_of_the_person_counts_while_they_drive(rig):
    rig.run().take_over()
    rig.beating = {"policy"}
    rig.tick(0.2)
    assert rig.mode is Mode.HOLD


def test_a_hand_back_to_a_dead_policy_holds(rig):
    rig.run().take_over()
    rig.beating = {"person"}
    rig.tick(1.0)
    rig.process.request(Mode.RUN, client="person", human=True)
    rig.tick()
    assert rig.mode is Mode.HOLD


def test_a_hand_back_to_a_policy_that_is_long_gone_holds_for_a_while(rig):
    rig.run().take_over()
    rig.beating = {"person"}
    rig.tick(10.0)
    rig.process.request(Mode.RUN, client="person", human=True)
    rig.tick(2.9)
    assert rig.mode is Mode.HOLD
    rig.tick(0.3)
    assert rig.mode is Mode.PARK


def test_without_a_limit_proof_it_does_not_run():
    rig = Rig(may_run=False)
    with pytest.raises(ModeRefused, match="not proven"):
        rig.process.request(Mode.RUN, client="policy")


def test_latching_takes_the_measured_pose_as_goal(rig):
    rig.run()
    rig.servos.pos = START - 2.0
    rig.servos.stuck[:] = True
    rig.tick()
    rig.process.latch()
    np.testing.assert_array_equal(rig.process.observation().joint_target, START - 2.0)


def test_latching_a_pose_that_is_not_known_fails(rig):
    rig.run()
    rig.clock.time += 1.0
    with pytest.raises(ValueError, match="check the servo bus"):
        rig.process.latch()


def test_a_stalled_joint_stops_the_arm_in_time(rig):
    rig.run()
    rig.servos.stuck[2] = True
    waited = 0.0
    while rig.mode is Mode.RUN and waited < 2.0:
        rig.servos.last_health = ServoHealth(
            load=np.array([0, 0, 0.9, 0, 0, 0]),
            current_a=np.zeros(6),
            voltage_v=np.full(6, 7.4),
            temperature_c=np.full(6, 30.0),
        )
        rig.tick(0.06, goal=START - [0, 0, 30, 0, 0, 0])
        waited += 0.06
    assert "elbow_flex is stalled" in rig.state.reason
    # It takes 0.1 s until the joint lags by 4 degrees; then T = 0.5 s, and 0.3 s at most.
    assert waited <= 0.9
    rig.tick(0.2)
    np.testing.assert_array_equal(rig.servos.sent[-1], rig.servos.pos)


wild = st.one_of(
    arrays(np.float64, 6, elements=st.floats(-400, 400)),
    arrays(np.float64, 6, elements=st.floats(allow_nan=True, allow_infinity=True)),
)
asked = st.sampled_from([None, None, Mode.RUN, Mode.HOLD, Mode.PARK, Mode.STOP, "reset", "latch"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(wild, asked, st.integers(1, 12)), min_size=1, max_size=12))
def test_whatever_is_asked_no_step_is_too_fast_or_out_of_bounds(moves):
    rig = Rig()
    rig.process.request(Mode.RUN, client="policy")
    for goal, wish, cycles in moves:
        try:
            if isinstance(wish, Mode):
                rig.process.request(wish, client="policy")
            elif wish is not None:
                getattr(rig.process, wish)()
        except ModeRefused:
            pass
        rig.tick(cycles * DT, goal=goal)
    sent = np.array(rig.servos.sent)
    assert (np.abs(np.diff(sent, axis=0)) <= LIMITS.max_speed * DT + 1e-9).all()
    assert (sent >= LIMITS.joint_lower).all()
    assert (sent <= LIMITS.joint_upper).all()
    assert (GUARD.volumes.violations(sent) <= 1e-9).all()


def test_a_cycle_that_came_late_is_not_made_up_for(rig):
    ticks, stopping = [], threading.Event()

    class Slow:
        def tick(self, *, late_s):
            ticks.append((rig.clock.time, late_s))
            rig.clock.time += 0.05 if len(ticks) == 2 else 0.001
            if len(ticks) == 6:
                stopping.set()

    run_cycle(Slow(), rig.clock, stopping)
    np.testing.assert_allclose(np.diff([time for time, _ in ticks]), [0.02, 0.05, 0.02, 0.02, 0.02])
    np.testing.assert_allclose([late for _, late in ticks], [0, 0, 0.03, 0, 0, 0], atol=1e-9)


def test_the_greatest_lateness_of_the_last_seconds_is_known(rig):
    rig.process.tick(late_s=0.07)
    rig.process.tick(late_s=0.01)
    assert rig.state.late_s == 0.07
    rig.tick(11.0)
    assert rig.state.late_s == 0.0
