"""Move an emulated leader as a hand would, by keys: `make move-leader`.

`1` to `6` move a joint up by 5 (degrees; hundredths of the gripper), `q w e r t y` down; `0` lets
go of the arm; Ctrl-C ends. The leader is one of `make emulate LEADERS=1`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from robot.arm import JOINTS
from robot.arm_config import ROOT
from robot.emulator.admin import EmulatorAdmin, NoEmulator, Refused
from robot.teleop.keys import HANGUP, Keys, NoTerminal, TerminalKeys
from robot.words import UsageError, parse_words

WORDS = {"arm_id": "leader01", "folder": str(ROOT / "run")}
UP, DOWN, LET_GO = "123456", "qwerty", "0"
STEP = 5.0
MOVE_S = 0.2
"""How long the hand takes for a step."""
USAGE, UNAVAILABLE, INTERRUPTED = 2, 3, 130


class Hand:
    """Holds the joints of a limp emulated arm where keys say."""

    def __init__(self, admin: EmulatorAdmin) -> None:
        """Take the arm as it is."""
        self._admin, self._held = admin, dict[str, float]()

    def press(self, key: str) -> str | None:
        """Do what a key stands for and return a line about it, None for a key of no meaning."""
        if key == LET_GO:
            self._held.clear()
            self._admin.release()
            return "let go"
        keys = UP if key in UP else DOWN
        if len(key) != 1 or key not in keys:
            return None
        joint = JOINTS[keys.index(key)]
        now = self._held.get(joint, self._admin.angles()[joint])
        wanted = now + (STEP if keys is UP else -STEP)
        try:
            # All that it holds: what it had not finished goes on.
            self._admin.push({**self._held, joint: wanted}, seconds=MOVE_S)
        except Refused as refused:
            return str(refused)
        self._held[joint] = wanted
        return f"{joint} to {wanted:.0f}"


def move(hand: Hand, keys: Keys, say: Callable[[str], None]) -> None:
    """Follow keys until the terminal is gone."""
    while True:
        for key in keys.read():
            if key == HANGUP:
                return
            line = hand.press(key)
            if line:
                say(line)
        time.sleep(0.02)


def main(argv: Sequence[str]) -> int:
    """Move a leader from the terminal; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        admin = EmulatorAdmin(Path(words["folder"]) / f"{words['arm_id']}.admin")
        with admin, TerminalKeys() as keys:
            print("1 to 6 up, q w e r t y down, 0 lets go, Ctrl-C ends")  # noqa: T201
            move(Hand(admin), keys, print)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except (NoEmulator, NoTerminal) as error:
        sys.stderr.write(f"{error}; a leader comes with make emulate LEADERS=1\n")
        return UNAVAILABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
