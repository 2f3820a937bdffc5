"""The policy server as a program: what it says, and the code that it ends with."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from policy_server.server import configured, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def started(tmp_path):
    """Start a server on a free port; yield it and its address."""
    port_file, log = tmp_path / "port", tmp_path / "log"
    words = ["policy=null", "port=0", f"port_file={port_file}", "line_port=0"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "policy_server.server", *words], cwd=ROOT, stdout=out, stderr=out
        )
        while not port_file.exists():
            assert process.poll() is None, log.read_text()
        yield process, port_file.read_text()
        process.kill()
        process.wait()


def test_it_serves_until_it_is_asked_to_end(started):
    process, address = started
    said = httpx.get(f"http://{address}/health", trust_env=False).json()
    assert (said["policy"], said["state"]) == ("null", "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 130


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["policy=no-such-policy"], 3, "known: null, scripted"),
        (["policy=pi0_fast"], 3, "hf download lerobot/pi0fast-base"),
        (["policy=wall_oss"], 3, "make finetune POLICY=wall_oss"),
        (["policy=null:fast"], 3, "expected null or null:40+6"),
        (["policy=null", "samples=2"], 3, "needs a policy that draws its answers"),
        (["host=0.0.0.0"], 2, "POLICY_SERVER_TOKEN"),
        (["port=x"], 2, "POLICY_SERVER_PORT"),
        (["nonsense=1"], 2, "conf/policy_server.yaml"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(monkeypatch, capsys, words, code, why):
    monkeypatch.setattr(sys, "argv", ["server", "port=0", *words])
    assert main() == code
    assert why in capsys.readouterr().err


def test_policies_are_a_list_by_preference():
    assert configured(["policies='pi0_fast,null'"]).policies == "pi0_fast,null"
