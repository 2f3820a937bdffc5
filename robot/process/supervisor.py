"""Keep a process alive: fork it again when it dies, from a parent that has loaded all it needs.

The parent only waits, and passes Ctrl-C and SIGTERM on. When the parent goes, however that happens,
the child is killed: a process that nobody keeps must not own a port.
"""

import ctypes
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

OK, FAILED, USAGE, NO_DEVICE, SAFETY, INTERRUPTED = 0, 1, 2, 3, 4, 130
RAISED = 70
"""With which a child ends that an exception has ended; the parent ends with `FAILED`."""
PASSING = (FAILED, NO_DEVICE)
"""Codes that end the first child, and no later one: what has been there may come back."""
YOUNG_S = 5.0
AT_ONCE = 2
"""So many deaths in a row within `YOUNG_S` of the start are followed by another start at once."""
BACK_OFF_S = (0.5, 30.0)
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGINT, signal.SIGTERM)
_SIGNALS = (*_ENDING, signal.SIGCHLD)

type Serve = Callable[[str], int]
"""What a child does until it returns an exit code; it is told how the one before it died, or ""."""


def keep_alive(serve: Serve) -> int:
    """Have a child serve, and another one where it dies; return the exit code of the last.

    Fork while this process has no other thread that does anything, and no socket.
    """
    inbox, lifeline, pauses = Inbox(), os.pipe(), Pauses()
    died = ""
    while True:
        began = time.monotonic()
        child = _fork(serve, died, inbox, lifeline)
        code, told = _watch(child, inbox)
        if told or not _comes_back(code, first=not died):
            return _exit_code(code)
        died = _death(code)
        pause = pauses.after(time.monotonic() - began)
        when = f"in {pause:g} s" if pause else "at once"
        sys.stderr.write(f"the arm's process {died}; it is started again {when}\n")
        sys.stderr.flush()
        if inbox.is_told_to_end(within_s=pause):
            return FAILED


class Inbox:
    """The signals that reach this process, in order, whichever of its threads took them."""

    def __init__(self) -> None:
        """Take over the signals."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        for number in _SIGNALS:
            signal.signal(number, _note)
        signal.set_wakeup_fd(self._writing)

    def next(self, timeout_s: float | None = None) -> int:
        """Return the next signal, 0 where none came in time."""
        ready, _, _ = select.select([self._reading], [], [], timeout_s)
        return os.read(self._reading, 1)[0] if ready else 0

    def is_told_to_end(self, *, within_s: float) -> bool:
        """Wait, and return whether Ctrl-C or SIGTERM has come meanwhile."""
        until = time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0:
            if self.next(left) in _ENDING:
                return True
        return False

    def close(self) -> None:
        """Give the signals back, as a program finds them at its start."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.close(self._reading)
        os.close(self._writing)


class Pauses:
    """How long to wait before another start: longer and longer where children die young."""

    def __init__(self) -> None:
        """Begin without any death."""
        self._young, self._pause_s = 0, 0.0

    def after(self, age_s: float) -> float:
        """Return the seconds to wait after the death of a child of some age."""
        if age_s >= YOUNG_S:
            self._young, self._pause_s = 0, 0.0
            return 0.0
        self._young += 1
        if self._young > AT_ONCE:
            self._pause_s = min(max(2 * self._pause_s, BACK_OFF_S[0]), BACK_OFF_S[1])
        return self._pause_s


def _fork(serve: Serve, died: str, inbox: Inbox, lifeline: tuple[int, int]) -> int:
    """Return the id of a process that serves."""
    # What comes before the child can tell its signals from its parent's has to wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    child = os.fork()
    if child == 0:
        _serve(serve, died, inbox, lifeline)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return child


def _serve(serve: Serve, died: str, inbox: Inbox, lifeline: tuple[int, int]) -> NoReturn:
    """Serve as the child that has just been forked, and end it."""
    # A terminal's Ctrl-C is for the parent, which passes it on once.
    os.setsid()
    inbox.close()
    _end_with_parent(lifeline)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    code = RAISED
    try:
        code = serve(died)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception:  # noqa: BLE001 - whatever it is, another child comes after it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # What the parent has registered for its own end is not for this one.
    os._exit(code)


def _end_with_parent(lifeline: tuple[int, int]) -> None:
    """Have this process killed when its parent ends."""
    if sys.platform == "linux":
        # The kernel does it even where no thread of this process can run any more.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    reading, writing = lifeline
    os.close(writing)
    threading.Thread(target=_wait_for_end, args=(reading,), name="parent", daemon=True).start()


def _wait_for_end(reading: int) -> None:
    """Kill this process once nobody holds the other end of a pipe."""
    os.read(reading, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(child: int, inbox: Inbox) -> tuple[int, bool]:
    """Return how a child ended, minus the signal's number for a signal, and if it was told to."""
    told = False
    while True:
        number = inbox.next()
        if number in _ENDING:
            told = True
            os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), told


def _comes_back(code: int, *, first: bool) -> bool:
    return code < 0 or code == RAISED or (code in PASSING and not first)


def _exit_code(code: int) -> int:
    """Return what a shell would say."""
    if code == RAISED:
        return FAILED
    return code if code >= 0 else 128 - code


def _death(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}"
    return "crashed" if code == RAISED else f"ended with {code}"


def _note(number: int, frame: object) -> None:
    """Do nothing: the number is in the inbox."""
