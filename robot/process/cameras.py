"""The camera process of an arm: LeRobot's cameras in, JPEG with capture times out.

`python -m robot.process.cameras arm_id=arm01` writes length and message of each picture to its
output, for `robot.process.camera_feed`, and ends with its input. A camera that fails is opened
again with a back-off.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import structlog

from robot.arm_config import ROOT, ArmConfig, ConfigError
from robot.camera import encode_jpeg
from robot.process.camera_feed import BACK_OFF_S, LENGTH_BYTES
from robot.process.daemon_log import log_to
from robot.wire import encode
from robot.words import UsageError, parse_words

log = structlog.get_logger(__name__)

READ_S = 1.0
WORDS = {"arm_id": "arm01", "folder": str(ROOT / "conf" / "arm")}
USAGE = 2

type Send = Callable[[Mapping[str, object]], None]


_PACKAGES = {
    "twin": "robot.emulator.twin_camera",
    "intelrealsense": "lerobot.cameras.realsense",
}
"""What brings a type of camera whose package has another name."""


def make_camera(name: str, settings: Mapping[str, object]) -> Any:  # noqa: ANN401 - LeRobot's own
    """Return a LeRobot camera that is not connected; raise `ConfigError` for wrong settings.

    `package` names the module that brings a type which is neither LeRobot's own nor the twin's.
    """
    # LeRobot's cameras are known once their modules are loaded, and loading all takes too long.
    cameras: Any = import_module("lerobot.cameras")
    kind = str(settings["type"])
    package = str(settings.get("package", _PACKAGES.get(kind, f"lerobot.cameras.{kind}")))
    rest = {key: value for key, value in settings.items() if key not in {"type", "package"}}
    try:
        import_module(package)
        config = cameras.CameraConfig.get_choice_class(kind)(**rest)
        return cameras.make_cameras_from_configs({name: config})[name]
    except (ImportError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cameras.{name}: {reason}; expected what LeRobot's {kind} takes") from (
            error
        )


class Output:
    """Writes messages to a stream, each with its length, from several threads."""

    def __init__(self, descriptor: int) -> None:
        """Write to a file descriptor."""
        self._file = os.fdopen(descriptor, "wb")
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, object]) -> None:
        """Write one message whole."""
        data = encode(message)
        with self._lock:
            self._file.write(len(data).to_bytes(LENGTH_BYTES) + data)
            self._file.flush()


def show(name: str, camera: Any, send: Send, closing: threading.Event) -> None:  # noqa: ANN401
    """Send a camera's pictures until closed; open it again, ever more slowly, when it fails."""
    pause = BACK_OFF_S[0]
    while not closing.is_set():
        try:
            if not camera.is_connected:
                camera.connect()
            image = camera.async_read(timeout_ms=1e3 * READ_S)
            stamp = taken_at(camera)
        except (OSError, RuntimeError, ValueError) as error:
            log.warning("camera fails", camera=name, error=str(error), again_in_s=pause)
            _disconnect(camera)
            closing.wait(pause)
            pause = min(2 * pause, BACK_OFF_S[1])
            continue
        height, width = image.shape[:2]
        jpeg = encode_jpeg(image)
        send({"name": name, "stamp": stamp, "jpeg": jpeg, "height": height, "width": width})
        pause = BACK_OFF_S[0]


def taken_at(camera: Any) -> float:  # noqa: ANN401
    """Return when a camera took the picture that was just read, `time.monotonic()`."""
    stamp = getattr(camera, "capture_stamp", None)
    if stamp is not None:
        return float(stamp)
    # LeRobot's own cameras go by another counter of the same machine.
    captured = getattr(camera, "latest_timestamp", None)
    age = 0.0 if captured is None else max(0.0, time.perf_counter() - captured)
    return time.monotonic() - age


def run(config: ArmConfig, output: Output) -> None:
    """Send the pictures of all cameras of an arm until the input ends."""
    closing = threading.Event()
    for name, settings in config.cameras.items():
        camera = make_camera(name, settings)
        arguments = (name, camera, output.send, closing)
        threading.Thread(target=show, args=arguments, name=name, daemon=True).start()
    # Whoever reads the pictures holds the other end, and is gone when this returns.
    sys.stdin.buffer.read()
    closing.set()


def main(argv: Sequence[str]) -> int:
    """Show the cameras of an arm; return the exit code."""
    cv2.setNumThreads(1)
    # What libraries print must not come between the pictures.
    descriptor = os.dup(1)
    os.dup2(2, 1)
    try:
        words = parse_words(argv, known=WORDS)
        config = ArmConfig.load(words["arm_id"], folder=Path(words["folder"]))
        log_to(f"{config.arm_id}-cameras")
        run(config, Output(descriptor))
    except (UsageError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    return 0


def _disconnect(camera: Any) -> None:  # noqa: ANN401
    try:
        if camera.is_connected:
            camera.disconnect()
    except (OSError, RuntimeError) as error:
        log.warning("camera does not close", error=str(error))


if __name__ == "__main__":
    # Cameras leave threads behind that nobody can end.
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
