"""Emulated arms of a run's own."""

from types import SimpleNamespace
from typing import ClassVar

import pytest

from rl import own_arms
from rl.own_arms import ArmsNotReady, OwnArms
from rl.own_process import OwnProcessFailed


class FakeProcess:
    """An own process that is only noted."""

    all: ClassVar[list] = []
    closed: ClassVar[list] = []

    @staticmethod
    def on_start(module):
        pass

    def __init__(self, name, module, words, log_file):
        self.name, self.started = name, (module, *words)
        self.said = None
        FakeProcess.all.append(self)
        FakeProcess.on_start(module)

    def check(self):
        if self.said == "fails":
            raise OwnProcessFailed(f"{self.name} does not start")
        return self.said

    def terminate(self):
        pass

    def close(self, *, patience_s):
        FakeProcess.closed.append(self.name)


@pytest.fixture
def machine(monkeypatch):
    """Return the emulators that run and the arms that answer; no process is really started."""
    running = SimpleNamespace(emulators=set(), arms=set(), dark=set())

    def state(config):
        age = None if config.arm_id in running.dark else 0.01
        return {"cameras": {"front": age}} if config.arm_id in running.arms else None

    FakeProcess.all, FakeProcess.closed = [], []
    monkeypatch.setattr(own_arms, "OwnProcess", FakeProcess)
    monkeypatch.setattr(own_arms, "_state", state)
    monkeypatch.setattr(own_arms, "is_emulated", lambda config: config.arm_id in running.emulators)
    monkeypatch.setattr(own_arms, "POLL_S", 0.0)
    return running


def started():
    return [(process.started[0], process.started[1]) for process in FakeProcess.all]


def test_only_what_does_not_answer_is_started(machine, tmp_path):
    machine.arms.add("arm01")
    machine.emulators |= {"arm01", "arm02"}
    own = OwnArms(["arm01", "arm02", "arm03"], tmp_path)
    with pytest.raises(ArmsNotReady):
        own.wait(limit_s=0.0)
    assert started() == [
        ("robot.emulator.process", "arm_id=arm03"),
        ("robot.process.daemon", "arm_id=arm02"),
    ]


def test_an_arm_s_process_is_started_once_its_servos_are_there(machine, tmp_path, monkeypatch):
    own = OwnArms(["arm01"], tmp_path)
    assert started() == [("robot.emulator.process", "arm_id=arm01")]
    FakeProcess.all[0].check = lambda: machine.emulators.add("arm01")

    def answer(module):
        if module == "robot.process.daemon":
            machine.arms.add("arm01")

    monkeypatch.setattr(FakeProcess, "on_start", staticmethod(answer))
    own.wait(limit_s=5.0)
    assert started()[1:] == [("robot.process.daemon", "arm_id=arm01")]


def test_an_arm_without_a_picture_is_there_and_not_ready(machine, tmp_path):
    own = OwnArms(["arm01"], tmp_path)
    machine.arms.add("arm01")
    machine.dark.add("arm01")
    with pytest.raises(ArmsNotReady, match="arm01: no answer"):
        own.wait(limit_s=0.0)
    assert OwnArms(["arm01"], tmp_path).started == []


def test_what_was_started_ends_with_the_run_and_nothing_else(machine, tmp_path):
    machine.arms.add("arm01")
    own = OwnArms(["arm01", "arm02"], tmp_path)
    own.close()
    assert FakeProcess.closed == ["the emulator of arm02"]


def test_an_arm_that_does_not_come_up_is_named(machine, tmp_path):
    own = OwnArms(["arm01", "arm02"], tmp_path)
    machine.arms.add("arm01")
    with pytest.raises(ArmsNotReady, match="arm02: no answer"):
        own.wait(limit_s=0.0)


def test_a_process_that_cannot_start_ends_the_wait_with_its_reason(machine, tmp_path):
    own = OwnArms(["arm01"], tmp_path)
    FakeProcess.all[0].said = "fails"
    with pytest.raises(OwnProcessFailed, match="the emulator of arm01 does not start"):
        own.wait()


def test_what_has_died_is_looked_after_for_all_arms(machine, tmp_path):
    own = OwnArms(["arm01", "arm02"], tmp_path)
    FakeProcess.all[1].said = "the emulator of arm02 has died"
    assert own.check() == "the emulator of arm02 has died"
