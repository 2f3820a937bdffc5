"""From a blob of colour in a picture to lines of sight, and what a whole object would look like."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from robot.scene import BOWL_RADIUS, CUBE_EDGE, Item
from robot.vision import CameraModel, Image, Vector

MIN_PIXELS = 4
"""Smaller blobs are noise."""
BOWL_WALL = (0.003, 0.022)
"""Thickness and height of a bowl's wall, metres."""
MARKER_RADIUS = 0.016
_MEAN_WIDTH = 4.0 / math.pi
"""Of a square with edge 1, over all directions it may be seen from."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """The largest blob of one colour in one picture."""

    camera: CameraModel
    pixel: Vector
    """Its centroid, shape (2,)."""
    middle: Vector
    """The middle of its bounding box, shape (2,)."""
    size: Vector
    """Width and height of its bounding box, shape (2,)."""
    area: float
    """Pixels."""


def largest_blob(camera: CameraModel, mask: Image) -> Sight | None:
    """Return the largest connected blob of a mask (height, width), or None where there is none."""
    left, top, width, height = cv2.boundingRect(mask)
    if width * height < MIN_PIXELS:
        return None
    crop = mask[top : top + height, left : left + width]
    _, _, stats, centroids = cv2.connectedComponentsWithStats(crop, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    best = int(areas.argmax()) + 1
    if areas[best - 1] < MIN_PIXELS:
        return None
    corner = np.array([left, top], np.float64)
    x, y, across, down, area = stats[best].tolist()
    size = np.array([across, down], np.float64)
    middle = corner + (x, y) + 0.5 * (size - 1.0)
    return Sight(camera, corner + centroids[best], middle, size, float(area))


def planes(camera: CameraModel, pixel: Vector) -> Vector:
    """Return the normals (3, 2) of the planes in which a pixel's column and its row lie."""
    return camera.rot[:, :2] - camera.rot[:, 2:] * camera.slopes(pixel)


def meet(origins: Sequence[Vector], normals: Sequence[Vector], weights: Sequence[Vector]) -> Vector:
    """Return the point (3,) closest to pairs of planes with an origin (3,) and weights (2,)."""
    square, right = np.zeros((3, 3)), np.zeros(3)
    for origin, normal, weight in zip(origins, normals, weights, strict=True):
        weighted = normal * weight
        square += weighted @ normal.T
        right += weighted @ (origin @ normal)
    return np.linalg.solve(square, right).astype(np.float64, copy=False)


def on_plane(origin: Vector, ray: Vector, height: float) -> Vector:
    """Return where a ray that looks down meets the plane z = height, shape (3,)."""
    return origin + ray * ((height - origin[2]) / min(ray[2], -1e-3))


def rest_height(item: Item) -> float:
    """Return the height of an item's centre when it lies on the table, metres."""
    return 0.5 * CUBE_EDGE if item.kind == "cube" else 0.0


def cube_pixels(camera: CameraModel, pos: Vector) -> float:
    """Return how many pixels a camera should see of a whole cube at a position."""
    depth = max(0.05, float((pos - camera.pos) @ camera.rot[:, 2]))
    # A convex body shows a quarter of its surface on average over all directions.
    return 1.5 * CUBE_EDGE**2 * camera.fx * camera.fy / depth**2


def extent_share(sight: Sight, pos: Vector) -> Vector:
    """Return the seen shares (2,), up to 1, of the width and height a cube there would have."""
    gap = pos - sight.camera.pos
    depth = max(0.05, float(gap @ sight.camera.rot[:, 2]))
    down = abs(float(gap[2])) / math.sqrt(float(gap @ gap))
    tall = _MEAN_WIDTH * down + math.sqrt(1.0 - down * down)
    expected = np.array([sight.camera.fx * _MEAN_WIDTH, sight.camera.fy * tall]) * (
        CUBE_EDGE / depth
    )
    return np.minimum(1.0, sight.size / expected)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How a fixed item at `pos` would look to one camera."""

    pos: Vector
    shift: Vector
    """From the centroid of its silhouette to its centre, pixels, shape (2,)."""
    area: float


def look_of(camera: CameraModel, outline: Vector, pos: Vector) -> Look:
    """Return how an outline (n, 3) at a position would look to a camera."""
    pixels = camera.project(np.concatenate([outline + pos, pos[None]]))[0]
    moments = cv2.moments(cv2.convexHull(pixels[:-1].astype(np.float32)))
    area = max(float(moments["m00"]), 1.0)
    return Look(pos, pixels[-1] - np.array([moments["m10"], moments["m01"]]) / area, area)


def outline(item: Item) -> Vector:
    """Return points whose convex hull is the item about its centre, shape (n, 3), metres."""
    turn = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn), np.zeros(16)], axis=-1)
    up = np.array([0.0, 0.0, 1.0])
    if item.kind == "bowl":
        foot = ring * (BOWL_RADIUS + BOWL_WALL[0])
        return np.concatenate([foot, foot + up * BOWL_WALL[1]])
    if item.kind == "marker":
        return ring * MARKER_RADIUS
    side = ring * (_MEAN_WIDTH / 2.0 * CUBE_EDGE)
    return np.concatenate([side - up * CUBE_EDGE / 2, side + up * CUBE_EDGE / 2])
