"""The arm's process proper, which `robot.process.daemon` forks: guard, modes, cameras, address.

It alone opens the servo bus, guards every command, and outlives whoever drives the arm. What every
such process of one `make arm` needs is loaded, and its limits are shown to hold, before the first.
"""

import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from socket import socket
from typing import Protocol, cast

import cv2
import structlog

from robot.access import Door
from robot.arm_config import ROOT, ArmConfig, ConfigError
from robot.clock import WallClock
from robot.guard import Guard
from robot.http_server import ServiceError, listen
from robot.limits import LimitsError, SafetyLimits
from robot.process.arm_messages import limits_message
from robot.process.arm_process import ArmProcess, run_cycle
from robot.process.arm_server import ArmServer, create_app
from robot.process.arm_state import Cause, Mode
from robot.process.camera_feed import START_S, CameraFeed, camera_feed
from robot.process.daemon_log import log_to
from robot.process.limit_proof import prove_limits
from robot.process.port import PortLock
from robot.process.servos import ArmUnusable, LostReply, ServoArm
from robot.process.supervisor import (
    FAILED,
    INTERRUPTED,
    NO_DEVICE,
    OK,
    SAFETY,
    USAGE,
    Serve,
    keep_alive,
)
from robot.tokens import TokenError, Tokens, known_tokens
from robot.wire import encode
from robot.words import UsageError, parse_words

log = structlog.get_logger(__name__)

WORDS = {
    "arm_id": "arm01",
    "folder": str(ROOT / "conf" / "arm"),
    "allow_remote": "false",
    "after_crash": "stop",
}
CRASHED = "the process before it ended without parking: look at the arm, then reset"
PARK_S = 60.0
PARK_TRIES = 3
SWITCH_S = 0.001
"""How long the server's thread may compute before the cycle is due its turn."""
NICENESS = -10


class CalibratedArm(ServoArm, Protocol):
    """Servos that know which calibration they go by."""

    @property
    def calibration(self) -> str:
        """Return the first 12 hex digits of the calibration's SHA-256."""
        ...


type OpenArm = Callable[[ArmConfig], CalibratedArm]
type Live = Callable[[Serve], int]
"""How what serves is had: once, or again and again."""


class Unsafe(Exception):
    """Limits that the guard does not hold; the exit code is 4."""


class Proven:
    """A guard that was shown to hold the limits of an arm's files as they were read."""

    def __init__(self, config: ArmConfig) -> None:
        """Show it; raise `Unsafe` unless the guard holds an arm at every limit."""
        self.guard = Guard(SafetyLimits.load(config.safety))
        self._read = _limits_read(self.guard.limits, config)
        self.proof = prove_limits(self.guard, start=config.start_pose)
        if not self.proof.holds:
            drives = self.proof.drives
            wrong = next((d for d in drives if d.excess > 0), drives[0])
            raise Unsafe(
                f"the limits of {config.safety} are not held: {' '.join(str(wrong).split())}; "
                "the arm is not started: compare the file with conf/safety/default.yaml"
            )

    def holds_for(self, config: ArmConfig) -> bool:
        """Return whether an arm's files still say what it was shown for."""
        return self._read == _limits_read(SafetyLimits.load(config.safety), config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What one `make arm` asks for, and what it has loaded for every process of the arm."""

    arm_id: str
    folder: Path
    allow_remote: bool
    may_go_on: bool
    """Whether an arm whose process died may go on without a person's reset."""
    open_arm: OpenArm
    proven: Proven
    began: float
    """When the process that loads began to."""
    loader: int
    """The id of that process."""


def so101() -> OpenArm:
    """Load LeRobot's driver, which takes seconds, and return what opens an arm with it."""
    driver = import_module("robot.process.so101")

    def open_so101(config: ArmConfig) -> CalibratedArm:
        arm = driver.So101(
            arm_id=config.arm_id,
            port=config.port,
            calibration=config.calibration,
            lock=config.runtime("lock"),
        )
        return cast("CalibratedArm", arm)

    return open_so101


def run(start: Start, died: str) -> int:
    """Serve an arm until it is asked to end; return the exit code.

    `died` says how the process before this one did, if it was of the same `make arm`. Where the one
    before did not end at rest this one starts stopped, unless it `may_go_on`.
    """
    shared = bool(died) and start.loader != os.getpid()
    began = time.monotonic() if shared else start.began
    config = ArmConfig.load(start.arm_id, folder=start.folder)
    # The parent's file may have been put aside, full, since.
    log_to(config.arm_id)
    if died:
        log.warning("process died", how=died)
    tokens = known_tokens()
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(config, tokens, allow_remote=start.allow_remote))
        feed = camera_feed(config, start.folder)
        stack.callback(feed.close)
        guard = _proven(start.proven, config).guard
        arm = start.open_arm(config)
        stack.callback(arm.close)
        process = _awakened(arm, guard, config, may_go_on=start.may_go_on)
        ending = Ending()
        app = create_app(process, feed, arm_id=config.arm_id, door=Door(tokens))
        server = ArmServer(app, listening)
        stack.callback(server.close)
        # A dark camera must not keep the arm from being held, watched and stopped.
        threading.Thread(target=_announce, args=(config, feed, began), daemon=True).start()
        keep_time(process, ending)
        code = _end(process, config.arm_id, ending.signal)
        if process.mode is Mode.IDLE:
            config.runtime("awake").unlink()
        return code


def _awakened(
    arm: CalibratedArm, guard: Guard, config: ArmConfig, *, may_go_on: bool
) -> ArmProcess:
    """Return the arm's process, stopped where the one before did not end at rest."""
    process = ArmProcess(
        arm,
        guard,
        WallClock(),
        park_pose=config.park_pose,
        stop_file=config.runtime("stop"),
        calibration=arm.calibration,
    )
    awake = config.runtime("awake")
    if awake.exists() and not may_go_on:
        process.stop(CRASHED, cause=Cause.FAULT)
    awake.touch()
    return process


def keep_time(process: ArmProcess, ending: "Ending") -> None:
    """Let the arm's cycle run until it is asked to end."""
    sys.setswitchinterval(SWITCH_S)
    # What is loaded stays: to look through it for garbage would take longer than a cycle.
    gc.collect()
    gc.freeze()
    run_cycle(process, WallClock(), ending)


def park(process: ArmProcess) -> None:
    """Park the arm, whatever its clients ask for meanwhile, unless it is stopped."""
    clock = WallClock()
    for _ in range(PARK_TRIES):
        if process.mode in {Mode.IDLE, Mode.STOP}:
            return
        process.request(Mode.PARK, client="the end of its process", human=True)
        run_cycle(process, clock, _Parking(process, until=clock.now() + PARK_S))


class Ending(threading.Event):
    """Is set by the first Ctrl-C or SIGTERM; more of them change nothing."""

    def __init__(self) -> None:
        """Take over both signals."""
        super().__init__()
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        if self.is_set():
            _say("it parks before it ends")
        self.signal = self.signal or number
        self.set()


class _Parking(threading.Event):
    """Is set once an arm does not park any more, or has taken too long."""

    def __init__(self, process: ArmProcess, *, until: float) -> None:
        super().__init__()
        self._process, self._until = process, until

    def is_set(self) -> bool:
        """Return whether the parking is over."""
        return self._process.mode is not Mode.PARK or time.monotonic() > self._until


def _limits_read(limits: SafetyLimits, config: ArmConfig) -> bytes:
    """Return all that a proof depends on but for the arm's model, which is in memory."""
    return encode({"limits": limits_message(limits), "start": config.start_pose})


def _proven(proven: Proven, config: ArmConfig) -> Proven:
    """Return what was shown before, or show it anew where a file has changed since."""
    if not proven.holds_for(config):
        log.info("limits changed", safety=str(config.safety))
        proven = Proven(config)
    for drive in proven.proof.drives:
        log.info("limit", drive=str(drive))
    return proven


def _listen(config: ArmConfig, tokens: Tokens | None, *, allow_remote: bool) -> socket:
    """Return the arm's listening socket; raise `ArmUnusable` or `ServiceError`."""
    # Another process that owns this arm has its address and cameras too: say that first.
    PortLock(config.runtime("lock")).release()
    return listen(
        config.host,
        config.port_number,
        guarded=tokens is not None and allow_remote,
        remedy=f", or change port_number in conf/arm/{config.arm_id}.yaml",
    )


def _end(process: ArmProcess, arm_id: str, number: int) -> int:
    """Park, say what became of it, and return the exit code."""
    try:
        park(process)
    finally:
        state = process.state()
        log.info("end", mode=state.mode.value, reason=state.reason)
    if state.mode is Mode.STOP:
        _say(f"{arm_id} is stopped and keeps its torque: {state.reason}")
        return SAFETY
    if state.mode is not Mode.IDLE:
        _say(f"{arm_id} keeps its torque, it could not be parked: {state.reason}")
        return FAILED
    return INTERRUPTED if number == signal.SIGINT else OK


def _announce(config: ArmConfig, feed: CameraFeed, began: float) -> None:
    """Wait for the cameras, and say that all is there."""
    missing = feed.wait(START_S)
    _say(_ready(config, missing, seconds=time.monotonic() - began))


def _ready(config: ArmConfig, missing: Sequence[str], *, seconds: float) -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    cameras = ", ".join(config.cameras) or "no cameras"
    without = f" (without a picture: {', '.join(missing)})" if missing else ""
    return (
        f"{config.arm_id} on {config.port} is at {config.url}, with {cameras}{without}: "
        f"limits proven, ready after {seconds:.1f} s, {megabytes:.0f} MB"
    )


def _raise_priority() -> None:
    """Go before other programs of this machine, where that is allowed and nobody chose else."""
    if os.getpriority(os.PRIO_PROCESS, 0) == 0:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        except OSError as error:
            log.info("priority stays", reason=error.strerror)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(
    argv: Sequence[str], *, live: Live = keep_alive, driver: Callable[[], OpenArm] = so101
) -> int:
    """Serve the arm that words name, as `live` has it; return the exit code."""

    def load_and_live() -> int:
        start = _load(argv, driver)
        # What is loaded stays, and is shared with the arm's process as long as nobody writes to it.
        gc.collect()
        gc.freeze()
        return live(lambda died: _code_of(lambda: run(start, died)))

    return _code_of(load_and_live)


def _load(argv: Sequence[str], driver: Callable[[], OpenArm]) -> Start:
    """Load and prove what every process of this arm needs; raise one of `_CODES`."""
    began = time.monotonic()
    cv2.setNumThreads(1)
    words = parse_words(argv, known=WORDS)
    if words["allow_remote"] not in {"true", "false"}:
        raise UsageError(f"allow_remote={words['allow_remote']!r}; expected true or false")
    if words["after_crash"] not in {"stop", "hold"}:
        raise UsageError(f"after_crash={words['after_crash']!r}; expected stop or hold")
    folder, allow_remote = Path(words["folder"]), words["allow_remote"] == "true"
    config = ArmConfig.load(words["arm_id"], folder=folder)
    log_to(config.arm_id)
    _raise_priority()
    SafetyLimits.load(config.safety)
    # What would keep the arm's process from starting is said before all else is loaded.
    _listen(config, known_tokens(), allow_remote=allow_remote).close()
    return Start(
        arm_id=config.arm_id,
        folder=folder,
        allow_remote=allow_remote,
        may_go_on=words["after_crash"] == "hold",
        open_arm=driver(),
        proven=Proven(config),
        began=began,
        loader=os.getpid(),
    )


def _code_of(work: Callable[[], int]) -> int:
    """Return the exit code of some work; say in one line why it could not be done."""
    try:
        return work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except tuple(_CODES) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        sys.stderr.flush()
        return error.code if isinstance(error, ServiceError) else _CODES[type(error)]


_CODES: dict[type[Exception], int] = {
    UsageError: USAGE,
    ConfigError: USAGE,
    LimitsError: USAGE,
    TokenError: USAGE,
    ServiceError: FAILED,
    ArmUnusable: NO_DEVICE,
    LostReply: NO_DEVICE,
    Unsafe: SAFETY,
}
