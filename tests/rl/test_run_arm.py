"""An arm's worker that waits for its arm."""

import threading

import pytest

from envs.homing import ArmStopped
from rl import run_arm
from rl.run_arm import when_ready


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(run_arm, "RETRY_S", 0.0)


def stopped_first(*sentences):
    left = list(sentences)

    def body():
        if left:
            raise ArmStopped(left.pop(0))
        return "practised"

    return body


def test_practice_goes_on_once_the_arm_lets_it_and_each_reason_is_said_once(capsys):
    body = stopped_first("arm01 is stopped", "arm01 is stopped", "arm01 parks", "arm01 parks")
    assert when_ready(body, threading.Event()) == "practised"
    assert capsys.readouterr().out.splitlines() == [
        "waiting: arm01 is stopped",
        "waiting: arm01 parks",
    ]


def test_waiting_for_an_arm_ends_with_ctrl_c(capsys):
    stopping = threading.Event()

    def body():
        stopping.set()
        raise ArmStopped("arm01 is stopped")

    assert when_ready(body, stopping) is None
