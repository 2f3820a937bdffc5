"""The nightly copy adds what is whole, and says what it lacks."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "ops" / "nightly_copy.sh"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "ops").mkdir()
    shutil.copy(SCRIPT, tmp_path / "ops")
    return tmp_path


def copy(project, **environment):
    command = ["sh", str(project / "ops" / SCRIPT.name)]
    known = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, env=known, capture_output=True, text=True, check=False)


def test_without_a_host_nothing_is_copied(project):
    done = copy(project)
    assert (done.returncode, "GPU_HOST is not set" in done.stderr) == (2, True)


@pytest.fixture
def tools(project):
    """An rsync that writes down what it was asked for."""
    tool = project / "bin" / "rsync"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done >> "$0.log"\n')
    tool.chmod(0o755)
    return tool


def test_recordings_are_copied_and_half_written_files_are_not(project, tools):
    (project / "journal").mkdir()
    path = f"{tools.parent}:{os.environ['PATH']}"
    assert copy(project, GPU_HOST="me@gpu", PATH=path).returncode == 0
    asked = Path(f"{tools}.log").read_text().splitlines()
    assert asked[-2:] == ["journal", "me@gpu:so101/"]
    assert "--exclude=.*" in asked
    assert not any("delete" in word for word in asked)


def test_two_copies_do_not_run_at_once(project, tools):
    (project / "run").mkdir()
    path = f"{tools.parent}:{os.environ['PATH']}"
    with (project / "run" / "nightly_copy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = copy(project, GPU_HOST="me@gpu", PATH=path)
    assert (done.returncode, "another copy is under way" in done.stderr) == (1, True)


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_copy_that_was_killed_keeps_no_later_one_away(project, tools, signal):
    (project / "journal").mkdir()
    path = f"{tools.parent}:{os.environ['PATH']}"
    healthy = tools.read_text()
    tools.write_text(f"#!/bin/sh\nkill -{signal} $PPID\n")
    assert copy(project, GPU_HOST="me@gpu", PATH=path).returncode < 0
    tools.write_text(healthy)
    assert copy(project, GPU_HOST="me@gpu", PATH=path).returncode == 0
