"""Reads all cameras of an arm at once for some seconds, and keeps what each of them gave."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray

from robot.camera import decode_jpeg
from robot.process.cameras import make_camera
from robot.vision import frame_fault

type Image = NDArray[np.uint8]

FIRST_S, WAIT_S = 10.0, 2.0
"""What a camera may take to its first picture, and from one to the next."""
TILE = 320
DRAWN = ("twin",)
"""Cameras whose picture stands still with what they see: no noise."""


class Camera(Protocol):
    """An open camera."""

    def next(self, wait_s: float) -> Image:
        """Return the next picture, RGB; raise OSError where none comes in time."""
        ...

    def close(self) -> None:
        """Give the camera back."""
        ...


type OpenCamera = Callable[[str, Mapping[str, object]], Camera]
"""Opens a camera by name and setting; raises OSError with one line that says why not."""


@dataclass(slots=True, eq=False)
class Watched:
    """What one camera gave while all were watched."""

    stamps: list[float] = field(default_factory=list[float])
    faults: list[str] = field(default_factory=list[str])
    """Of the pictures that were looked at."""
    looked: int = 0
    last: Image | None = None
    changed: float = 0.0
    """When the picture last differed from the one before."""
    still_s: float = 0.0
    """The longest time without any change."""
    error: str | None = None
    """Why it gave no more."""

    def take(self, image: Image, stamp: float) -> None:
        """Count a picture."""
        if self.last is None or not np.array_equal(self.last, image):
            self.changed = stamp
        self.still_s = max(self.still_s, stamp - self.changed)
        self.last = image
        self.stamps.append(stamp)
        # One look at every tenth picture is enough, and leaves the cameras their time.
        if len(self.stamps) % 10 == 1:
            self.looked += 1
            fault = frame_fault(image)
            if fault:
                self.faults.append(fault)

    @property
    def rate(self) -> float:
        """Return pictures a second, from the first to the last."""
        if len(self.stamps) < 2:
            return 0.0
        return (len(self.stamps) - 1) / (self.stamps[-1] - self.stamps[0])

    @property
    def longest_gap_s(self) -> float:
        """Return the longest time between two pictures."""
        return float(np.diff(self.stamps).max()) if len(self.stamps) > 1 else 0.0


class LeRobotCamera:
    """A camera as LeRobot opens it."""

    def __init__(self, name: str, setting: Mapping[str, object]) -> None:
        """Open it; raise OSError where that does not work."""
        try:
            self._camera = make_camera(name, setting)
            self._camera.connect(warmup=False)
        except (RuntimeError, ValueError) as error:
            raise OSError(" ".join(str(error).split())) from error

    def next(self, wait_s: float) -> Image:
        """Return the next picture."""
        try:
            return self._camera.async_read(timeout_ms=1000 * wait_s)
        except (RuntimeError, TimeoutError) as error:
            raise OSError(" ".join(str(error).split())) from error

    def close(self) -> None:
        """Give the camera back."""
        if self._camera.is_connected:
            self._camera.disconnect()


class ServedCamera:
    """A camera that the arm's process owns, as it hands its pictures out."""

    def __init__(self, url: str, name: str, period_s: float, headers: Mapping[str, str]) -> None:
        """Ask twice as often as the camera has pictures."""
        self._client = httpx.Client(base_url=url, timeout=WAIT_S, headers=headers, trust_env=False)
        self._path, self._pause_s = f"/frames/{name}.jpg", period_s / 2
        self._stamp = ""

    def next(self, wait_s: float) -> Image:
        """Return the next picture that was taken."""
        ends = time.monotonic() + wait_s
        while time.monotonic() < ends:
            answer = self._fetch()
            stamp = answer.headers.get("X-Stamp", "")
            if stamp != self._stamp:
                self._stamp = stamp
                return decode_jpeg(answer.content)
            time.sleep(self._pause_s)
        raise OSError(f"the arm's process has had no other picture for {wait_s:.0f} s")

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _fetch(self) -> httpx.Response:
        try:
            answer = self._client.get(self._path)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise OSError(f"the arm's process gives no picture: {error}") from error
        return answer


def watch(
    cameras: Mapping[str, Mapping[str, object]], opener: OpenCamera, seconds: float
) -> dict[str, Watched]:
    """Open all cameras, read them all at once, each in its own thread, and close them."""
    watched = {name: Watched() for name in cameras}
    opened: dict[str, Camera] = {}
    for name, setting in cameras.items():
        try:
            opened[name] = opener(name, setting)
            opened[name].next(FIRST_S)
        except (OSError, ValueError) as error:
            watched[name].error = str(error)
    ends = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_read_until, args=(camera, watched[name], ends))
        for name, camera in opened.items()
        if watched[name].error is None
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for camera in opened.values():
        camera.close()
    return watched


def contact_sheet(path: Path, seen: Mapping[str, Watched]) -> Path | None:
    """Write the last picture of each camera beside its name as one PNG; None without any."""
    tiles = [_tile(name, watched.last) for name, watched in seen.items()]
    if not any(watched.last is not None for watched in seen.values()):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = cv2.cvtColor(np.concatenate(tiles, axis=1), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(path), sheet)
    return path


def _read_until(camera: Camera, watched: Watched, ends: float) -> None:
    while time.monotonic() < ends:
        try:
            image = camera.next(WAIT_S)
        except (OSError, ValueError) as error:
            watched.error = str(error)
            return
        watched.take(image, time.monotonic())


def _tile(name: str, image: Image | None) -> Image:
    tile = np.full((TILE * 3 // 4 + 28, TILE, 3), 30, np.uint8)
    if image is not None:
        scale = min(TILE / image.shape[1], TILE * 0.75 / image.shape[0])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        tile[28 : 28 + size[1], : size[0]] = small
    said = name if image is not None else f"{name}: no picture"
    colour = (235, 235, 235) if image is not None else (255, 120, 100)
    cv2.putText(tile, said, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
    return tile
