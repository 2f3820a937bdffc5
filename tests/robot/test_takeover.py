"""A person takes an arm over with whatever device is at hand."""

import pytest

from robot.arm import frozen
from robot.client import ArmRefused
from robot.guard import Command, GuardEvent
from robot.process.arm_state import ArmState, Cause, Mode
from robot.teleop.devices import (
    Keyboard,
)
from robot.teleop.takeover import Takeover, main, open_device
from robot.tokens import TokenError
from robot.words import UsageError
from tests.robot.devices import LIMITS, START, Fixed, Pressed

# Taking over


class StillClock:
    def now(self):
        return 0.0

    def sleep_until(self, moment):
        pass


class Process:
    """An arm's process, as a client sees it."""

    def __init__(self, mode=Mode.RUN):
        self.current, self.asked, self.goals, self.refuse = mode, [], [], None
        self.clock, self.limits = StillClock(), LIMITS

    def state(self):
        return ArmState(
            stamp=100.0,
            mode=self.current,
            since=0.0,
            cause=Cause.ASKED,
            reason="a test wants it",
            joint_pos=START,
            joint_target=START,
            sent=START,
            health=None,
            faults=(),
            events={},
            clients=(),
            calibration="",
            cycle_s=0.0,
            late_s=0.0,
        )

    def mode(self, mode):
        self.asked.append(mode)
        if mode is self.refuse:
            raise ArmRefused("refused", "the policy is gone")
        self.current = mode
        return mode

    def command(self, joint_target, *, stamp):
        self.goals.append(joint_target)
        events = (GuardEvent("table", "gripper"), GuardEvent("step", "elbow_flex"))
        return Command(joint_target=frozen(joint_target), events=events, human=True)

    def stop(self, reason):
        self.current = Mode.STOP


def test_a_person_takes_over_and_hands_back_to_the_policy():
    process, device = Process(), Fixed(START)
    takeover = Takeover(process, device, say=[].append)
    takeover.tick()
    assert process.goals == []
    for request in ("takeover", "hand_back"):
        device.requests = [request]
        takeover.tick()
    assert process.asked == [Mode.TAKEOVER, Mode.RUN]
    assert len(process.goals) == 1


def test_taking_over_twice_does_not_forget_the_policy():
    process, device = Process(), Fixed(START)
    device.requests = ["takeover", "takeover", "hand_back"]
    Takeover(process, device, say=[].append).tick()
    assert process.current is Mode.RUN


def test_an_arm_whose_policy_has_gone_holds_after_a_takeover():
    process, device = Process(), Fixed(START)
    device.requests = ["takeover", "hand_back"]
    process.refuse = Mode.RUN
    heard = []
    Takeover(process, device, say=heard.append).tick()
    assert process.current is Mode.HOLD
    assert heard[0] == "not RUN: the policy is gone"


def test_whoever_quits_hands_back():
    process, device = Process(Mode.HOLD), Fixed(START)
    device.requests = ["takeover", "quit"]
    Takeover(process, device, say=[].append).run()
    assert process.current is Mode.HOLD


def test_space_stops_the_arm_whoever_drives_it():
    process = Process()
    Takeover(process, Keyboard(Pressed(" "), LIMITS), say=[].append).tick()
    assert process.current is Mode.STOP


def test_a_person_sees_what_holds_the_arm_back():
    process, device, heard = Process(Mode.TAKEOVER), Fixed(START), []
    takeover = Takeover(process, device, say=heard.append)
    takeover.tick()
    takeover.tick()
    assert heard == ["TAKEOVER: a test wants it; held back by table:gripper"]


def test_a_question_mark_says_again_what_is_going_on():
    process, heard = Process(Mode.HOLD), []
    keys = Pressed()
    takeover = Takeover(process, Keyboard(keys, LIMITS), say=heard.append)
    takeover.tick()
    takeover.tick()
    keys.keys = ["?"]
    takeover.tick()
    assert heard == ["HOLD: a test wants it"] * 2


# The program


def test_an_unknown_device_is_a_usage_error():
    words = {"device": "mouse", "dead_man": ""}
    with pytest.raises(UsageError, match="keyboard, gamepad, leader"), open_device(words, LIMITS):
        pass


def test_a_dead_man_key_that_would_do_nothing_is_a_usage_error():
    words, keys = {"device": "keyboard", "dead_man": "d"}, Pressed()
    with pytest.raises(UsageError, match="gamepad and leader"), open_device(words, LIMITS, keys):
        pass


def test_a_token_file_that_others_can_read_is_told_with_its_remedy(monkeypatch, capsys):
    def open_to_others(*_, **__):
        raise TokenError("run/tokens can be read by others (mode 0644): chmod 600 run/tokens")

    monkeypatch.setattr("robot.teleop.takeover.open_arm", open_to_others)
    assert main([]) == 2
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["arm=arm01"], ["arm_id=arm99"], ["takeover"]])
def test_words_that_mean_nothing_end_with_two(words, capsys):
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
