"""A process is kept alive, told to end, and never outlives its parent."""

import os
import signal
import subprocess
import sys

import pytest
import yaml

from robot.arm_config import ROOT, runtime
from robot.process.supervisor import AT_ONCE, BACK_OFF_S, YOUNG_S, Pauses
from tests.robot.arm_rig import wait_until

PROGRAM = """
import os, signal, sys, threading, time
from robot.process import supervisor

def say(*words):
    print(*words, flush=True)

def serve(died):
    say(os.getpid(), died or "first")
    {body}

{before}
code = supervisor.keep_alive(serve)
say("parent ends")
sys.exit(code)
"""
WAIT = "threading.Event().wait(); return 0"


@pytest.fixture
def program():
    """Return what starts a supervised program whose child does `body`."""
    started = []

    def program(body=WAIT, before=""):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(body=body, before=before)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield program
    for process in started:
        process.kill()
        process.communicate()


def child_of(process):
    """Return the id of the child that has just begun, and what it was told."""
    pid, died = process.stdout.readline().strip().split(" ", 1)
    return int(pid), died


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_an_orderly_end_is_the_end_of_both(program, code):
    process = program(f"return {code}")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, "")
    assert out.endswith("first\nparent ends\n")


def test_a_killed_child_is_followed_by_another_that_knows_why(program):
    process = program()
    child, died = child_of(process)
    assert died == "first"
    os.kill(child, signal.SIGKILL)
    other, died = child_of(process)
    assert (died, gone(child), other != child) == ("was killed by signal 9", True, True)


def test_an_exception_is_shown_and_another_child_follows(program):
    process = program('return 4 if died else {}["no such key"]')
    child_of(process)
    assert child_of(process)[1] == "crashed"
    _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "KeyError: 'no such key'" in err
    assert "the arm's process crashed; it is started again at once" in err


def test_a_device_that_was_there_may_come_back(program):
    process = program('died or os.kill(os.getpid(), 9); return 3 if "signal" in died else 0')
    deaths = [child_of(process)[1] for _ in range(3)]
    assert deaths == ["first", "was killed by signal 9", "ended with 3"]
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_what_dies_young_again_and_again_is_waited_for(program):
    process = program("os.kill(os.getpid(), 9)")
    for _ in range(AT_ONCE + 1):
        child_of(process)
    lines = [process.stderr.readline() for _ in range(AT_ONCE + 1)]
    assert all("at once" in line for line in lines[:AT_ONCE])
    assert f"in {BACK_OFF_S[0]:g} s" in lines[-1]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    # Whether it was waiting or had a child: it ends, and says that the child did not do so itself.
    assert process.returncode in {1, 128 + 9, 128 + 15}


def test_pauses_grow_and_end_with_a_long_life():
    pauses = Pauses()
    waits = [pauses.after(0.1) for _ in range(12)]
    assert waits[: AT_ONCE + 3] == [0.0] * AT_ONCE + [0.5, 1.0, 2.0]
    assert waits[-1] == BACK_OFF_S[1]
    assert [pauses.after(age) for age in (YOUNG_S, 0.1, 0.1, 0.1)] == [0.0, 0.0, 0.0, 0.5]


ENDS = (
    "told = threading.Event(); signal.signal(signal.{0}, lambda *_: told.set()); "
    "say('waits'); told.wait(); return {1}"
)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGINT", 130)])
def test_a_signal_is_passed_on_and_the_code_is_kept(program, name, code):
    process = program(ENDS.format(name, code))
    child_of(process)
    assert process.stdout.readline() == "waits\n"
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=30)
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_child_that_has_not_taken_its_signals_yet_ends_too(program, number, code):
    process = program()
    child_of(process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code


def test_a_terminals_ctrl_c_reaches_the_child_once(program):
    process = program("return int(os.getpgid(0) == os.getpgid(os.getppid()))")
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_killed_parent_takes_the_child_along(program, platform):
    # Where it is no Linux, no kernel sees to it.
    process = program(before=f"sys.platform = {platform!r}" if sys.platform == "linux" else "")
    child, _ = child_of(process)
    process.kill()
    process.wait()
    wait_until(lambda: gone(child))


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac's kernel does not see to it")
def test_a_child_that_cannot_run_does_not_outlive_its_parent(program):
    process = program()
    child, _ = child_of(process)
    os.kill(child, signal.SIGSTOP)
    process.kill()
    process.wait()
    wait_until(lambda: gone(child))


LOADED = """
import os
from robot.process import daemon
def live(serve):
    files = [os.readlink(f"/proc/self/fd/{n}") for n in range(3, 256)
             if os.path.islink(f"/proc/self/fd/{n}")]
    print(len(os.listdir("/proc/self/task")), sum("socket" in file for file in files))
    return 0
daemon.keep_alive = live
daemon.main(["arm_id=test-loaded", "folder={folder}"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_an_arms_parent_has_no_other_thread_and_no_socket_when_it_forks(tmp_path):
    pytest.importorskip("lerobot")
    content = yaml.safe_load((ROOT / "conf" / "arm" / "arm01.yaml").read_text())
    content |= {"arm_id": "test-loaded", "port_number": 18907}
    (tmp_path / "test-loaded.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED.replace("{folder}", str(tmp_path))],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    runtime("test-loaded", "lock").unlink()
    assert done.stdout == "1 0\n"
