"""Draws what an emulator's twin looks like, in the process that wants to see it."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final

import mujoco
import numpy as np
import structlog
from lerobot.cameras.camera import Camera  # pyright: ignore[reportMissingTypeStubs]
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from robot.arm_config import ROOT
from robot.emulator.twin_camera.config_twin_camera import TwinCameraConfig
from robot.emulator.twin_state import NoState, TwinState, TwinStateReader
from robot.scene import Layout
from robot.twin import renderer
from robot.twin_model import PRESETS, VIEWS, WRIST_CAMERA, shared_model

log = structlog.get_logger(__name__)

type Image = NDArray[np.uint8]

SILENT_S: Final = 0.5
"""A state that is older is of an emulator that has ended: then nothing is seen."""
WARM_UP_S: Final = 20.0
"""The first picture of a process compiles a model."""


class TwinCamera(Camera):
    """A simulated camera with the methods of LeRobot's OpenCV camera; frames are RGB."""

    def __init__(self, config: TwinCameraConfig) -> None:
        """Choose a view; nothing is opened yet."""
        super().__init__(config)
        if config.view not in {*VIEWS, "wrist"}:
            raise ValueError(f"view is {config.view!r}; expected one of {', '.join(VIEWS)}, wrist")
        self.config = config
        self.capture_stamp: float | None = None
        """When the newest frame was seen, `time.monotonic()`."""
        self._period_s = 1 / (config.fps or 20)
        self._size = (config.height or 96, config.width or 96)
        self._frame: Image | None = None
        self._fresh = threading.Condition()
        self._consumed = True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reader: TwinStateReader | None = None

    def __str__(self) -> str:
        return f"TwinCamera({self.config.state}:{self.config.view})"

    @property
    def is_connected(self) -> bool:
        """Return whether the camera is open."""
        return self._thread is not None

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        """Return the views of every emulator that runs here."""
        return [
            {"name": f"{state.stem} {view}", "type": "twin", "id": f"{state}:{view}"}
            for state in sorted((ROOT / "run").glob("*.state"))
            for view in (*VIEWS, "wrist")
        ]

    def connect(self, warmup: bool = True) -> None:
        """Start to look; with `warmup`, wait for the first frame."""
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is already connected.")
        try:
            self._reader = TwinStateReader(ROOT / self.config.state)
        except NoState as error:
            raise ConnectionError(f"{self}: {error}") from error
        self._stop.clear()
        self._thread = threading.Thread(target=self._look, name=str(self), daemon=True)
        self._thread.start()
        if warmup:
            try:
                self.async_read(timeout_ms=WARM_UP_S * 1e3)
            except (TimeoutError, RuntimeError) as error:
                self.disconnect()
                raise ConnectionError(f"{self}: {error}") from error

    def read(self) -> Image:
        """Wait for the next frame and return it."""
        with self._fresh:
            self._consumed = True
        return self.async_read(timeout_ms=10_000)

    def async_read(self, timeout_ms: float = 200) -> Image:
        """Return a frame that was not returned so before, waiting for it if need be."""
        self._require_connection()
        with self._fresh:
            if not self._fresh.wait_for(lambda: not self._consumed, timeout_ms / 1e3):
                raise TimeoutError(f"{self} gave no frame within {timeout_ms:.0f} ms")
            self._consumed = True
            assert self._frame is not None  # noqa: S101 - what makes it fresh sets it
            return self._frame

    def read_latest(self, max_age_ms: int = 500) -> Image:
        """Return the newest frame at once; raise `TimeoutError` where it is too old."""
        self._require_connection()
        with self._fresh:
            frame, stamp = self._frame, self.capture_stamp
        if frame is None or stamp is None:
            raise RuntimeError(f"{self} has not captured any frames yet.")
        age_ms = (time.monotonic() - stamp) * 1e3
        if age_ms > max_age_ms:
            raise TimeoutError(f"{self}'s newest frame is {age_ms:.0f} ms old; max {max_age_ms} ms")
        return frame

    def disconnect(self) -> None:
        """Stop looking."""
        if self._thread is None:
            raise DeviceNotConnectedError(f"{self} not connected.")
        self._stop.set()
        self._thread.join(timeout=2.0)
        self._thread = None
        with self._fresh:
            self._frame, self.capture_stamp, self._consumed = None, None, True
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _require_connection(self) -> None:
        if self._thread is None:
            raise DeviceNotConnectedError(f"{self} is not connected.")

    def _look(self) -> None:
        """Take a frame each period until told to stop."""
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                self._capture()
            except RuntimeError:
                log.exception("twin_camera_ended", camera=str(self))
                return
            due = max(due + self._period_s, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def _capture(self) -> None:
        """Take one frame, if there is something to be seen."""
        stamp = time.monotonic()
        state = self._state()
        if state is None or stamp - state.stamp > SILENT_S:
            return
        fault = state.camera_faults.get(self.config.view)
        if fault == "missing":
            return
        if fault == "frozen" and self._frame is not None:
            frame = self._frame
        elif fault == "black":
            frame = np.zeros((*self._size, 3), np.uint8)
        else:
            frame = _painter().submit(draw, state, self.config.view, self._size).result()
        with self._fresh:
            self._frame, self.capture_stamp, self._consumed = frame, stamp, False
            self._fresh.notify_all()

    def _state(self) -> TwinState | None:
        if self._reader is None:
            return None
        try:
            if self._reader.replaced():
                reader = TwinStateReader(ROOT / self.config.state)
                self._reader.close()
                self._reader = reader
            return self._reader.read()
        except NoState:
            return None


@cache
def _painter() -> ThreadPoolExecutor:
    """Return the one thread of this process that draws: an OpenGL context belongs to a thread."""
    return ThreadPoolExecutor(1, "twin-camera")


@cache
def _scene(layout: Layout) -> tuple[mujoco.MjModel, mujoco.MjData]:
    # A model of its own has a renderer of its own, in the painter's thread.
    model = copy.copy(shared_model(layout, PRESETS["stiff"]))
    return model, mujoco.MjData(model)


def draw(state: TwinState, view: str, size: tuple[int, int]) -> Image:
    """Return a picture of the twin, RGB, shape (height, width, 3)."""
    model, data = _scene(state.layout)
    data.qpos[:] = state.qpos
    if model.nmocap:
        data.mocap_pos[0] = state.flat_place
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    drawing = renderer(model, *size)
    drawing.update_scene(data, WRIST_CAMERA if view == "wrist" else view)
    return np.array(drawing.render(), np.uint8)
