"""Keys of a terminal, one by one: no root, no window, and it works over ssh."""

import os
import re
import select
import sys
import termios
import tty
from collections.abc import Sequence
from typing import Protocol, Self

HANGUP = "hangup"
"""What is read once the terminal is gone."""
_NAMES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x1b": "escape",
}
_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)
_CUT_SHORT = re.compile(r"\x1b(\[[0-9;]*|O)?")


class Keys(Protocol):
    """Where pressed keys come from."""

    def read(self) -> Sequence[str]:
        """Return the keys since the last call, oldest first, each by its name; never wait."""
        ...


class NoTerminal(Exception):
    """There is no terminal to read keys from."""


class TerminalKeys:
    """Reads a terminal key by key and puts it back as it was when closed."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Take a terminal, standard input unless told otherwise; raise `NoTerminal`."""
        self._file = sys.stdin.fileno() if descriptor is None else descriptor
        if not os.isatty(self._file):
            raise NoTerminal(
                "keys need a terminal and there is none: start it in one; over ssh, with ssh -t"
            )
        self._before = termios.tcgetattr(self._file)
        self._rest = ""
        tty.setcbreak(self._file)

    def read(self) -> list[str]:
        """Return the keys since the last call; the last is `HANGUP` once the terminal is gone."""
        text, self._rest = self._rest, ""
        pressed = self._pressed()
        if pressed is None:
            return [HANGUP]
        if pressed and _CUT_SHORT.fullmatch(pressed[pressed.rfind("\x1b") :]):
            # Over a network the bytes of one key may come in two parts.
            start = pressed.rfind("\x1b")
            pressed, self._rest = pressed[:start], pressed[start:]
        return keys_in(text + pressed)

    def close(self) -> None:
        """Put the terminal back as it was."""
        try:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)
        except termios.error:
            # The terminal is gone, and its settings with it.
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pressed(self) -> str | None:
        """Return what waits to be read; None where nothing will ever come again."""
        if not select.select([self._file], [], [], 0)[0]:
            return ""
        try:
            data = os.read(self._file, 1024)
        except OSError:
            return None
        return data.decode("ascii", "ignore") if data else None


def keys_in(text: str) -> list[str]:
    """Return the names of the keys that sent these characters; unknown ones are left out."""
    found: list[str] = _KEY.findall(text.replace("\x1bO", "\x1b["))
    keys = [_NAMES.get(key, key) for key in found]
    return [key for key in keys if key in _NAMES.values() or (len(key) == 1 and key.isprintable())]
