"""Recording keeps what was sealed, and nothing else."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot.arm import frozen
from robot.camera import Frame
from robot.client import ArmUnavailable, LinkLost, RemoteArm
from robot.guard import Command, Guard, GuardedArm, GuardEvent
from robot.journal import SOURCES, Journal, read_episode
from robot.limits import SafetyLimits
from robot.process.arm_state import Mode
from robot.process.camera_feed import Picture
from robot.recording import dataset
from robot.recording import record as record_module
from robot.recording.dataset import Manifest
from robot.recording.record import main, refuse_mixing, serve
from robot.recording.recorder import Recorder
from robot.recording.take import NotSealed, Row, Take
from robot.recording.take_writer import Session, TakeWriter
from robot.sealed import DiskFull
from robot.words import UsageError
from tests.robot.arm_rig import served
from tests.robot.clock import SetClock
from tests.robot.recorded import make_episode

ROOT = Path(__file__).resolve().parents[2]
LIMITS = SafetyLimits.load(ROOT / "conf" / "safety" / "default.yaml")
START = frozen([8, -14, 10, 94, 90, 45])
FPS = 30
SESSION = Session(
    arm="arm01",
    task="teleop",
    goal="Lift the green cube.",
    source="human",
    policy="human/keyboard",
    fps=FPS,
    cameras=("front",),
    git_revision="0123abcd",
    config={},
)
IMAGE = np.full((8, 8, 3), 90, np.uint8)


class QuickArm:
    """An arm that is at once where it is told to be."""

    def __init__(self, clock):
        self.clock, self.pos, self.closed = clock, START.copy(), False

    def joint_pos(self):
        return self.pos.copy()

    def frames(self):
        return {"front": Frame(image=IMAGE, stamp=self.clock.now())}

    def command(self, joint_target):
        self.pos = np.array(joint_target)

    def close(self):
        self.closed = True


class Scripted:
    """Asks for things at given polls and turns the pan a little in each."""

    def __init__(self, requests=None):
        self.requests, self.polls = requests or {}, 0

    def poll(self):
        self.polls += 1
        return self.requests.get(self.polls, [])

    def read(self, observation):
        return observation.joint_target + frozen([0.5, 0, 0, 0, 0, 0])

    def close(self):
        pass


@pytest.fixture
def arm():
    clock = SetClock()
    return GuardedArm(QuickArm(clock), Guard(LIMITS), clock, period_s=1 / FPS)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path)


def record(arm, journal, teleop, *, episodes=1, **options):
    recorder = Recorder(arm, teleop, journal=journal, session=SESSION, episode_s=0.5, **options)
    return recorder.run(episodes)


def test_a_take_becomes_a_sealed_episode(arm, journal):
    tally = record(arm, journal, Scripted(), hands_free=True)
    [path] = journal.episodes()
    episode = read_episode(path)
    assert tally.sealed == 1
    assert (episode.steps, episode.info.end, episode.info.goal) == (15, "time_limit", SESSION.goal)
    assert set(episode.source) == {SOURCES.index("human")}
    assert all(episode.frames["front"])


def test_what_was_sent_is_seen_with_the_next_row(arm, journal):
    record(arm, journal, Scripted(), hands_free=True)
    episode = read_episode(journal.episodes()[0])
    np.testing.assert_allclose(np.diff(episode.joint_target[:, 0]), 0.5)
    span = LIMITS.joint_upper - LIMITS.joint_lower
    wanted = LIMITS.joint_lower + span * (episode.actions + 1) / 2
    np.testing.assert_allclose(wanted, episode.joint_target[1:], atol=1e-4)


def test_a_person_starts_and_ends_a_take(arm, journal):
    tally = record(arm, journal, Scripted({3: ["start"], 9: ["start"]}))
    episode = read_episode(journal.episodes()[0])
    assert (tally.sealed, episode.steps, episode.info.end) == (1, 5, "operator")


@pytest.mark.parametrize("request_", ["abort", "quit", "stop"])
def test_a_discarded_take_leaves_nothing(arm, journal, tmp_path, request_):
    teleop = Scripted({3: ["start"], 9: [request_], 12: ["quit"]})
    tally = record(arm, journal, teleop)
    assert (tally.sealed, tally.discarded) == (0, 1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_take_after_a_discarded_one_has_none_of_its_rows(arm, journal):
    requests = {2: ["start"], 9: ["abort"], 10: ["start"], 14: ["start"]}
    record(arm, journal, Scripted(requests))
    episode = read_episode(journal.episodes()[0])
    assert episode.steps == 3
    assert episode.joint_pos[0, 0] == pytest.approx(START[0] + 0.5 * 8)


def test_recording_goes_on_where_it_was_left(arm, journal):
    record(arm, journal, Scripted(), episodes=1, hands_free=True)
    tally = record(arm, journal, Scripted(), episodes=3, hands_free=True)
    assert tally.sealed == 2
    assert [path.name[:6] for path in journal.episodes()] == ["000000", "000001", "000002"]


@pytest.mark.parametrize(
    ("requests", "ticks"),
    [
        ({}, 0),
        ({5: ["takeover"]}, 6),
        ({5: ["start"]}, 6),
        ({2: ["takeover"], 5: ["hand_back"]}, 3),
        ({2: ["start"], 5: ["stop"]}, 3),
        ({2: ["start"], 5: ["abort"]}, 9),
    ],
)
def test_an_arm_follows_only_whoever_took_it(arm, journal, requests, ticks):
    record(arm, journal, Scripted({**requests, 10: ["quit"]}))
    assert arm.observe(frames=False).joint_target[0] == pytest.approx(START[0] + 0.5 * ticks)


def test_a_question_mark_says_what_is_going_on(arm, journal):
    heard = []
    record(arm, journal, Scripted({2: ["state"], 4: ["quit"]}), say=heard.append)
    assert heard == ["waiting; 0 of 1 episodes sealed, 0 takes discarded, 0 refused"]


def test_requests_of_other_threads_are_obeyed(arm, journal):
    teleop = Scripted({12: ["quit"]})
    recorder = Recorder(arm, teleop, journal=journal, session=SESSION)
    assert "starts" in recorder.request("start")
    recorder.run(1)
    assert recorder.state() == "waiting; 0 of 1 episodes sealed, 1 takes discarded, 0 refused"


def test_a_stop_from_another_thread_reaches_the_arm_at_once(arm, journal):
    reasons = []
    recorder = Recorder(arm, Scripted(), journal=journal, session=SESSION, stop=reasons.append)
    recorder.request("stop")
    assert reasons == ["the operator's wish"]


@pytest.mark.parametrize("reason", ["mode:STOP", "driver:record#7"])
def test_a_take_ends_when_the_arm_is_in_other_hands(arm, journal, reason):
    class Elsewhere:
        def __getattr__(self, name):
            return getattr(arm, name)

        def command(self, joint_target, *, stamp):
            event = GuardEvent("refused", reason)
            return Command(joint_target=frozen(joint_target), events=(event,))

    heard = []
    record(Elsewhere(), journal, Scripted({1: ["start"], 5: ["quit"]}), say=heard.append)
    assert f"take discarded: the arm takes no commands ({reason})" in heard


def test_a_full_disk_ends_the_recording_and_holds_the_arm(arm, journal, monkeypatch):
    held = []
    monkeypatch.setattr(arm, "hold", lambda: held.append(True))

    def full(episode):
        raise DiskFull(28, "no room")

    monkeypatch.setattr(journal, "seal", full)
    with pytest.raises(DiskFull):
        record(arm, journal, Scripted(), hands_free=True)
    assert held


def test_without_anybody_watching_a_refused_take_ends_the_recording(arm, journal):
    slow = replace(SESSION, fps=60)
    recorder = Recorder(
        arm,
        Scripted(),
        journal=journal,
        session=slow,
        hands_free=True,
        episode_s=0.5,
        eyes=lambda: {},
    )
    with pytest.raises(NotSealed, match="front had no picture when it began"):
        recorder.run(1)


class TurnTaking(SetClock):
    """Waits until the cameras have looked, so that neither thread runs away from the other."""

    def __init__(self):
        super().__init__()
        self.looked = threading.Event()

    def sleep_until(self, moment):
        self.looked.clear()
        self.looked.wait(5)
        super().sleep_until(moment)

    def look(self):
        picture = Picture(jpeg=b"%.4f" % self.time, stamp=self.time)
        self.looked.set()
        return {"front": picture}


def test_cameras_of_their_own_thread_are_matched_by_the_time_they_looked(journal):
    clock = TurnTaking()
    arm = GuardedArm(QuickArm(clock), Guard(LIMITS), clock, period_s=1 / FPS)
    tally = record(arm, journal, Scripted({3: ["start"]}), eyes=clock.look)
    assert tally.sealed == 1
    episode = read_episode(journal.episodes()[0])
    taken = np.array([float(picture) for picture in episode.frames["front"]])
    assert (episode.stamps - taken >= -1e-3).all()
    assert (episode.stamps - taken <= 1.5 / FPS + 1e-3).all()


def test_what_goes_wrong_with_a_camera_ends_the_recording(arm, journal):
    def unplugged():
        raise LinkLost("front shows nothing recent: check the camera and its cable")

    with pytest.raises(LinkLost, match="check the camera"):
        record(arm, journal, Scripted(), eyes=unplugged)


# What may not be sealed


def take(*, row_s=1 / FPS, picture_s=1 / FPS, rows=60):
    made = Take(period_s=1 / FPS, cameras=("front",))
    for number in range(rows):
        made.rows.append(
            Row(
                stamp=number * row_s,
                joint_pos=START,
                joint_target=START,
                wanted=START,
                source="human",
                events=(),
            )
        )
    for number in range(int(rows * row_s / picture_s) + 1):
        made.see({"front": Picture(jpeg=b"%d" % number, stamp=number * picture_s)})
    return made


def test_a_picture_that_is_newer_than_the_first_row_does_not_cost_the_take(journal):
    writer = TakeWriter(journal, SESSION, LIMITS)
    for stamp in (1.00, 1.03):
        writer.see({"front": Picture(jpeg=b"%.2f" % stamp, stamp=stamp)})
    writer.begin()
    for row in take(rows=2).rows:
        writer.row(replace(row, stamp=row.stamp + 1.02))
    writer.see({"front": Picture(jpeg=b"1.06", stamp=1.06)})
    writer.end("000000-0a1b2c3d", "operator")
    writer.close()
    writer.run()
    assert writer.outcomes.get() == "000000-0a1b2c3d"
    assert list(read_episode(journal.episodes()[0]).frames["front"]) == [b"1.00", b"1.03"]


INFO = SESSION.info("000000-0a1b2c3d", "operator", "2026-11-21T10:00:00+00:00")


def test_rows_have_the_newest_picture_that_was_taken_by_then():
    episode = take(picture_s=0.02, rows=4).episode(INFO, LIMITS, max_late=0.05)
    assert list(episode.frames["front"]) == [b"0", b"1", b"3", b"5"]


def test_a_slow_camera_is_not_passed_off_as_a_quick_one():
    with pytest.raises(NotSealed, match=r"of the pictures of front were more than 50 ms old"):
        take(picture_s=0.2).episode(INFO, LIMITS, max_late=0.05)


def test_a_slow_loop_is_not_passed_off_as_a_quick_one():
    with pytest.raises(NotSealed, match="record at a lower fps"):
        take(row_s=0.08, picture_s=0.01).episode(INFO, LIMITS, max_late=0.05)


def test_a_take_without_steps_is_none():
    with pytest.raises(NotSealed, match="no step"):
        take(rows=1).episode(INFO, LIMITS, max_late=0.05)


def test_a_picture_that_comes_twice_is_kept_once():
    made = Take(period_s=1 / FPS, cameras=("front",))
    for stamp in (1.0, 1.0, 0.9, 1.1):
        made.see({"front": Picture(jpeg=b"x", stamp=stamp)})
    assert [picture.stamp for picture in made.pictures["front"]] == [1.0, 1.1]


# The program


def test_a_dataset_is_not_continued_at_another_rate(arm, journal):
    record(arm, journal, Scripted(), hands_free=True)
    session = replace(SESSION, fps=60.0, config={"cameras": {}})
    with pytest.raises(UsageError, match="was recorded with fps 30, not 60"):
        refuse_mixing(journal, session)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def test_telnet_asks_the_recorder(arm, journal):
    recorder = Recorder(arm, Scripted({9: ["quit"]}), journal=journal, session=SESSION)
    with serve(recorder, port=0) as telnet, connect(telnet.port) as peer:
        peer.sendall(b"?\ns\n")
        said = peer.makefile("r")
        assert said.readline().startswith("waiting; 0 of 0 episodes sealed, 0 takes discarded")
        assert "starts" in said.readline()
    recorder.run(1)
    assert "1 takes discarded" in recorder.state()


@pytest.mark.parametrize(
    "words",
    [
        ["goal=Lift."],
        ["dataset=../etc", "goal=Lift."],
        ["dataset=pick", "speed=9"],
        ["dataset=pick", "goal=Lift.", "actions=wild"],
        ["dataset=pick", "goal=Lift.", "arm_id=arm99"],
    ],
)
def test_words_that_mean_nothing_end_with_two(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dataset, "JOURNALS", tmp_path)
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_nobody_home_ends_with_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dataset, "JOURNALS", tmp_path)
    monkeypatch.setattr(record_module, "open_arm", raising(ArmUnavailable("nobody answers")))
    assert main(["dataset=pick", "goal=Lift."]) == 1
    assert capsys.readouterr().err == "nobody answers\n"


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Serve an arm for the program to find, and give it a dataset folder."""
    monkeypatch.setattr("robot.process.arm_process.SILENCE_S", 60.0)
    monkeypatch.setattr(dataset, "JOURNALS", tmp_path)
    with served() as rig:

        def open_arm(config, **options):
            return RemoteArm(rig.url, timeout_s=20.0, **options)

        monkeypatch.setattr(record_module, "open_arm", open_arm)
        yield rig.process


def seal_one(folder, **config):
    episode = make_episode(0)
    Journal(folder).seal(replace(episode, info=replace(episode.info, config=config)))


def record_as_typed(monkeypatch, teleop, *words):
    monkeypatch.setattr(record_module, "open_device", lambda *_: nullcontext(teleop))
    return main(["dataset=pick", "goal=Lift.", "max_late=1", "fps=20", *words])


def test_whoever_stops_the_arm_and_quits_keeps_what_was_sealed(process, tmp_path, monkeypatch):
    exported = []

    def export(journal, root, *, actions):
        exported.append(actions)
        return Manifest(actions=actions, fps=20, episodes=(), goals=())

    monkeypatch.setattr(record_module, "export", export)
    seal_one(tmp_path / "pick", fps=20.0, cameras={"front": [32, 48]})
    teleop = Scripted({2: ["start"], 4: ["stop"], 6: ["quit"]})
    assert record_as_typed(monkeypatch, teleop, "actions=delta") == 0
    assert (exported, process.mode) == (["delta"], Mode.STOP)


def test_a_stopped_arm_that_is_asked_for_says_so_and_recording_goes_on(
    process, monkeypatch, capsys
):
    teleop = Scripted({2: ["stop"], 4: ["takeover"], 6: ["quit"]})
    assert record_as_typed(monkeypatch, teleop) == 0
    assert "no takeover: " in capsys.readouterr().out


def test_an_arm_that_a_policy_drives_is_left_to_it(process, monkeypatch, capsys):
    process.request(Mode.RUN, client="policy")
    assert record_as_typed(monkeypatch, Scripted()) == 1
    assert "a policy drives the arm" in capsys.readouterr().err
    assert process.mode is Mode.RUN


def test_a_rate_of_nothing_is_a_usage_error(process, monkeypatch, capsys):
    assert record_as_typed(monkeypatch, Scripted(), "fps=0") == 2
    assert "fps='0'; expected a number from 1 on" in capsys.readouterr().err


def raising(error):
    def raise_it(*_, **__):
        raise error

    return raise_it


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_record as t
from robot.journal import Journal
clock = t.SetClock()
arm = t.GuardedArm(t.QuickArm(clock), t.Guard(t.LIMITS), clock, period_s=1 / t.FPS)
say = lambda line: print(line, flush=True)
t.record(arm, Journal(Path({folder!r})), t.Scripted(), episodes=10**6, hands_free=True, say=say)
"""


def test_a_killed_recorder_loses_at_most_the_running_episode(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as child:
        sealed = 0
        while sealed < 3:
            sealed += b" sealed, " in child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
    journal = Journal(tmp_path)
    episodes = [read_episode(path) for path in journal.episodes()]
    assert len(episodes) >= 3
    assert all(episode.steps == 15 for episode in episodes)
    assert list((tmp_path / "episodes").glob(".*")) == []
