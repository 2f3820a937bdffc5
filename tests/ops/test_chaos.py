"""A plan is the same for its seed, evil policies are evil, and the verdict hides nothing."""

import dataclasses
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from ops import chaos
from ops.chaos_plan import CAMERA_ARM, GAP_S, KINDS, SETTLE_S, plan
from ops.chaos_stage import logged_tracebacks
from ops.safety_checks.drivers import MOODS, Evil, EvilWish
from ops.safety_checks.guard import SAFETY, START
from ops.safety_checks.proxy import Mood, Proxy
from ops.safety_checks.rig import goal_of, own_config
from robot.guard import Guard
from robot.limits import SafetyLimits

RESULT = chaos.Result(
    seed=7,
    minutes=10.0,
    arms=4,
    faults=2,
    struck={"TCP cut": 2},
    not_tried=("a clock step",),
    frames=1000,
    violations=0,
    policies=4,
    episodes_sealed=10,
    answers_refused=20,
    wrong=(),
    revision="0123",
    machine="2 cores",
)


def test_a_seed_makes_the_same_faults_again():
    assert plan(7, minutes=30, arms=4) == plan(7, minutes=30, arms=4)
    assert plan(7, minutes=30, arms=4) != plan(8, minutes=30, arms=4)


def test_a_long_plan_has_every_kind_in_time_and_on_every_arm():
    faults = plan(1, minutes=600, arms=4)
    gaps = np.diff([fault.at_s for fault in faults])
    assert GAP_S[0] - 0.02 <= gaps.min()
    assert gaps.max() <= GAP_S[1] + 0.02
    assert {fault.kind for fault in faults} == {kind.name for kind in KINDS}
    assert {fault.arm for fault in faults} == {0, 1, 2, 3}
    assert {fault.arm for fault in faults if fault.kind.startswith("camera")} == {CAMERA_ARM}


def test_no_fault_lasts_into_the_quiet_end():
    for seed in range(20):
        for fault in plan(seed, minutes=2, arms=2):
            assert fault.at_s + fault.seconds <= 120 - SETTLE_S + 0.02


def test_the_verdict_of_a_clean_run_is_pass_so_far():
    text = chaos.verdict(RESULT)
    assert "2 faults: TCP cut 2" in text
    assert "not tried: a clock step" in text
    assert text.endswith("pass so far: no violation, nothing lost, every arm came back")


def test_the_verdict_of_a_bad_run_says_what_and_how_to_see_it_again():
    bad = dataclasses.replace(RESULT, wrong=("arm01 was told table: gripper by 0.002",))
    text = chaos.verdict(bad)
    assert "FAIL arm01 was told table: gripper by 0.002" in text
    assert text.endswith("again: python -m ops.chaos seed=7 minutes=10 arms=4")


@pytest.mark.parametrize("wrong", [(), ("an arm fell",)])
def test_the_exit_code_tells_whether_anything_was_wrong(monkeypatch, capsys, tmp_path, wrong):
    result = dataclasses.replace(RESULT, wrong=wrong)
    monkeypatch.setattr(chaos, "chaos", lambda **_: result)
    assert chaos.main([f"json={tmp_path / 'out.json'}"]) == len(wrong)
    assert (tmp_path / "out.json").is_file()


@pytest.mark.parametrize("words", [["minutes=x"], ["arms=0"], ["minutes=0"], ["speed=1"]])
def test_words_that_mean_nothing_are_refused(words, capsys):
    assert chaos.main(words) == 2
    assert "error: " in capsys.readouterr().err


def test_a_new_violation_is_blamed_on_the_newest_faults():
    faults = plan(1, minutes=5, arms=1)
    story = chaos.Story(done=list(faults[:5]))
    judged = SimpleNamespace(broken=2, worst="speed: elbow_flex by 3")
    player = SimpleNamespace(arm=SimpleNamespace(arm_id="arm01"), judged=judged)
    stage = SimpleNamespace(players=[player])
    chaos._note_violations(story, stage)
    chaos._note_violations(story, stage)
    assert len(story.wrong) == 1
    assert str(faults[4]) in story.wrong[0]
    assert str(faults[0]) not in story.wrong[0]


def test_a_traceback_of_an_arms_process_is_noticed(tmp_path):
    log = tmp_path / "arm01.log"
    arm = SimpleNamespace(arm_id="arm01", log=log)
    log.write_text("ready\n")
    assert logged_tracebacks([arm]) == []
    log.write_text("Traceback (most recent call last):\n  x\nValueError: no\n")
    assert logged_tracebacks([arm]) == ["arm01 printed a traceback: ValueError: no"]


@pytest.mark.parametrize("mood", [mood for mood in MOODS if mood not in {"good", "late"}])
def test_an_evil_mood_gives_something_that_the_guard_has_to_change_or_ignore(mood):
    guard = Guard(SafetyLimits.load(SAFETY))
    evil = Evil(EvilWish(url="", client="evil", seed=1, frames=False))
    evil._mood, evil._start = mood, START
    goal = evil._goal(SimpleNamespace(limits=guard.limits), START)
    age_s = 10.0 if mood == "old chunk" else 0.0
    command = guard.check(goal, last=START, measured=START, dt=0.05, age_s=age_s)
    assert command.events or mood == "frozen"


def test_an_arm_of_the_rig_has_a_file_and_a_port_of_its_own(tmp_path):
    config = own_config("rig1-1", tmp_path, cameras=False)
    assert (config.port, dict(config.cameras)) == ("run/rig1-1.bus", {})
    assert config.port_number != 18101


def test_a_servos_goal_is_read_from_its_registers():
    registers = bytearray(96)
    registers[42:44] = (2048).to_bytes(2, "little")
    assert goal_of({"registers": registers.hex()}) == 2048


# The relay


@pytest.fixture
def pair():
    """Yield a relay, and both ends of a connection through it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = Proxy(listening.getsockname()[1])
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        server, _ = listening.accept()
        server.settimeout(10)
        yield proxy, client, server
        proxy.close()
        client.close()
        server.close()


def test_a_relay_passes_what_comes_both_ways(pair):
    _, client, server = pair
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"


def test_a_cut_reaches_both_ends(pair):
    proxy, client, server = pair
    client.sendall(b"x")
    server.recv(1)
    proxy.cut()
    for end in (client, server):
        assert _ended(end)


def test_a_half_open_connection_is_only_told_to_the_client(pair):
    proxy, client, server = pair
    client.sendall(b"x")
    server.recv(1)
    proxy.half_open()
    assert _ended(client)
    server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server.recv(1)


def test_a_black_hole_tells_nobody_and_gives_everything_back(pair):
    proxy, client, server = pair
    proxy.mood = Mood.BLACK_HOLE
    client.sendall(b"late")
    server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server.recv(4)
    proxy.mood = Mood.FINE
    server.settimeout(10)
    assert server.recv(4) == b"late"


def test_a_corrupt_byte_is_one_flipped_bit_once(pair):
    proxy, client, server = pair
    proxy.mood = Mood.CORRUPT
    client.sendall(b"abcd")
    flipped = bytes(a ^ b for a, b in zip(server.recv(4), b"abcd", strict=True))
    assert sum(byte.bit_count() for byte in flipped) == 1
    client.sendall(b"abcd")
    assert server.recv(4) == b"abcd"


def _ended(end):
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def test_relaying_ends_with_the_relay():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        Proxy(listening.getsockname()[1]).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]
