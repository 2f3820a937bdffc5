import json
import os
import signal
import socket
import stat
import subprocess
import sys

import httpx
import pytest
import yaml
from structlog.testing import capture_logs

from robot.arm_config import ROOT, runtime
from robot.client import RemoteArm
from robot.process.port import PortLock, owner
from robot.process.service import main
from tests.robot.arm_rig import wait_until
from tests.robot.fake_service import broken_proof, driver, quick_proof

ARM01 = yaml.safe_load((ROOT / "conf" / "arm" / "arm01.yaml").read_text())
TOKEN = "0123456789abcdef" * 4
LOCK = runtime("test-arm", "lock")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def write_arm(folder, **changes):
    """Write the file of an arm without cameras, and return its port."""
    content = {**ARM01, "arm_id": "test-arm", "cameras": {}, "port_number": free_port()} | changes
    (folder / "test-arm.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return content["port_number"]


@pytest.fixture
def start(tmp_path):
    """Return what starts a daemon with changes to the arm's file, and ends it afterwards."""
    started = []

    awake = runtime("test-arm", "awake")
    awake.unlink(missing_ok=True)

    def start(*words, environ=None, **changes):
        port = write_arm(tmp_path, **changes)
        command = [sys.executable, "-m", "tests.robot.fake_daemon"]
        process = subprocess.Popen(
            [*command, "arm_id=test-arm", f"folder={tmp_path}", *words],
            cwd=ROOT,
            env=os.environ | {"LOG_DIR": str(tmp_path / "logs")} | (environ or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.url = f"http://127.0.0.1:{port}"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    awake.unlink(missing_ok=True)


def ready(process):
    line = process.stdout.readline()
    assert "limits proven, ready after" in line, process.stderr.read()
    return line


def again(process):
    """Wait until another process of the same arm is ready."""
    ready(process)
    assert "killed by signal 9; it is started again at once" in process.stderr.readline()


def kill_child(process):
    """Kill the arm's process, not its parent, and return what its id was."""
    child = owner(LOCK)
    assert child != process.pid
    os.kill(child, signal.SIGKILL)
    return child


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def told_table_z(process):
    """Return the height of the table that a client is told."""
    arm = RemoteArm(process.url, client="curious")
    arm.close()
    return arm.limits.table_z


def test_it_says_in_one_line_what_it_serves(start):
    process = start("proven")
    line = ready(process)
    assert f"test-arm on run/arm01.bus is at {process.url}, with no cameras" in line
    assert line.rstrip().endswith("MB")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_an_ended_process_parks_then_releases(start, number, code):
    process = start()
    ready(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (code, "")
    assert "released with torque off" in out


def test_a_second_ctrl_c_does_not_hurry_the_parking(start):
    process = start()
    ready(process)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: mode(process) == "PARK")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=100)
    assert "it parks before it ends" in out
    assert "released with torque off" in out
    assert process.returncode == 130


def test_a_stopped_arm_keeps_its_torque(start):
    process = start()
    ready(process)
    wait_until(lambda: state(process)["cycle_s"] > 0)
    httpx.post(f"{process.url}/stop")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "released with torque on" in out
    assert process.returncode == 4


@pytest.mark.parametrize("words", [[], ["fresh"]])
def test_a_killed_process_comes_back_by_itself_and_stopped(start, words):
    process = start(*words)
    ready(process)
    killed = kill_child(process)
    again(process)
    assert owner(LOCK) not in {killed, process.pid}
    assert (mode(process), state(process)["cause"]) == ("STOP", "fault")
    assert "ended without parking" in state(process)["reason"]


def test_a_killed_process_goes_on_where_it_was_told_so(start):
    process = start("after_crash=hold")
    ready(process)
    kill_child(process)
    again(process)
    assert mode(process) == "HOLD"


def test_what_the_parent_has_shown_is_not_shown_again_until_a_limit_changes(start, tmp_path):
    safety = tmp_path / "safety.yaml"
    limits = yaml.safe_load((ROOT / ARM01["safety"]).read_text())
    safety.write_text(yaml.safe_dump(limits))
    process = start(safety=str(safety))
    ready(process)
    kill_child(process)
    again(process)
    log = tmp_path / "logs" / "test-arm.log"
    assert "limits changed" not in log.read_text()
    safety.write_text(yaml.safe_dump(limits | {"table_z": 0.01}))
    kill_child(process)
    again(process)
    assert "limits changed" in log.read_text()
    assert told_table_z(process) == 0.01


def test_a_file_that_makes_no_sense_any_more_ends_it(start, tmp_path):
    process = start()
    ready(process)
    (tmp_path / "test-arm.yaml").write_text("arm_id: test-arm\n")
    kill_child(process)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "unknown or missing" in err


def test_a_killed_parent_leaves_nobody_who_owns_the_arm(start):
    process = start()
    ready(process)
    child = owner(LOCK)
    process.kill()
    process.wait()
    wait_until(lambda: not exists(child))
    second = start()
    ready(second)
    assert mode(second) == "STOP"


def test_after_a_crash_it_starts_stopped_until_somebody_resets_it(start):
    first = start()
    ready(first)
    first.kill()
    first.wait()
    second = start()
    ready(second)
    assert (mode(second), state(second)["cause"]) == ("STOP", "fault")
    assert "ended without parking" in state(second)["reason"]
    wait_until(lambda: state(second)["cycle_s"] > 0)
    assert httpx.post(f"{second.url}/reset").json() == {"mode": "HOLD"}
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=100)
    third = start()
    ready(third)
    assert mode(third) == "HOLD"


def test_after_a_crash_it_goes_on_where_it_was_told_so(start):
    first = start()
    ready(first)
    first.kill()
    first.wait()
    second = start("after_crash=hold")
    ready(second)
    assert mode(second) == "HOLD"


CLIENT = """
import sys, time
from robot.client import RemoteArm
arm = RemoteArm(sys.argv[1], client="victim", timeout_s=10.0)
while True:
    # A machine that is busy with other tests may have kept it from being heard.
    if arm.state().mode != "RUN":
        arm.latch()
    seen = arm.observe(frames=False)
    arm.command(seen.joint_target, stamp=seen.stamp)
    time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "has gone"), (signal.SIGSTOP, "was not heard of for 0.")],
)
def test_an_arm_holds_when_its_client_dies_or_hangs(start, number, reason):
    process = start()
    ready(process)
    command = [sys.executable, "-c", CLIENT, process.url]
    with subprocess.Popen(command, cwd=ROOT) as client:
        try:
            wait_until(lambda: mode(process) == "RUN", timeout_s=60)
            client.send_signal(number)
            wait_until(lambda: mode(process) == "HOLD")
            assert f"'victim#1' {reason}" in state(process)["reason"]
        finally:
            client.kill()


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Return the code and the one line with which a daemon does not start."""
    monkeypatch.setattr("robot.process.service.log_to", lambda name: None)
    monkeypatch.setattr("robot.process.service._raise_priority", lambda: None)
    monkeypatch.setattr("robot.process.service.prove_limits", quick_proof)

    def refused(*words, **changes):
        write_arm(tmp_path, **changes)
        given = ["arm_id=test-arm", f"folder={tmp_path}", *words]
        code = main(given, live=lambda serve: serve(""), driver=driver)
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return code, err

    # What it logs is no answer to the person who started it.
    with capture_logs():
        yield refused


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("arm=arm01", "known words: arm_id="),
        ("arm_id=arm99", "arm99.yaml"),
        ("arm_id=../x", "expected letters"),
        ("allow_remote=yes", "expected true or false"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(refused, word, said):
    code, line = refused(word)
    assert code == 2
    assert said in line


@pytest.mark.parametrize(
    ("words", "changes", "code", "said"),
    [
        ([], {"port": "missing"}, 3, "plug the arm in"),
        ([], {"safety": "conf/safety/none.yaml"}, 2, "conf/safety/none.yaml"),
        ([], {"host": "0.0.0.0"}, 2, "set a token and allow_remote=true"),
        (["allow_remote=true"], {"host": "0.0.0.0"}, 2, "set a token and allow_remote=true"),
    ],
)
def test_what_cannot_be_started_says_why(refused, words, changes, code, said):
    answer, line = refused(*words, **changes)
    assert answer == code
    assert said in line


def test_limits_that_are_not_held_start_nothing(refused, monkeypatch):
    monkeypatch.setattr("robot.process.service.prove_limits", broken_proof)
    code, line = refused()
    assert code == 4
    assert "elbow 1 steps nearest 0.0 ° BROKEN; the arm is not started" in line


def test_an_arm_that_is_owned_already_names_its_owner(refused):
    lock = PortLock(runtime("test-arm", "lock"))
    try:
        code, err = refused()
    finally:
        lock.release()
    assert code == 3
    assert f"{os.getpid()}" in err


def test_a_port_that_is_taken_is_one_line(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, line = refused(port_number=other.getsockname()[1])
    assert code == 1
    assert "Address already in use" in line
    assert "change port_number in conf/arm/test-arm.yaml" in line


def test_its_log_is_its_owners_and_holds_no_token(start, tmp_path):
    process = start(environ={"ARM_TOKEN": TOKEN})
    ready(process)
    arm = RemoteArm(process.url, client="spy\nforged line", token=TOKEN)
    arm.close()
    httpx.get(f"{process.url}/state", headers={"Authorization": f"Bearer {TOKEN[::-1]}"})
    log = tmp_path / "logs" / "test-arm.log"
    wait_until(lambda: "unauthorised" in log.read_text())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    text = log.read_text()
    assert TOKEN not in text
    assert TOKEN[::-1] not in text
    lines = [json.loads(line) for line in text.splitlines()]
    hello = next(line for line in lines if line["event"] == "hello")
    assert (hello["peer"], len(hello["token"])) == ("127.0.0.1", 8)


def state(process):
    return httpx.get(f"{process.url}/state").json()


def mode(process):
    return state(process)["mode"]
