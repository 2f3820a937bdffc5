"""Emulators for tests: a process of their own, under names of their own."""

import contextlib
import subprocess
import sys
import threading
import uuid
from pathlib import Path

from robot.emulator.admin import EmulatorAdmin, NoEmulator

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "conf" / "calibration" / "emulated.json"


class Emulated:
    """One emulator, until it is closed."""

    def __init__(self, folder, *words, dev=""):
        arm_id = f"t{uuid.uuid4().hex[:8]}"
        command = [
            sys.executable,
            "-m",
            "robot.emulator.process",
            f"arm_id={arm_id}",
            f"folder={folder}",
        ]
        self.process = subprocess.Popen(
            [*command, f"dev={dev}", *words], cwd=ROOT, stdout=subprocess.PIPE
        )
        self.first_line = self.process.stdout.readline().decode()
        self.bus = Path(folder) / f"{arm_id}.bus"
        self.state = Path(folder) / f"{arm_id}.state"
        self.admin_path = Path(folder) / f"{arm_id}.admin"
        self.dev = Path(dev) / f"ttyEMU_{arm_id}"
        try:
            self.admin = EmulatorAdmin(self.admin_path)
        except NoEmulator:
            self.close()
            raise

    def close(self):
        if hasattr(self, "admin"):
            self.admin.close()
        self.process.terminate()
        self.process.stdout.close()
        return self.process.wait(30)


@contextlib.contextmanager
def emulated(folder, *words, dev=""):
    emulator = Emulated(folder, *words, dev=dev)
    try:
        yield emulator
    finally:
        emulator.close()


def patiently(attempt, *, tries=5):
    """Try again where a busy machine kept a servo's answer back for 50 ms."""
    for _ in range(tries - 1):
        with contextlib.suppress(ConnectionError, RuntimeError):
            return attempt()
    return attempt()


def until(condition, timeout_s=10.0):
    """Wait until a condition holds; say so where it does not."""
    never, tries = threading.Event(), 0
    while not condition():
        tries += 1
        assert tries < timeout_s * 100, "it did not happen in time"
        never.wait(0.01)
