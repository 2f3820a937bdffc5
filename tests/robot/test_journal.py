import datetime as dt
import errno
import io
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.journal import (
    Episode,
    EpisodeInfo,
    Journal,
    episode_bytes,
    episode_from,
    journal_folder,
    read_episode,
)
from robot.sealed import Damaged, DiskFull, pack

ROOT = Path(__file__).resolve().parents[2]
NAME = "000007-0a1b2c3d"


def make_episode(name=NAME, steps=5, picture=1000, **changes):
    observations, rng = steps + 3, np.random.default_rng(0)
    info = EpisodeInfo(
        episode=name,
        arm="arm01",
        task="lift",
        goal="Lift the green cube.",
        seed=3,
        end="time_limit",
        started_at="2026-11-21T10:00:00+00:00",
        action_space="ee_delta",
        policy="learned/000042",
        greedy=False,
        git_revision="0123abcd",
        config={"arm": {"preset": "stiff"}},
        truth={"success": True, "success_at_s": 2.5},
    )
    parts = {
        "info": info,
        "stamps": np.arange(observations) * 0.1,
        "joint_pos": rng.normal(size=(observations, 6)),
        "joint_target": rng.normal(size=(observations, 6)),
        "frames": {
            "front": [rng.bytes(picture + i) for i in range(observations)],
            "side": [b"" if i == 2 else rng.bytes(picture) for i in range(observations)],
        },
        "first_step": 1,
        "state": {
            "joint_pos": rng.normal(size=(steps + 1, 6)).astype(np.float32),
            "held": np.zeros((steps + 1, 1), np.float32),
        },
        "actions": rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        "source": np.zeros(steps, np.uint8),
        "guard_events": [["step:elbow_flex", "table"]] + [[]] * (steps - 1),
    }
    return Episode(**{**parts, **changes})


def assert_same(a, b):
    assert a.info == b.info
    assert (a.first_step, a.frames, a.guard_events) == (b.first_step, b.frames, b.guard_events)
    for name in ("stamps", "joint_pos", "joint_target", "actions", "source"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    assert list(a.state) == list(b.state)
    for name, values in a.state.items():
        np.testing.assert_array_equal(values, b.state[name], strict=True)


def test_a_sealed_episode_reads_back_as_it_was(tmp_path):
    journal, episode = Journal(tmp_path), make_episode()
    path = journal.seal(episode)
    assert path == tmp_path / "episodes" / f"{NAME}.npz"
    assert journal.episodes() == [path]
    assert_same(read_episode(path), episode)


def test_numpy_alone_reads_a_sealed_episode_without_pickle(tmp_path):
    path = Journal(tmp_path).seal(make_episode())
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["joint_pos"].shape == (8, 6)


def test_the_same_episode_gives_the_same_bytes():
    assert episode_bytes(make_episode()) == episode_bytes(make_episode())


def test_arrays_of_a_read_episode_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        episode_from(episode_bytes(make_episode())).joint_pos[0, 0] = 1.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stamps": np.full(8, np.nan)}, "stamps has a value that is not finite"),
        ({"stamps": np.arange(8.0)[::-1]}, "backwards"),
        ({"joint_pos": np.full((8, 6), np.inf)}, "joint_pos has a value that is not finite"),
        ({"joint_pos": np.zeros((7, 6))}, r"joint_pos is float64 \(7, 6\), expected"),
        ({"joint_target": np.zeros((8, 5))}, r"joint_target is .* expected float64 \(8, 6\)"),
        ({"actions": np.zeros((5, 4))}, "actions is float64"),
        ({"source": np.full(5, 9, np.uint8)}, "source"),
        ({"source": np.zeros(4, np.uint8)}, "source"),
        ({"state": {"held": np.zeros((5, 1), np.float32)}}, "state held"),
        ({"state": {"held": np.full((6, 1), np.nan, np.float32)}}, "state held"),
        ({"frames": {"front": [b"x"] * 7}}, "front has 7 pictures, expected 8"),
        ({"guard_events": [[]]}, "1 lists of guard events, expected 5"),
        ({"first_step": 3}, "8 observations do not hold 5 steps from 3 on"),
        ({"info": replace(make_episode().info, episode="../x")}, "no name of an episode"),
        ({"info": replace(make_episode().info, end="won")}, "end is 'won'"),
        ({"info": replace(make_episode().info, seed="3")}, "seed is '3'"),
    ],
)
def test_what_does_not_fit_is_never_sealed(tmp_path, changes, sentence):
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        journal.seal(make_episode(**changes))
    assert list((tmp_path / "episodes").iterdir()) == []


def test_a_truncated_file_is_refused_by_its_name(tmp_path):
    path = Journal(tmp_path).seal(make_episode())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Damaged, match=f"{NAME}.npz.*move the file away"):
        read_episode(path)


def test_another_version_is_refused(tmp_path, monkeypatch):
    path = Journal(tmp_path).seal(make_episode())
    monkeypatch.setattr("robot.journal.VERSION", 2)
    with pytest.raises(Damaged, match="version 1, expected 2"):
        read_episode(path)


DATA = episode_bytes(make_episode(picture=40))


@given(cut=st.integers(0, len(DATA) - 1))
def test_no_prefix_of_an_episode_is_an_episode(cut):
    with pytest.raises(Damaged):
        episode_from(DATA[:cut])


@settings(max_examples=300)
@given(at=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(at, bit):
    data = bytearray(DATA)
    data[at] ^= 1 << bit
    try:
        found = episode_from(bytes(data))
    except Damaged:
        return
    assert_same(found, episode_from(DATA))


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_no_episode(data):
    with pytest.raises(Damaged):
        episode_from(data)


def test_another_process_hands_over_an_episode_once(tmp_path):
    journal, data = Journal(tmp_path), episode_bytes(make_episode())
    assert journal.accept(f"{NAME}.npz", data) is True
    assert journal.accept(f"{NAME}.npz", data) is False
    assert [path.read_bytes() for path in journal.episodes()] == [data]


@pytest.mark.parametrize("name", ["../x.npz", "/tmp/x.npz", "a/b.npz", "", "000008-0a1b2c3d.npz"])
def test_an_upload_is_only_taken_under_its_own_name(tmp_path, name):
    journal = Journal(tmp_path)
    with pytest.raises(Damaged, match="by its name"):
        journal.accept(name, episode_bytes(make_episode()))
    assert journal.episodes() == []


def test_a_sealed_episode_is_never_replaced_by_another_of_its_name(tmp_path):
    journal = Journal(tmp_path)
    path = journal.seal(make_episode())
    with pytest.raises(FileExistsError, match="never replaced"):
        journal.seal(make_episode(steps=6))
    assert read_episode(path).steps == 5


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def no_room(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(DiskFull, match=f"free some space.*{NAME}.npz"):
        journal.seal(make_episode())
    assert list((tmp_path / "episodes").iterdir()) == []


def test_data_reaches_the_disk_before_the_name_and_the_name_before_success(tmp_path, monkeypatch):
    journal, calls = Journal(tmp_path), []
    fsync, rename = os.fsync, Path.replace

    def log_fsync(descriptor):
        calls.append("fsync " + ("folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "file"))  # noqa: PTH112
        fsync(descriptor)

    def log_rename(path, target):
        calls.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "replace", log_rename)
    journal.seal(make_episode())
    assert calls == ["fsync file", "rename", "fsync folder"]


def test_opening_a_journal_leaves_a_living_writers_file_alone(tmp_path, monkeypatch):
    journal, seen, fsync = Journal(tmp_path), [], os.fsync

    def open_meanwhile(descriptor):
        seen.extend(Journal(tmp_path).episodes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", open_meanwhile)
    path = journal.seal(make_episode())
    assert seen == [path]  # after the rename only
    assert read_episode(path).steps == 5


def test_the_folder_of_a_journal_says_when_what_who_and_which(tmp_path):
    day = dt.date(2026, 11, 21)
    folder = journal_folder(tmp_path, day, task="lift", arm="arm01", run="1a2b3c4d")
    assert folder == tmp_path / "20261121_lift_arm01_1a2b3c4d"
    with pytest.raises(ValueError, match="cannot be part of a journal's name"):
        journal_folder(tmp_path, day, task="lift", arm="../arm", run="1a2b3c4d")


WRITER = """
import itertools, os, signal, sys
from dataclasses import replace
from pathlib import Path
import robot.sealed
from robot.journal import Journal, read_episode
journal, episode = Journal(Path(sys.argv[1])), read_episode(Path(sys.argv[2]))

def seal(name):
    journal.seal(replace(episode, info=replace(episode.info, episode=name)))

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
"""
SEAL_FOR_EVER = """
for number in itertools.count():
    name = f"{number:06d}-{sys.argv[3]}"
    print("begin", name, flush=True)
    seal(name)
    print("sealed", name, flush=True)
"""


def written(tmp_path, script, *words):
    pattern = Journal(tmp_path / "pattern").seal(make_episode(picture=20_000))
    command = [sys.executable, "-c", WRITER + script, tmp_path / "journal", pattern, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_kill_9_at_any_moment_loses_no_sealed_episode(tmp_path):
    chance, promised = random.Random(0), set()
    for kill in range(20):
        with written(tmp_path, SEAL_FOR_EVER, f"{kill:08x}") as process:
            lines = [process.stdout.readline() for _ in range(chance.randint(1, 8))]
            for _ in range(chance.randint(0, 200_000)):
                pass
            process.kill()
            lines += process.stdout.readlines()
        promised |= {line.split()[1] for line in lines if re.fullmatch("sealed .*\n", line)}
    journal = Journal(tmp_path / "journal")
    found = {path.stem: read_episode(path) for path in journal.episodes()}
    assert promised <= set(found)
    assert {path.suffix for path in (journal.folder / "episodes").iterdir()} == {".npz"}


@pytest.mark.parametrize(
    ("dies_at", "survives"),
    [("os.fsync", False), ("Path.replace", False), ("robot.sealed._flush_folder", True)],
)
def test_an_episode_is_whole_or_absent_wherever_its_writer_dies(tmp_path, dies_at, survives):
    with written(tmp_path, f"{dies_at} = die; seal('000001-0a1b2c3d')") as process:
        assert process.wait(60) == -signal.SIGKILL
    assert len(list((tmp_path / "journal" / "episodes").iterdir())) == 1
    journal = Journal(tmp_path / "journal")
    assert [read_episode(path).steps for path in journal.episodes()] == [5] * survives
    assert len(list((journal.folder / "episodes").iterdir())) == survives


def test_a_file_is_an_npz_as_numpy_writes_it_whether_in_pieces_or_not():
    numbers, file = np.arange(6.0).reshape(2, 3).T, io.BytesIO()
    np.savez(
        file, numbers=np.ascontiguousarray(numbers), pieces=np.frombuffer(b"abcdefg", np.uint8)
    )
    assert pack({"numbers": numbers, "pieces": [b"abc", b"", b"defg"]}) == file.getvalue()
