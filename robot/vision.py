"""Cameras as geometry, whether a picture can be trusted, and which of its pixels have a colour."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from robot.camera import Frame
from robot.sealed import seal

type Vector = NDArray[np.float64]
type Image = NDArray[np.uint8]
type HsvRange = tuple[tuple[int, int, int], tuple[int, int, int]]
"""Lowest and highest hue (0 to 180), saturation and value (0 to 255), both included."""

type HsvRanges = Mapping[str, tuple[HsvRange, ...]]
"""By colour; several ranges where the hue wraps around."""

HSV_RANGES: HsvRanges = {
    "red": (((0, 110, 35), (9, 255, 255)), ((171, 110, 35), (180, 255, 255))),
    "green": (((42, 90, 30), (88, 255, 255)),),
    "blue": (((97, 100, 30), (133, 255, 255)),),
}
"""Per colour; the arm's yellow plastic has a hue of about 24 and lies in none of them."""

BLACK_BELOW = 12.0
"""Mean grey level of a picture in which nothing can be told apart."""
WHITE_ABOVE = 243.0
"""Mean grey level of an over-exposed picture."""
SHARP_ABOVE = 2.5
"""Standard deviation of the Laplacian of the grey picture below which it is blurred."""
FROZEN_AFTER_S = 1.0
"""How long a picture may stay the same, to the last bit, while joints move."""
FROZEN_MOVE_DEG = 3.0
"""How far a joint has to move before every camera must see a difference."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraModel:
    """A fixed camera: where it stands in the arm's base frame and how it projects."""

    name: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    pos: Vector
    """Optical centre in the base frame, metres, shape (3,)."""
    rot: Vector
    """Camera axes (x right, y down, z forward) as columns in the base frame, shape (3, 3)."""
    distortion: tuple[float, ...] = ()
    """OpenCV's k1 k2 p1 p2 k3; empty where the lens has none."""

    @classmethod
    def from_fov(
        cls, name: str, width: int, height: int, fovy_deg: float, pos: Vector, rot_mujoco: Vector
    ) -> "CameraModel":
        """Return MuJoCo's camera, whose axes are x right, y up, looking along -z."""
        focal = 0.5 * height / np.tan(0.5 * np.deg2rad(fovy_deg))
        rot = np.asarray(rot_mujoco, np.float64).reshape(3, 3) * np.array([1.0, -1.0, -1.0])
        return cls(
            name=name,
            width=width,
            height=height,
            fx=float(focal),
            fy=float(focal),
            cx=0.5 * (width - 1),
            cy=0.5 * (height - 1),
            pos=np.array(pos, np.float64),
            rot=rot,
        )

    def resized(self, width: int, height: int) -> "CameraModel":
        """Return the same camera with its pictures scaled to another size."""
        across, down = width / self.width, height / self.height
        return CameraModel(
            name=self.name,
            width=width,
            height=height,
            fx=self.fx * across,
            fy=self.fy * down,
            cx=(self.cx + 0.5) * across - 0.5,
            cy=(self.cy + 0.5) * down - 0.5,
            pos=self.pos,
            rot=self.rot,
            distortion=self.distortion,
        )

    @property
    def matrix(self) -> Vector:
        """Return OpenCV's camera matrix, shape (3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def project(self, points: Vector) -> tuple[Vector, Vector]:
        """Return pixels (..., 2), whole at their centres, and depths (...) of points (..., 3)."""
        seen = (np.asarray(points, np.float64) - self.pos) @ self.rot
        depth = seen[..., 2]
        if self.distortion:
            pixels = cv2.projectPoints(
                seen.reshape(-1, 1, 3),
                np.zeros(3),
                np.zeros(3),
                self.matrix,
                np.array(self.distortion),
            )[0]
            return np.asarray(pixels, np.float64).reshape(*depth.shape, 2), depth
        u = self.fx * seen[..., 0] / depth + self.cx
        v = self.fy * seen[..., 1] / depth + self.cy
        return np.stack([u, v], axis=-1), depth

    def slopes(self, pixel: Vector) -> tuple[float, float]:
        """Return x / z and y / z, in the camera's axes, of what a pixel (2,) looks at."""
        if not self.distortion:
            return (float(pixel[0]) - self.cx) / self.fx, (float(pixel[1]) - self.cy) / self.fy
        point = np.asarray(pixel, np.float64).reshape(1, 1, 2)
        ideal = cv2.undistortPoints(point, self.matrix, np.array(self.distortion))
        return float(ideal[0, 0, 0]), float(ideal[0, 0, 1])

    def ray(self, pixel: Vector) -> Vector:
        """Return the unit direction, in the base frame, in which a pixel (2,) looks, shape (3,)."""
        x, y = self.slopes(pixel)
        return self.rot @ (np.array([x, y, 1.0]) / math.sqrt(x * x + y * y + 1.0))


_SCALARS = ("width", "height", "fx", "fy", "cx", "cy")


def save_cameras(path: Path, cameras: Mapping[str, CameraModel]) -> None:
    """Write cameras as YAML, whole or not at all."""
    listed = {
        name: {key: getattr(camera, key) for key in _SCALARS}
        | {
            "pos": [float(value) for value in camera.pos],
            "rot": [[float(value) for value in row] for row in camera.rot],
            "distortion": [float(value) for value in camera.distortion],
        }
        for name, camera in cameras.items()
    }
    seal(path, yaml.safe_dump({"cameras": listed}, sort_keys=False).encode())


def load_cameras(path: Path) -> dict[str, CameraModel]:
    """Return the cameras of a YAML file by name; raise ValueError that says what is wrong."""
    try:
        listed = _mapping(_mapping(yaml.safe_load(path.read_text())).get("cameras"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not listed:
        raise ValueError(f"{path} has no `cameras:`; write it with `make calibrate-camera`")
    return {name: _camera(path, name, _mapping(entry)) for name, entry in listed.items()}


def _mapping(value: object) -> dict[str, Any]:
    """Return a YAML mapping, or an empty one for anything else."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _camera(path: Path, name: str, entry: Mapping[str, Any]) -> CameraModel:
    """Return one camera of a file."""
    needed = {*_SCALARS, "pos", "rot"}
    wrong = (needed - set(entry)) | (set(entry) - needed - {"distortion"})
    if wrong:
        keys = ", ".join(sorted(map(str, wrong)))
        raise ValueError(f"camera {name} in {path} has missing or unknown keys: {keys}")
    try:
        numbers = {key: float(entry[key]) for key in _SCALARS}
        pos, rot = np.array(entry["pos"], np.float64), np.array(entry["rot"], np.float64)
        distortion = tuple(float(value) for value in entry.get("distortion", ()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"camera {name} in {path} holds something that is no number") from error
    turns = rot.shape == (3, 3) and np.allclose(rot.T @ rot, np.eye(3), atol=1e-3)
    if pos.shape != (3,) or not turns:
        raise ValueError(f"camera {name} in {path}: pos must be 3 numbers, rot a 3x3 rotation")
    return CameraModel(
        name=name,
        width=int(numbers["width"]),
        height=int(numbers["height"]),
        fx=numbers["fx"],
        fy=numbers["fy"],
        cx=numbers["cx"],
        cy=numbers["cy"],
        pos=pos,
        rot=rot,
        distortion=distortion,
    )


def frame_fault(image: Image, previous: Image | None = None) -> str | None:
    """Return what makes a picture useless, or None: its size, black, over-exposed, blurred, frozen.

    `previous` is the last picture of the same camera, if the scene must have changed since: a
    camera that looks at a table at rest rightly repeats itself, see `FrameSanity`.
    """
    if (
        image.ndim != 3
        or image.shape[2] != 3
        or image.dtype != np.uint8
        or min(image.shape[:2]) < 16
    ):
        return "wrong size"
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    level = cv2.mean(grey)[0]
    if level < BLACK_BELOW:
        return "black"
    if level > WHITE_ABOVE:
        return "over-exposed"
    if float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0]) < SHARP_ABOVE:
        return "blurred"
    if previous is not None and np.array_equal(image, previous):
        return "frozen"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Last:
    """The picture a camera last changed to, and where the arm stood then."""

    image: Image
    stamp: float
    joint_pos: Vector


class FrameSanity:
    """Watches the cameras of one arm: a picture that stays the same while joints move is frozen."""

    def __init__(self) -> None:
        """Watch from a blank memory."""
        self._last: dict[str, _Last] = {}

    def faults(self, frames: Mapping[str, Frame], joint_pos: Vector) -> dict[str, str]:
        """Return what is wrong, by camera, with the newest frames at these joints (6,), degrees."""
        found = {name: self._fault(name, frame, joint_pos) for name, frame in frames.items()}
        return {name: fault for name, fault in found.items() if fault is not None}

    def reset(self) -> None:
        """Forget the pictures seen."""
        self._last.clear()

    def _fault(self, name: str, frame: Frame, joint_pos: Vector) -> str | None:
        """Return what is wrong with the newest frame of one camera."""
        last = self._last.get(name)
        if last is None or not np.array_equal(last.image, frame.image):
            self._last[name] = _Last(frame.image, frame.stamp, np.array(joint_pos))
            return frame_fault(frame.image)
        # Closing the gripper may well be out of a camera's sight; the five other joints are not.
        moved = np.abs(np.asarray(joint_pos)[:5] - last.joint_pos[:5]).max() > FROZEN_MOVE_DEG
        if moved and frame.stamp - last.stamp >= FROZEN_AFTER_S:
            return "frozen"
        return frame_fault(frame.image)


def to_hsv(image: Image) -> Image:
    """Return an RGB picture as OpenCV's hue (0 to 180), saturation and value."""
    return cast(Image, cv2.cvtColor(image, cv2.COLOR_RGB2HSV))


def colour_mask(hsv: Image, ranges: tuple[HsvRange, ...]) -> Image:
    """Return 255 where an HSV picture lies in one of the ranges, else 0, shape (height, width)."""
    # OpenCV takes plain tuples as bounds; its type stubs do not say so.
    masks = [cast(Image, cv2.inRange(hsv, *cast(Any, bounds))) for bounds in ranges]
    mask = masks[0]
    for other in masks[1:]:
        mask = cast(Image, cv2.bitwise_or(mask, other))
    return mask
