import json
import subprocess
import sys

import pytest

from rl.run_folder import Counters, RunFolder
from rl.run_record import BadRun


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path, task="lift", config="a: 1", facts={"goal": "Lift it."})
    yield folder
    folder.close()


def save(folder):
    (folder / "weights").write_bytes(b"w")


def test_a_run_in_use_is_refused_with_its_process(folder):
    path = str(folder.path)
    program = (
        "from pathlib import Path; from rl.run_folder import RunFolder;"
        f"RunFolder(Path({path!r})).lock()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "is in use by process" in done.stderr


def test_the_lock_ends_with_its_owner(folder):
    folder.close()
    again = RunFolder(folder.path)
    again.lock()
    again.close()


def test_a_run_of_another_version_is_refused(folder):
    (folder.path / "run.json").write_text(json.dumps({"version": 999}))
    with pytest.raises(BadRun, match="layout version 999"):
        RunFolder(folder.path).facts()


@pytest.mark.parametrize("part", ["run.json", "config.yaml"])
def test_a_half_written_run_is_refused(folder, part):
    (folder.path / part).unlink()
    with pytest.raises(BadRun, match=part):
        RunFolder(folder.path).facts()


def test_a_missing_run_is_a_usage_error(tmp_path):
    with pytest.raises(BadRun) as error:
        RunFolder(tmp_path / "nothing").facts()
    assert error.value.code == 2


def test_a_damaged_checkpoint_is_passed_over(folder):
    folder.checkpoint(Counters(updates=1), save)
    folder.checkpoint(Counters(updates=2), save)
    (folder.path / "checkpoints" / "00000002" / "weights").write_bytes(b"x")
    found = folder.newest_checkpoint()
    assert found is not None
    assert found[1].updates == 1


def test_a_checkpoint_that_fails_half_way_leaves_the_one_before(folder):
    folder.checkpoint(Counters(updates=1), save)

    def fail(path):
        save(path)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        folder.checkpoint(Counters(updates=2), fail)
    found = folder.newest_checkpoint()
    assert found is not None
    assert found[1].updates == 1


def test_old_checkpoints_are_dropped(folder):
    for updates in range(5):
        folder.checkpoint(Counters(updates=updates), save)
    assert len(list((folder.path / "checkpoints").iterdir())) == 2


def test_a_torn_last_line_is_left_out(folder):
    folder.append("lines.jsonl", {"a": 1})
    with (folder.path / "lines.jsonl").open("a") as lines:
        lines.write('{"a": ')
    assert list(folder.lines("lines.jsonl")) == [{"a": 1}]
