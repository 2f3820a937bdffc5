"""Which device an arm's servo bus is, and who may use it."""

import fcntl
import os
import re
from pathlib import Path
from typing import TextIO

from serial.tools import list_ports

from robot.arm_config import ROOT
from robot.process.servos import ArmUnusable

USB = "usb:"


def resolve_port(port: str) -> str:
    """Return the device's path of `port`, a path or `usb:` and a serial number.

    Raise `ArmUnusable` where it is not plugged in, or where the number is not one device's.
    """
    if not port.startswith(USB):
        path = ROOT / port
        if not path.exists():
            raise ArmUnusable(f"{path} is not there: plug the arm in, or `make emulate`")
        return str(path)
    wanted = port.removeprefix(USB)
    found = [each for each in list_ports.comports() if each.serial_number == wanted]
    if len(found) != 1:
        number = "no USB adapter has" if not found else f"{len(found)} USB adapters have"
        raise ArmUnusable(f"{number} the serial number {wanted!r}: `make doctor` lists them")
    return found[0].device


class PortLock:
    """The right to use an arm's port; it ends with the process at the latest."""

    def __init__(self, path: Path) -> None:
        """Take the right; raise `ArmUnusable`, naming the owner, where somebody has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise ArmUnusable(f"{owner} owns this arm ({path}): stop it first") from None
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Give the right back."""
        self._file.close()


def owner(path: Path) -> int | None:
    """Return the id of the process that last took the right to an arm's port, if one has."""
    try:
        found = re.fullmatch(r"pid (\d+)\n", path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return int(found[1]) if found else None
