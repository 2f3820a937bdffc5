"""What a model of pictures gets to see of a clip, and which moments are fit to be judged by."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewarder.faults import (
    EXPOSURE,
    MOVED_PX,
    colour_share,
    edges_of,
    exposed,
    picture_fault,
    resized,
    shift_px,
)
from rewarder.goal import UnknownGoal, parse_goal
from rewarder.reward import Clip
from robot.arm import LOOK_POSE
from robot.camera import encode_jpeg
from robot.pictures import any_picture
from robot.vision import FROZEN_AFTER_S, FROZEN_MOVE_DEG, CameraModel, Image

type Roi = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the whole picture."""

WHOLE: Roi = (0.0, 0.0, 1.0, 1.0)
LOOK_WITHIN_DEG = 8.0
"""How far each joint may be from the look pose."""
MAX_SIDE = 1920
"""Larger pictures are not decoded, pixels."""
LEAST_SHARE = 0.0025
"""Of a picture that a thing's colour fills where the thing lies in sight: a cube fills 0.005."""
QUALITIES = (90, 80, 65, 50, 35)
MAX_JPEG_BYTES = 40_000


class View:
    """Cuts, scales and joins the pictures of some cameras, and says what is wrong with them."""

    def __init__(
        self,
        *,
        height: int = 96,
        cameras: Sequence[str] = ("front", "side"),
        rois: Mapping[str, Sequence[float]] | None = None,
        multiple: int = 24,
        exposure: float | None = EXPOSURE,
        references: Mapping[str, Image] | None = None,
    ) -> None:
        """Show `cameras` from left to right, each `height` pixels high.

        Height and widths are multiples of `multiple`, as a vision tower wants them: 28 for
        Qwen2.5-VL, 32 for Qwen3-VL. `exposure` is the brightness that every picture is brought
        to; None leaves it. With a reference of a camera, a whole picture taken in the look pose,
        a camera that was moved since is noticed.
        """
        if height < multiple or height % multiple:
            raise ValueError(f"height is {height}; expected a multiple of {multiple} pixels")
        if not cameras:
            raise ValueError("no camera to look through; give cameras=[front,side]")
        self.height = height
        self.cameras = tuple(cameras)
        self._rois = {name: _roi(name, (rois or {}).get(name, WHOLE)) for name in self.cameras}
        self._multiple = multiple
        self._exposure = exposure
        self._references = {name: edges_of(image) for name, image in (references or {}).items()}

    def moment(self, clip: Clip, t: int) -> Image | None:
        """Return the views of one moment side by side, RGB, shape (height, sum of widths, 3).

        None where a picture is missing or broken.
        """
        views: list[Image] = []
        for name in self.cameras:
            picture = self._part(clip, name, t)
            if picture is None:
                return None
            views.append(self._scaled(exposed(picture, self._exposure)))
        return np.hstack(views)

    def faults(self, clip: Clip) -> list[str | None]:
        """Return for each moment why it cannot be judged, or None where it can.

        'missing', 'black', 'too dark', 'over-exposed', 'blurred', 'frozen', 'camera moved', or
        'nothing on the table' where no camera sees the colour of the goal's thing.
        """
        found = [self._fault(clip, t) for t in range(len(clip))]
        frozen, moved = self._frozen(clip), self._moved(clip)
        return [
            fault or ("frozen" if frozen[t] else "camera moved" if moved[t] else None)
            for t, fault in enumerate(found)
        ]

    def looks(self, clip: Clip) -> NDArray[np.bool_]:
        """Return at which moments the arm is out of the picture, folded to look, shape (T,)."""
        return np.abs(clip.joint_pos[:, :5] - LOOK_POSE).max(axis=1) <= LOOK_WITHIN_DEG

    def shrink(self, clip: Clip) -> Clip:
        """Return a clip with small pictures for a model elsewhere: cut, scaled, as JPEG.

        A view that looks at them there must have no regions of interest of its own. What is
        missing or broken becomes an empty picture.
        """
        frames = {
            name: [self._small(clip, name, t) for t in range(len(clip))]
            for name in self.cameras
            if name in clip.frames
        }
        cameras = None
        if clip.cameras is not None:
            known = {name: clip.cameras[name] for name in frames if name in clip.cameras}
            cameras = {name: self._camera(camera) for name, camera in known.items()} or None
        return replace(clip, frames=frames, cameras=cameras)

    def _part(self, clip: Clip, name: str, t: int) -> Image | None:
        """Return the region of interest of a picture, in the camera's own pixels."""
        picture = _picture(clip, name, t)
        if picture is None:
            return None
        x0, y0, x1, y1 = _box(self._rois[name], picture.shape[1], picture.shape[0])
        return picture[y0:y1, x0:x1]

    def _scaled(self, picture: Image) -> Image:
        size = (self._width(picture.shape[1], picture.shape[0]), self.height)
        return resized(picture, size)

    def _width(self, width: int, height: int) -> int:
        return max(1, round(width / height * self.height / self._multiple)) * self._multiple

    def _small(self, clip: Clip, name: str, t: int) -> bytes:
        picture = self._part(clip, name, t)
        return b"" if picture is None else _small_jpeg(self._scaled(picture))

    def _camera(self, camera: CameraModel) -> CameraModel:
        """Return a camera as it is after cutting and scaling."""
        x0, y0, x1, y1 = _box(self._rois[camera.name], camera.width, camera.height)
        width, height = x1 - x0, y1 - y0
        cut = replace(camera, width=width, height=height, cx=camera.cx - x0, cy=camera.cy - y0)
        return cut.resized(self._width(width, height), self.height)

    def _fault(self, clip: Clip, t: int) -> str | None:
        """Return what one moment shows of its faults by itself."""
        colour, share = _colour(clip.goal), 0.0
        for name in self.cameras:
            picture = self._part(clip, name, t)
            fault = "missing" if picture is None else picture_fault(picture)
            if picture is None or fault is not None:
                return fault
            if colour is not None:
                share = max(share, colour_share(picture, colour))
        return "nothing on the table" if colour is not None and share < LEAST_SHARE else None

    def _frozen(self, clip: Clip) -> NDArray[np.bool_]:
        """Return which moments repeat a picture although the arm moved, shape (T,).

        `FrameSanity` sees a stream and needs a second to be sure; of a clip that second is known.
        """
        frozen = np.zeros(len(clip), bool)
        for name in self.cameras:
            rows = enumerate(clip.frames.get(name, ()))
            for data, run in itertools.groupby(rows, key=lambda row: row[1]):
                at = [t for t, _ in run]
                held = clip.stamps[at[-1]] - clip.stamps[at[0]] >= FROZEN_AFTER_S
                way = np.ptp(clip.joint_pos[at, :5], axis=0).max()
                if data and held and way > FROZEN_MOVE_DEG:
                    frozen[at[1:]] = True
        return frozen

    def _moved(self, clip: Clip) -> NDArray[np.bool_]:
        """Return at which moments a camera does not look where it used to, shape (T,).

        It is judged in the look pose, where only things can have changed. Between two looks of
        which one is wrong nobody knows when it happened: all of it counts as moved.
        """
        looks = np.flatnonzero(self.looks(clip)) if self._references else np.array([], np.intp)
        if not len(looks):
            return np.zeros(len(clip), bool)
        wrong = np.array([self._is_moved(clip, int(t)) for t in looks])
        at = np.arange(len(clip))
        before = np.clip(np.searchsorted(looks, at, side="right") - 1, 0, None)
        after = np.clip(np.searchsorted(looks, at), None, len(looks) - 1)
        return wrong[before] | wrong[after]

    def _is_moved(self, clip: Clip, t: int) -> bool:
        for name, reference in self._references.items():
            picture = _picture(clip, name, t)
            if picture is not None and shift_px(reference, edges_of(picture)) > MOVED_PX:
                return True
        return False


def load_references(folder: Path, cameras: Sequence[str]) -> dict[str, Image]:
    """Return `NAME.jpg` of a folder for each camera; raise ValueError where one is none."""
    found: dict[str, Image] = {}
    for name in cameras:
        path = folder / f"{name}.jpg"
        picture = any_picture(path.read_bytes(), max_side=MAX_SIDE)
        if picture is None:
            raise ValueError(f"{path} is not a whole JPEG of at most {MAX_SIDE} pixels a side")
        found[name] = picture
    return found


def _roi(name: str, fractions: Sequence[float]) -> Roi:
    roi = tuple(float(value) for value in fractions)
    if len(roi) != 4 or not (0 <= roi[0] < roi[2] <= 1 and 0 <= roi[1] < roi[3] <= 1):
        raise ValueError(
            f"the region of {name} is {list(fractions)}; expected left, top, right, bottom as "
            "fractions of the picture, such as [0.1, 0.0, 0.9, 1.0]"
        )
    return roi


def _box(roi: Roi, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in pixels; at least one pixel each way."""
    x0, y0 = int(roi[0] * width), int(roi[1] * height)
    return x0, y0, max(x0 + 1, round(roi[2] * width)), max(y0 + 1, round(roi[3] * height))


def _picture(clip: Clip, name: str, t: int) -> Image | None:
    data = clip.frames[name][t] if name in clip.frames else b""
    return any_picture(data, max_side=MAX_SIDE) if data else None


def _small_jpeg(picture: Image) -> bytes:
    data = b""
    for quality in QUALITIES:
        data = encode_jpeg(picture, quality=quality)
        if len(data) <= MAX_JPEG_BYTES:
            break
    return data


def _colour(goal: str) -> str | None:
    """Return the colour of a goal's thing, None for a goal of which nobody here knows it."""
    try:
        return parse_goal(goal).thing.colour
    except UnknownGoal:
        return None
