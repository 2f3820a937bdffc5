"""A pseudo-terminal that stands for an arm's USB adapter: links to it, and pulling its cable."""

import array
import contextlib
import fcntl
import os
import sys
import termios
import tty
from collections.abc import Sequence
from pathlib import Path

_TCGETS2 = 0x802C542A
_TERMIOS2_SPEED = 40  # where the output speed is in Linux's struct termios2


def link(path: Path, target: str) -> None:
    """Point a symbolic link at `target`, whatever it pointed at."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(path)


class EmulatorPort:
    """The port of one arm under stable names; both ends stay open, so that clients come and go."""

    def __init__(self, links: Sequence[Path]) -> None:
        """Open it and make the links."""
        self.links = tuple(links)
        self.master: int | None = None
        self.name = ""
        self._slave = -1
        self.dropped = 0
        """Bytes that nobody fetched."""
        self.replug()

    def replug(self) -> str:
        """Open the port under a name that it did not have before, and return it."""
        if self.master is not None:
            return self.name
        spare: list[int] = []
        master, slave = os.openpty()
        if os.ttyname(slave) == self.name:
            spare = [master, slave]
            master, slave = os.openpty()
        for descriptor in spare:
            os.close(descriptor)
        tty.setraw(master)
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.master, self._slave, self.name = master, slave, os.ttyname(slave)
        for path in self.links:
            link(path, self.name)
        return self.name

    def unplug(self) -> None:
        """Take the port and its links away; whoever has it open reads errors."""
        if self.master is None:
            return
        for path in self.links:
            path.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self.master)
        self.master = None

    def read(self) -> bytes:
        """Return what was written to the port."""
        if self.master is None:
            return b""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.master, 4096)
        return b""

    def write(self, data: bytes) -> None:
        """Send bytes to whoever has the port open."""
        if self.master is None:
            return
        try:
            self.dropped += len(data) - os.write(self.master, data)
        except BlockingIOError:
            self.dropped += len(data)

    def baud(self) -> int | None:
        """Return the baud rate that the client has set; None where that cannot be told."""
        if self.master is None or sys.platform != "linux":
            return None
        # pyserial sets 250 kBaud and the like through termios2, which `termios` does not read.
        state = array.array("B", bytes(44))
        try:
            fcntl.ioctl(self._slave, _TCGETS2, state)
        except (OSError, termios.error):
            return None
        return int.from_bytes(state[_TERMIOS2_SPEED : _TERMIOS2_SPEED + 4], sys.byteorder)
