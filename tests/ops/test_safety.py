"""The table's rules, and that a check fails where what it checks is broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest

from ops import safety
from ops.safety_checks import (
    away,
    crowd,
    durability,
    frames,
    guard,
    handovers,
    hostile,
    services,
    silence,
    soak,
    stops,
    telnet_lines,
    visitors,
)
from ops.safety_checks.effort import Effort
from ops.safety_checks.judge import Judge, Rules
from ops.safety_checks.page import page
from ops.safety_checks.row import Row, not_measured, percentile
from robot import sealed
from robot.guard import Command, Guard
from robot.http_server import LimitedProtocol
from robot.process.arm_process import ArmProcess
from robot.process.heartbeat import Heartbeats
from robot.process.motion import Motion
from robot.teleop.telnet import TelnetServer
from robot.wire import MAX_BYTES

RULES = Rules.load(guard.SAFETY)


@pytest.fixture
def effort(tmp_path):
    return Effort(folder=tmp_path, most=100)


def row(**changes):
    settings = {
        "id": "S1",
        "promise": "no harm",
        "asked": "0",
        "measured": "0",
        "trials": 100,
        "full": 100,
        "broken": 0,
        "how": "by hand",
    }
    return Row(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"trials": 99}, "pass so far"),
        ({"broken": 1}, "FAIL"),
        ({"trials": 99, "broken": 1}, "FAIL"),
        ({"trials": 0}, "not measured"),
        ({"missing": "no disk"}, "not measured"),
    ],
)
def test_only_full_n_without_a_failure_passes(changes, verdict):
    assert row(**changes).verdict == verdict


def test_a_row_says_which_rate_of_failure_is_excluded():
    assert row(trials=3000, full=5000).bound == "3,000 of 5,000 (0.001)"
    assert row(broken=2).bound == "100 (2 broken)"


def test_rows_that_are_measured_again_replace_the_stored_ones(tmp_path):
    path = tmp_path / "safety.json"
    safety.write_rows(path, [row(id="N2"), row(), row(id="R1", promise="nothing lost")])
    safety.write_rows(path, [row(broken=3), not_measured("S12", "it holds", "0", why="no arm")])
    assert [(found.id, found.verdict) for found in safety.read_rows(path)] == [
        ("S1", "FAIL"),
        ("S12", "not measured"),
        ("R1", "pass"),
        ("N2", "pass"),
    ]


def test_the_page_says_verdict_method_and_failures():
    text = page([row(), row(id="S2", broken=1, examples=("seed=3 part 4",))])
    assert "| S1 | no harm | 0 | 0 | 100 of 100 (0.03) | - | pass |" in text
    assert "- **S1** (no harm): by hand" in text
    assert "- S2: `seed=3 part 4`" in text


@pytest.mark.parametrize("words", [["fast=1"], ["seed=x"], ["only=S99"]])
def test_words_that_mean_nothing_are_refused(words, capsys):
    assert safety.main(words) == 2
    assert "error: " in capsys.readouterr().err


def test_the_exit_code_and_the_file_tell_of_a_broken_promise(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(safety, "CHECKS", [("S1", "", "")])
    monkeypatch.setattr(safety, "check_of", lambda *_: lambda _: [row(broken=1)])
    path = tmp_path / "out.json"
    assert safety.main([f"json={path}"]) == 1
    assert json.loads(path.read_text())[0]["verdict"] == "FAIL"
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("only", "kept"), [("two", ["S1", "S2"]), ("S2", ["S2"]), ("R1,two", ["S1", "S2", "R1"])]
)
def test_checks_can_be_asked_for_by_name_and_by_promise(only, kept, tmp_path, monkeypatch):
    found = {"two": [row(), row(id="S2")], "one": [row(id="R1")]}
    monkeypatch.setattr(safety, "CHECKS", [("S1 S2", "", "two"), ("R1", "", "one")])
    monkeypatch.setattr(safety, "check_of", lambda _, name: lambda _: found[name])
    path = tmp_path / "out.json"
    assert safety.main([f"only={only}", f"json={path}"]) == 0
    assert [one["id"] for one in json.loads(path.read_text())] == kept


def test_the_docs_are_written_from_the_committed_results(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    safety.write_rows(tmp_path / safety.RESULTS, [row()])
    assert safety.main(["docs=1"], root=tmp_path) == 0
    assert "| S1 | no harm |" in (tmp_path / safety.PAGE).read_text()


def test_a_percentile_is_a_value_that_was_measured():
    values = [float(value) for value in range(1, 1001)]
    assert (percentile(values, 0.5), percentile(values, 0.999)) == (500.0, 999.0)


# The judge


def test_the_judge_puts_the_tool_where_mujoco_does():
    judge, rng = Judge(RULES), np.random.default_rng(0)
    poses = rng.uniform(RULES.lower, RULES.upper, (50, 6))
    assert judge.disagreement(poses, judge.tools(poses)) < 1e-9


def test_the_judges_quick_look_finds_what_the_exact_one_finds():
    judge, rng = Judge(RULES), np.random.default_rng(1)
    poses = rng.uniform(RULES.lower, RULES.upper, (200, 6))
    exact, quick = judge.violations(poses).max(1), judge.worst(poses)
    outside = exact > 0
    assert outside.any()
    np.testing.assert_allclose(quick[outside], exact[outside])
    assert (quick[~outside] <= 0).all()


# Checks that hold, and the same on something broken


class Passing(Guard):
    """A guard that lets everything pass."""

    def check(self, proposal, *, last, measured, dt, age_s=0.0):
        wanted = np.resize(np.asarray(proposal, float), 6)
        return Command(joint_target=wanted, events=())


class Spaceless(Guard):
    """A guard that knows no boxes and no table."""

    def _shorten(self, target, *, last):
        return target, []


class Clipping(Guard):
    """A guard that clips what is no number, as `np.clip` does, and asks nothing of its age."""

    def _refusal(self, proposal, *, measured, dt, age_s):
        return None

    def _clamp(self, wanted, *, last, measured, dt):
        return super()._clamp(np.nan_to_num(wanted), last=last, measured=measured, dt=dt)


def verdicts(rows):
    return {found.id: found.verdict for found in rows}


def test_the_guard_keeps_its_promises_in_a_few_trials(effort):
    found = [*guard.limits_and_volumes(effort), *guard.nonsense(effort), *guard.stale(effort)]
    assert set(verdicts(found).values()) == {"pass so far"}


def test_a_guard_that_lets_everything_pass_breaks_limits_and_volumes(effort):
    assert verdicts(guard.limits_and_volumes(effort, Passing)) == {"S1": "FAIL", "S2": "FAIL"}


def test_a_guard_without_volumes_is_found_out(effort):
    found = guard.limits_and_volumes(effort, Spaceless)
    assert verdicts(found) == {"S1": "pass so far", "S2": "FAIL"}
    assert "part 0 command" in found[1].examples[0]


def test_a_guard_without_volumes_makes_illegal_starts_worse(tmp_path):
    few = Effort(folder=tmp_path, most=10)
    assert verdicts(guard.illegal_starts(few)) == {"S3": "pass so far"}
    assert verdicts(guard.illegal_starts(few, Spaceless)) == {"S3": "FAIL"}


def test_a_guard_that_clips_instead_of_refusing_is_found_out(effort):
    assert verdicts(guard.stale(effort, Clipping)) == {"S5": "FAIL"}


def test_a_guard_that_takes_anything_fails_on_nonsense(effort, monkeypatch):
    monkeypatch.setattr("robot.guard._malformed", lambda proposal: None)
    monkeypatch.setattr(Guard, "_clamp", lambda self, wanted, **_: (np.zeros(6), []))
    monkeypatch.setattr("robot.guard.cast", lambda _, value: np.zeros(6))
    assert verdicts(guard.nonsense(effort)) == {"S4": "FAIL"}


def test_the_process_keeps_its_promises_in_a_few_trials(tmp_path):
    few = Effort(folder=tmp_path, most=6)
    checks = (
        silence.silence,
        stops.stops,
        handovers.takeovers,
        handovers.first_commands,
        stops.troubles,
        stops.losses,
    )
    found = [found for check in checks for found in check(few)]
    assert [(r.id, r.examples) for r in found if r.verdict != "pass so far"] == []


def test_a_process_that_hears_heartbeats_for_ever_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Heartbeats, "silence", lambda self, **_: 0.0)
    found = silence._hold(Effort(folder=tmp_path, most=2))
    assert found.verdict == "FAIL"


def test_a_stop_that_is_not_latched_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(ArmProcess, "_require", lambda self, mode, **_: None)
    assert verdicts(stops.stops(Effort(folder=tmp_path, most=10))) == {"S7": "FAIL"}


def test_a_first_command_that_jumps_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Motion, "latch", lambda self, pose: None)
    assert verdicts(handovers.first_commands(Effort(folder=tmp_path, most=4))) == {"S9": "FAIL"}


def test_a_hand_back_without_a_blend_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Motion, "blend", lambda self, now: None)
    assert verdicts(handovers.takeovers(Effort(folder=tmp_path, most=6))) == {"S8": "FAIL"}


def test_power_cuts_lose_nothing_that_was_flushed(effort):
    few = Effort(folder=effort.folder, most=2)
    assert verdicts(durability.cut_power(few)) == {"R2": "pass so far"}


@pytest.mark.parametrize("forgotten", ["_flush", "_flush_folder"])
def test_a_seal_that_forgets_a_flush_is_found_out(tmp_path, monkeypatch, forgotten):
    monkeypatch.setattr(sealed, forgotten, lambda _: None)
    assert verdicts(durability.cut_power(Effort(folder=tmp_path, most=2))) == {"R2": "FAIL"}


def test_no_spoilt_status_is_taken_for_a_pose(tmp_path):
    few = Effort(folder=tmp_path, most=3000)
    assert verdicts(frames.bad_frames(few)) == {"S11": "pass so far"}


def test_killed_writers_lose_nothing(tmp_path):
    assert verdicts(durability.kill_writers(Effort(folder=tmp_path, most=3))) == {
        "R1": "pass so far"
    }


class Trusting(services.RemoteReward):
    """A client that takes a status of 200 for a score."""

    def score(self, clip):
        status, _ = self._post("/score", b'{"stamps": [0, 1, 2]}')
        if status != 200:
            raise services.NoScore("no")


def test_nonsense_of_a_rewarder_is_no_score_and_a_trusting_client_is_found_out(tmp_path):
    few = Effort(folder=tmp_path, most=20)
    assert verdicts(services.nonsense_scores(few)) == {"R6": "pass so far"}
    assert verdicts(services.nonsense_scores(few, Trusting)) == {"R6": "FAIL"}


def test_a_small_disk_is_filled_or_said_not_to_be_had(tmp_path):
    (found,) = services.disk_full(Effort(folder=tmp_path, most=2))
    expected = {"pass so far", "not measured"} if os.name == "posix" else {"not measured"}
    assert found.verdict in expected, found.examples


def test_the_decoder_survives_hostile_strings(tmp_path):
    few = Effort(folder=tmp_path, most=hostile.BIG_EVERY + 100)
    assert verdicts(hostile.hostile_strings(few)) == {"N2": "pass so far"}


def careless(data):
    msgpack.unpackb(data)


def greedy(data):
    return bytes(2 * MAX_BYTES + 1)


@pytest.mark.parametrize("decode", [careless, greedy])
def test_a_decoder_that_raises_or_takes_too_much_is_found_out(tmp_path, decode):
    few = Effort(folder=tmp_path, most=20)
    assert verdicts(hostile.hostile_strings(few, decode)) == {"N2": "FAIL"}


def test_a_server_survives_hostile_visitors(tmp_path):
    (found,) = visitors.hostile_visitors(Effort(folder=tmp_path, most=200))
    assert (found.verdict, found.examples) == ("pass so far", ())


def failing(*_, **__):
    async def app(scope, receive, send):
        raise KeyError("nobody has thought of it")

    return app


def test_a_server_that_fails_is_found_out(tmp_path):
    (found,) = visitors.hostile_visitors(Effort(folder=tmp_path, most=20), failing)
    assert found.verdict == "FAIL"
    assert "500" in found.examples[0]


def test_an_arm_that_comes_back_is_found_and_one_that_does_not_is_late(tmp_path, monkeypatch):
    (wait,) = away._dashboard(1)
    assert away._row("it is found", [wait], "").verdict == "pass so far"
    monkeypatch.setattr(away, "GIVE_UP_S", 0.01)
    wait = away._until(lambda: False)
    assert away._row("it is found", [wait], "").verdict == "FAIL"


def test_a_telnet_port_survives_hostile_lines(tmp_path):
    (found,) = telnet_lines.hostile_lines(Effort(folder=tmp_path, most=2_000))
    assert (found.verdict, found.trials, found.examples) == ("pass so far", 2_000, ())


def misled(answers, port):
    return TelnetServer({**answers, "z": answers["s"]}, port=port)


def crying(answers, port):
    def fail():
        raise KeyError("nobody has thought of it")

    return TelnetServer({**answers, "q": ("quit", fail)}, port=port)


@pytest.mark.parametrize("make_server", [misled, crying])
def test_a_telnet_port_that_errs_is_found_out(tmp_path, make_server):
    few = Effort(folder=tmp_path, most=500)
    assert verdicts(telnet_lines.hostile_lines(few, make_server)) == {"N1": "FAIL"}


@pytest.fixture
def small_crowd(monkeypatch):
    monkeypatch.setattr(crowd, "CROWD", 100)
    # A machine that is busy with other tests is no deaf server.
    monkeypatch.setattr(crowd, "STOP_S", 2.0)


def test_a_stop_is_heard_in_a_crowd(tmp_path, small_crowd):
    (found,) = crowd.crowded_stops(Effort(folder=tmp_path, most=20))
    assert (found.verdict, found.examples) == ("pass so far", ())


def test_a_server_that_lets_nobody_in_beyond_a_number_is_found_out(
    tmp_path, small_crowd, monkeypatch
):
    monkeypatch.setattr(LimitedProtocol, "_find_room", lambda self: len(self.connections) <= 64)
    assert verdicts(crowd.crowded_stops(Effort(folder=tmp_path, most=4))) == {"S7": "FAIL"}


STAYS = "import sys\nfor line in sys.stdin: print(flush=True)"
GROWS = """import os, sys
kept = []
for line in sys.stdin:
    kept += [b"x" * 2**20, open(os.devnull)]
    print(flush=True)
"""


def lived(program, *, later_s):
    """Look at a process that does its work once before each look."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        life = soak.Life("child", child.pid)
        for look in range(60):
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.readline()
            life.look()
            life.late_s.append(0.001 + look * later_s)
        child.stdin.close()
    return soak.Story([life])


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


@linux
def test_a_process_that_stays_as_it_is_passes():
    found = soak.rows_of(lived(STAYS, later_s=0.0), 60)
    assert [one.verdict for one in found] == ["pass so far"] * 3


@linux
def test_a_process_that_grows_and_becomes_late_is_found_out():
    found = soak.rows_of(lived(GROWS, later_s=0.001), 60)
    assert [one.verdict for one in found] == ["FAIL"] * 3


@linux
def test_a_process_that_dies_is_found_out():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert "died" in soak._dead(soak.Life("child", child.pid))


def test_a_slope_that_is_not_sure_takes_the_hours_that_were_asked():
    minutes = [60.0 * minute for minute in range(60)]
    ripple = [100.0 + 10 * (minute % 2) for minute in range(60)]
    life = soak.Life("arm", 0, minutes, ripple, [9.0] * 60, [0.0] * 60)
    unsure, *_ = soak.rows_of(soak.Story([life]), 3600)
    life.rss_mb[:] = [100.0] * 60
    sure, *_ = soak.rows_of(soak.Story([life]), 3600)
    assert (unsure.verdict, sure.verdict) == ("pass so far", "pass")


def test_every_promise_of_the_table_has_a_check():
    tried = {row_id for ids, _, _ in safety.CHECKS for row_id in ids.split()}
    assert tried == safety.known_ids()


def test_every_check_is_where_the_table_says():
    folder = Path(safety.__file__).with_name("safety_checks")
    missing = [
        name
        for _, module, name in safety.CHECKS
        if f"def {name}(" not in (folder / f"{module}.py").read_text()
    ]
    assert missing == []


def test_the_committed_results_can_be_read():
    path = Path(safety.ROOT / safety.RESULTS)
    assert all(found.id in safety.known_ids() for found in safety.read_rows(path))
