"""The newest picture of each camera, read and encoded by a process: `robot.process.cameras`."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from robot.arm_config import ROOT, ArmConfig
from robot.wire import WireError, decode_map

log = structlog.get_logger(__name__)

FRESH_S = 0.5
"""An older picture is none."""
START_S = 60.0
"""What a process may take until its first picture."""
HUNG_S = 5.0
"""A process without any picture for so long is ended and started again."""
BACK_OFF_S = (0.5, 30.0)
LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of one camera, as JPEG."""

    jpeg: bytes
    stamp: float
    """When it was taken, seconds of this machine's monotonic clock."""


class CameraFeed:
    """Keeps a camera process alive, and the newest picture of each of its cameras."""

    def __init__(
        self,
        command: Sequence[str],
        sizes: Mapping[str, tuple[int, int]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start `command`, which writes pictures of the cameras that `sizes` names to its output.

        The sizes, height and width, are those expected until a picture has come. With no cameras
        no process is started.
        """
        self._command, self._sizes, self._clock = list(command), dict(sizes), clock
        self._pictures: dict[str, Picture] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._alive_at, self._seen = clock(), False
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"cameras-{work.__name__}", daemon=True)
            for work in (self._read, self._watch)
        ]
        for thread in self._threads if sizes else []:
            thread.start()

    def newest(self) -> Mapping[str, Picture]:
        """Return the newest picture of each camera that has a recent one."""
        oldest = self._clock() - FRESH_S
        with self._lock:
            return {name: p for name, p in self._pictures.items() if p.stamp >= oldest}

    def missing(self) -> tuple[str, ...]:
        """Return the cameras that have no recent picture."""
        newest = self.newest()
        return tuple(name for name in self._sizes if name not in newest)

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Return height and width of each camera's pictures."""
        return self._sizes

    def wait(self, timeout_s: float) -> tuple[str, ...]:
        """Wait until every camera has a recent picture; return those that do not."""
        deadline = time.monotonic() + timeout_s
        while (missing := self.missing()) and (left := deadline - time.monotonic()) > 0:
            with self._arrived:
                self._arrived.wait(min(left, 0.1))
        return missing

    def close(self) -> None:
        """End the camera process."""
        self._closing.set()
        self._kill()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2.0)

    def _read(self) -> None:
        """Start the process, take its pictures, and start it again with a back-off if it ends."""
        pause = BACK_OFF_S[0]
        while not self._closing.is_set():
            self._seen, self._alive_at = False, self._clock()
            with _started(self._command) as process:
                self._process = process
                if self._closing.is_set():
                    process.kill()
                assert process.stdout is not None  # noqa: S101 - a pipe was asked for
                self._take(process.stdout)
                code = _ended(process)
            if self._closing.is_set():
                return
            pause = BACK_OFF_S[0] if self._seen else min(2 * pause, BACK_OFF_S[1])
            log.warning("camera process ended", code=code, again_in_s=pause)
            self._closing.wait(pause)

    def _take(self, output: IO[bytes]) -> None:
        """Keep what comes until the output ends or makes no sense."""
        while (data := _message(output)) is not None:
            try:
                picture = decode_map(data)
            except WireError as error:
                log.warning("camera process wrote nonsense", error=str(error))
                self._kill()
                return
            self._keep(picture)

    def _keep(self, message: Mapping[str, object]) -> None:
        name, stamp, jpeg = message.get("name"), message.get("stamp"), message.get("jpeg")
        if not isinstance(stamp, float) or not isinstance(jpeg, bytes) or name not in self._sizes:
            log.warning("camera process wrote something else than a picture")
            return
        height, width = message.get("height"), message.get("width")
        with self._arrived:
            self._pictures[str(name)] = Picture(jpeg=jpeg, stamp=stamp)
            if isinstance(height, int) and isinstance(width, int):
                self._sizes[str(name)] = (height, width)
            self._alive_at, self._seen = self._clock(), True
            self._arrived.notify_all()

    def _watch(self) -> None:
        """End a process that shows nothing any more."""
        while not self._closing.wait(0.25):
            limit = HUNG_S if self._seen else START_S
            if self._clock() - self._alive_at > limit:
                log.warning("camera process hangs", silent_s=limit)
                self._alive_at = self._clock()
                self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()


def camera_feed(config: ArmConfig, folder: Path) -> CameraFeed:
    """Return the cameras of an arm, whose file is in `folder`."""
    words = [f"arm_id={config.arm_id}", f"folder={folder}"]
    sizes = {name: _size(settings) for name, settings in config.cameras.items()}
    return CameraFeed([sys.executable, "-m", "robot.process.cameras", *words], sizes)


def _size(settings: Mapping[str, object]) -> tuple[int, int]:
    """Return height and width as far as the settings say them, else 0."""
    height, width = settings.get("height"), settings.get("width")
    return (height if isinstance(height, int) else 0, width if isinstance(width, int) else 0)


def _started(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own module
        command,
        cwd=ROOT,
        # It ends when the other end of its input is closed, however this process ends.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C is for this process.
        start_new_session=True,
    )


def _message(output: IO[bytes]) -> bytes | None:
    """Return the next message of a stream, or None at its end."""
    head = output.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    length = int.from_bytes(head)
    data = output.read(length) if length <= 8 * 1024 * 1024 else b""
    return data if len(data) == length else None


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a process that has closed its output."""
    try:
        return process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
