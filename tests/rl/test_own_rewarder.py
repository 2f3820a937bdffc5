import os
import signal
import subprocess
import sys
import time

import pytest

from rewarder.client import RemoteReward
from rl.own_process import OwnProcessFailed
from rl.own_rewarder import OwnRewarder


def until(done, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_service_that_is_killed_comes_back_at_the_same_address(tmp_path):
    service = OwnRewarder("heuristic", tmp_path / "log")
    client = RemoteReward(service.url)
    until(client.available)
    os.kill(service.process, signal.SIGKILL)
    until(lambda: "died" in (service.check() or ""))
    until(lambda: service.check() is None and client.available())
    service.close()
    assert not client.available()
    client.close()


def test_a_service_that_cannot_start_ends_the_run_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("rl.own_process.RESTART_S", 0.0)
    service = OwnRewarder("no_such_model", tmp_path / "log")

    with pytest.raises(OwnProcessFailed, match="no_such_model"):
        until(lambda: service.check() == "never")
    service.close()


def test_the_service_ends_with_the_process_that_started_it(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from rl.own_rewarder import OwnRewarder\n"
        "service = OwnRewarder('heuristic', Path(sys.argv[1]))\n"
        "print(service.url, flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        client = RemoteReward(owner.stdout.readline().strip())
        until(client.available)
        owner.kill()
    until(lambda: not client.available())
    client.close()


pytestmark = pytest.mark.timeout(120)
