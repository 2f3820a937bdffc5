"""Emulate several arms: `python -m robot.emulator.emulate arms=4`, or `make emulate ARMS=4`.

Starts one emulator an arm (`arm01` …) and one a leader (`leaders=1`: `leader01`), which nobody
judges, and ends them all when one ends, on Ctrl-C, and on SIGTERM.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from robot.emulator.process import USAGE, WORDS
from robot.words import UsageError, parse_words

PATIENCE_S = 5.0
MOST = 99
INTERRUPTED = 130


def commands(argv: Sequence[str]) -> list[list[str]]:
    """Return the command of each emulator; words but `arms=`, `leaders=` go to every one."""
    words = parse_words(argv, known={"arms": "1", "leaders": "0", **WORDS})
    arms, leaders = _count(words, "arms", 1), _count(words, "leaders", 0)
    given = [word for word in argv if not word.startswith(("arms=", "leaders=", "arm_id="))]
    start = [sys.executable, "-m", "robot.emulator.process"]
    return [[*start, f"arm_id=arm{index:02d}", *given] for index in range(1, arms + 1)] + [
        [*start, f"arm_id=leader{index:02d}", *given, "judge=off"]
        for index in range(1, leaders + 1)
    ]


def _count(words: Mapping[str, str], name: str, least: int) -> int:
    if not words[name].isdecimal() or not least <= int(words[name]) <= MOST:
        raise UsageError(f"{name}={words[name]}; expected a number from {least} to {MOST}")
    return int(words[name])


def main(argv: Sequence[str]) -> int:
    """Run the emulators; return the first failure's exit code, 130 after Ctrl-C, else 0."""
    try:
        starts = commands(argv)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    ended = threading.Event()
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        ended.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # A session of their own: Ctrl-C reaches them once, through here.
    children = [subprocess.Popen(start, start_new_session=True) for start in starts]  # noqa: S603
    while not ended.wait(0.2) and all(child.poll() is None for child in children):
        pass
    codes = [child.poll() or 0 for child in children]
    _end(children)
    if signal.SIGINT in signals:
        return INTERRUPTED
    return next((code for code in codes if code), 0)


def _end(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
