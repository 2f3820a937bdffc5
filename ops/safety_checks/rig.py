"""Emulated arms with their processes, as `make emulate` and `make arm` start them, to be broken."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import yaml

from ops.safety_checks.effort import say
from rl.own_process import free_port
from robot.arm_config import ROOT, ArmConfig
from robot.client import RemoteArm
from robot.doctor.links import own_headers
from robot.emulator.admin import EmulatorAdmin, NoEmulator
from robot.link import ArmUnavailable
from robot.process.arm_state import Mode
from robot.process.port import owner
from robot.process.supervisor import YOUNG_S
from robot.tokens import own_token

START_S, END_S = 180.0, 10.0
"""Within which a process answers, and ends."""
_TORQUE, _GOAL = 40, 42
"""Addresses of a servo's torque switch and goal position."""


class RigError(Exception):
    """A rig that cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the emulator's judge saw in what was written to the servos."""

    frames: int
    broken: int
    worst: str


class RigArm:
    """One emulated arm, its process, and who looks at both.

    `daemon` is what `make arm` starts; it forks the arm's process proper, whose id is `pid`.
    """

    def __init__(self, arm_id: str, folder: Path, *, cameras: bool = False) -> None:
        """Start the emulator, then the arm's process, with a file of `folder`."""
        self._folder = folder
        self.config = own_config(arm_id, folder, cameras=cameras)
        self.watcher: RemoteArm | None = None
        self.emulator = self.start_emulator()
        self.admin = wait_for(self._admin, START_S, f"the emulator of {arm_id}", self.log)
        self._ready_at = 0.0
        self.daemon = self.start_daemon(wait=False)

    @property
    def arm_id(self) -> str:
        """Return the arm's name."""
        return self.config.arm_id

    @property
    def pid(self) -> int:
        """Return the id of the arm's process; raise `RigError` where it has not begun."""
        pid = owner(self.config.runtime("lock"))
        if pid is None:
            raise RigError(f"nobody owns {self.arm_id}: {tail(self.log)}")
        return pid

    def start_emulator(self) -> "subprocess.Popen[bytes]":
        """Start the emulator."""
        self.emulator = self._start("robot.emulator.process", "preset=compliant", "dev=")
        return self.emulator

    def start_daemon(self, *, wait: bool = True) -> "subprocess.Popen[bytes]":
        """Start what keeps the arm's process alive; wait until that answers."""
        self.daemon = self._start("robot.process.daemon", f"folder={self._folder}")
        if wait:
            self.wait_ready()
        return self.daemon

    def wait_ready(self) -> None:
        """Wait until the arm's process says what it does; raise `RigError`."""
        wait_for(self.is_ready, START_S, f"the process of {self.arm_id}", self.log)
        self._ready_at = time.monotonic()

    def kill_process(self) -> float:
        """Kill -9 the arm's process, which comes back by itself; return when, once it is gone.

        One that has died young too often comes back later: `wait_mature` waits that out.
        """
        pid, killed_at = self.pid, time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_gone(pid, self.log)
        return killed_at

    def wait_mature(self) -> None:
        """Wait until the arm's process is so old that after its death another starts at once."""
        time.sleep(max(0.0, self._ready_at + YOUNG_S - time.monotonic()))

    def end_daemon(self) -> None:
        """Kill -9 what keeps the arm's process alive, and wait until nobody owns the arm."""
        self.daemon.kill()
        self.daemon.wait()
        pid = owner(self.config.runtime("lock"))
        # A benchmark may have owned the arm itself by now.
        if pid is not None and pid != os.getpid():
            wait_gone(pid, self.log)

    def watch(self) -> RemoteArm:
        """Return a client that only looks, resets and stops."""
        if self.watcher is None:
            self.watcher = RemoteArm(
                self.config.url, client="watcher", token=own_token(), timeout_s=5.0
            )
        return self.watcher

    def forget_watcher(self) -> None:
        """Hang up the client that looks: the arm's process has gone."""
        if self.watcher is not None:
            self.watcher.close()
            self.watcher = None

    def judged(self) -> Verdict:
        """Return what the judge has seen so far."""
        said = self.admin.judge()
        violations = cast("dict[str, int]", said["violations"])
        worst = cast("dict[str, dict[str, object]]", said["worst"])
        text = "; ".join(f"{rule}: {one['of']} by {one['by']:.4g}" for rule, one in worst.items())
        return Verdict(int(cast("int", said["frames"])), sum(violations.values()), text)

    def goals(self) -> list[int]:
        """Return the goal register of each servo: what it heads for or holds."""
        servos = self.admin.servos()
        return [goal_of(servo) for servo in servos.values()]

    def holds(self) -> bool:
        """Return whether every servo has its torque."""
        return all(registers_of(servo)[_TORQUE] for servo in self.admin.servos().values())

    def own_admin(self) -> EmulatorAdmin:
        """Return another connection to the emulator: for another thread."""
        return EmulatorAdmin(self.config.runtime("admin"))

    def close(self) -> None:
        """End both processes."""
        self.forget_watcher()
        # An emulated arm falls on nothing: there is no need to wait until it is parked.
        self.end_daemon()
        for process in (self.daemon, self.emulator):
            end(process)
        self.admin.close()
        for path in (ROOT / "run").glob(f"{self.arm_id}.*"):
            path.unlink(missing_ok=True)

    def _start(self, module: str, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", module, f"arm_id={self.arm_id}", *words]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )

    @property
    def log(self) -> Path:
        """Return what both processes have printed."""
        return self._folder / f"{self.arm_id}.log"

    def _admin(self) -> EmulatorAdmin | None:
        try:
            return EmulatorAdmin(self.config.runtime("admin"))
        except NoEmulator:
            return None

    def is_ready(self) -> bool:
        """Return whether the arm's process answers; raise `RigError` where none will."""
        if self.daemon.poll() is not None:
            code = self.daemon.returncode
            raise RigError(f"the process of {self.arm_id} ended with {code}: {tail(self.log)}")
        try:
            return httpx.get(
                f"{self.config.url}/state", headers=own_headers(), timeout=1.0, trust_env=False
            ).is_success
        except httpx.HTTPError:
            return False


def goal_of(servo: dict[str, object]) -> int:
    """Return the goal position in what the admin socket says of one servo."""
    return int.from_bytes(registers_of(servo)[_GOAL : _GOAL + 2], "little")


def registers_of(servo: dict[str, object]) -> bytes:
    """Return the registers in what the admin socket says of one servo."""
    return bytes.fromhex(str(servo["registers"]))


def wait_gone(pid: int, log: Path) -> None:
    """Wait until a process is gone; raise `RigError`."""
    wait_for(lambda: not _exists(pid), END_S, f"the end of process {pid}", log)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def own_config(arm_id: str, folder: Path, *, cameras: bool) -> ArmConfig:
    """Write the file of an arm of this rig, with a port of its own, and return what it says."""
    text = (ROOT / "conf" / "arm" / "arm01.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text.replace("arm01", arm_id))
    settings["port_number"] = free_port("127.0.0.1")
    if not cameras:
        settings["cameras"] = {}
    (folder / f"{arm_id}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    return ArmConfig.load(arm_id, folder=folder)


@contextmanager
def rig(arms: int, folder: Path, *, cameras: int = 0) -> Generator[list[RigArm]]:
    """Yield running arms that are nobody else's, the first `cameras` of them with cameras.

    Raise `RigError` where they cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        running: list[RigArm] = []
        for number in range(1, arms + 1):
            arm = RigArm(f"rig{os.getpid()}-{number}", folder, cameras=number <= cameras)
            stack.callback(arm.close)
            running.append(arm)
        for arm in running:
            arm.wait_ready()
        say(f"  {arms} emulated arm{'s' * (arms > 1)} run")
        yield running


def wait_for[T](ask: Callable[[], T | None], limit_s: float, what: str, log: Path) -> T:
    """Return the first answer that is one; raise `RigError` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(0.02)
    raise RigError(f"{what} did not answer within {limit_s:g} s: {tail(log)}")


def tail(log: Path) -> str:
    """Return the last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it has started, by force if need be."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def until_mode(
    watcher: RemoteArm, wanted: Sequence[Mode], *, since: float, limit_s: float
) -> tuple[float, float]:
    """Return the seconds from `since` until a mode is entered, and the longest gap in looking.

    The arm's process says itself when that was: it shares this machine's clock. Infinite seconds
    where it is not seen within `limit_s`.
    """
    last, gap = time.monotonic(), 0.0
    while True:
        state = watcher.state()
        now = time.monotonic()
        gap, last = max(gap, now - last), now
        if state.mode in wanted:
            return max(0.0, state.since - since), gap
        if now - since > limit_s:
            return float("inf"), gap
        time.sleep(0.001)


def back_to_hold(arm: RigArm) -> None:
    """Bring an arm back to HOLD, whatever has happened to it; raise `RigError`."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        try:
            watcher = arm.watch()
            mode = watcher.state().mode
            if mode is Mode.STOP:
                watcher.reset()
            elif mode is not Mode.HOLD:
                watcher.mode(Mode.HOLD)
            else:
                return
        except ArmUnavailable:
            arm.forget_watcher()
            time.sleep(0.05)
    raise RigError(f"{arm.arm_id} does not come back to HOLD")
