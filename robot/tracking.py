"""Where the objects are: coloured blobs of several cameras, made into positions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robot.scene import Item, Layout
from robot.sights import (
    Look,
    Sight,
    cube_pixels,
    extent_share,
    largest_blob,
    look_of,
    meet,
    on_plane,
    outline,
    planes,
    rest_height,
)
from robot.vision import (
    HSV_RANGES,
    CameraModel,
    HsvRanges,
    Image,
    Vector,
    colour_mask,
    frame_fault,
    to_hsv,
)

WHOLE = 0.92
"""Share of the expected pixels under which something hides a part of the blob."""
USEFUL = (0.08, 3.0)
"""Shares of the expected pixels outside of which a blob is something else, or too little."""
RAYS_MEET = 0.025
"""Farthest, metres, that two cameras' rays to one object may pass from where they all meet."""
AS_CLEAR = 0.96
"""Share of a camera's best view of a fixed place from which a view replaces it."""
FORGET = 0.999
"""How the best view counts a frame later: what was knocked never looks quite the same again."""
MOVED = 0.02
"""Metres from which a view slightly worse than the best shows a place that was knocked."""
STILL_CLEAR = 0.9
"""Share of the best view that it takes for that."""
SAME_LOOK = 0.004
"""Metres within which the shape of a fixed item's silhouette is taken to be the same."""
START = (0.22, 0.0)
"""Where an object that was never seen is assumed to be: the middle of the workspace."""
CERTAINTY = 8
"""Power of the seen share of an extent with which a partly hidden cube's column or row counts."""
_EVEN = np.ones(2)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Where something is believed to be."""

    pos: Vector
    """Centre (bowl: of its floor), metres in the base frame, shape (3,); where it was last seen."""
    seen: bool
    """Whether the newest pictures show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """Everything the tracker knows of the table."""

    thing: Estimate
    place: Estimate | None


class Tracker:
    """Follows the thing and the place of one layout through the pictures of fixed cameras."""

    def __init__(
        self,
        cameras: Mapping[str, CameraModel],
        layout: Layout,
        *,
        ranges: HsvRanges = HSV_RANGES,
    ) -> None:
        """Look for the items of `layout` with these cameras and colour ranges."""
        if not cameras:
            raise ValueError("a tracker needs at least one camera")
        if layout.place is not None and layout.place.colour == layout.thing.colour:
            raise ValueError(
                f"{layout.thing} and {layout.place} have one colour: no mask tells them apart"
            )
        self._cameras = dict(cameras)
        self._layout = layout
        self._ranges = ranges
        self.reset()

    def reset(self) -> None:
        """Forget everything seen."""
        thing, place = self._layout.thing, self._layout.place
        self._thing = _Follower(thing) if thing.kind == "cube" else _FixedFollower(thing)
        self._place = None if place is None else _FixedFollower(place)

    def update(self, images: Mapping[str, Image]) -> Estimates:
        """Return where things are after the newest RGB pictures (height, width, 3), by camera.

        Pictures that are missing, black, over-exposed, blurred or of another size are left out.
        """
        hsv = {
            name: to_hsv(images[name])
            for name, camera in self._cameras.items()
            if name in images and usable(camera, images[name])
        }
        thing = self._follow(self._thing, hsv)
        place = None if self._place is None else self._follow(self._place, hsv)
        return Estimates(thing=thing, place=place)

    def _follow(self, follower: "_Follower", hsv: Mapping[str, Image]) -> Estimate:
        """Return where an item is after the newest HSV pictures."""
        ranges = self._ranges[follower.item.colour]
        found = (
            largest_blob(self._cameras[name], colour_mask(image, ranges))
            for name, image in hsv.items()
        )
        return follower.update([sight for sight in found if sight is not None])


def usable(camera: CameraModel, image: Image) -> bool:
    """Return whether a picture is the camera's and fit to look at."""
    return image.shape == (camera.height, camera.width, 3) and frame_fault(image) is None


class _Follower:
    """Follows something that is moved about: a cube."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self._pos = np.array([*START, rest_height(item)])

    def update(self, sights: Sequence[Sight]) -> Estimate:
        """Return where it is after the newest sights."""
        pos = self._locate(sights)
        if pos is not None:
            self._pos = pos
        return Estimate(self._pos, pos is not None)

    def _locate(self, sights: Sequence[Sight]) -> Vector | None:
        """Return its position, or None if no camera sees enough of it."""
        if not sights:
            return None
        guess = self._join(sights, [sight.pixel for sight in sights], [_EVEN] * len(sights))
        shares = [sight.area / cube_pixels(sight.camera, guess) for sight in sights]
        if min(shares) >= WHOLE and max(shares) <= USEFUL[1]:
            return guess
        used = [i for i, share in enumerate(shares) if USEFUL[0] <= share <= USEFUL[1]]
        if not used:
            return None
        kept = [sights[i] for i in used]
        whole = [shares[i] >= WHOLE for i in used]
        # A finger in front of the cube mostly leaves its outer edges: their middle errs less.
        pixels = [
            sight.pixel if full else sight.middle for sight, full in zip(kept, whole, strict=True)
        ]
        weights = [
            _EVEN if full else extent_share(sight, guess) ** CERTAINTY
            for sight, full in zip(kept, whole, strict=True)
        ]
        return self._join(kept, pixels, weights)

    def _join(
        self, sights: Sequence[Sight], pixels: Sequence[Vector], weights: Sequence[Vector]
    ) -> Vector:
        """Return where the sights meet; a lone one meets the plane of the last known height."""
        origins = [sight.camera.pos for sight in sights]
        if len(sights) > 1:
            normals = [
                planes(sight.camera, pixel) for sight, pixel in zip(sights, pixels, strict=True)
            ]
            pos = meet(origins, normals, weights)
            misses = [
                (pos - origin) @ normal for origin, normal in zip(origins, normals, strict=True)
            ]
            if np.abs(misses).max() <= RAYS_MEET:
                return pos
        height = float(self._pos[2])
        grounds = [
            on_plane(sight.camera.pos, sight.camera.ray(pixel), height)
            for sight, pixel in zip(sights, pixels, strict=True)
        ]
        # Cameras that contradict each other: believe the one that agrees with the past.
        return min(grounds, key=lambda ground: _apart(ground, self._pos))


class _View:
    """What one camera knows of a fixed item."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.share = 0.0
        """Of the expected pixels, in its best view so far."""
        self.ground = look.pos
        """Where it was in that view."""


class _FixedFollower(_Follower):
    """Follows something that stays where it is unless it is knocked: a bowl, a marker.

    Each camera remembers where it was in its best view of it, so that an arm in front, or a cube
    inside a bowl, moves nothing.
    """

    def __init__(self, item: Item) -> None:
        super().__init__(item)
        self._outline = outline(item)
        self._views: dict[str, _View] = {}

    def _locate(self, sights: Sequence[Sight]) -> Vector | None:
        """Return its position by the best views, or None if no camera sees enough of it."""
        shares = [self._view(sight) for sight in sights]
        if not any(USEFUL[0] <= share <= USEFUL[1] for share in shares):
            return None
        known = [view for view in self._views.values() if view.share > 0.0]
        total = sum(view.share for view in known)
        return sum((view.ground * (view.share / total) for view in known), np.zeros(3))

    def _view(self, sight: Sight) -> float:
        """Remember a view if it is the camera's best; return the share of the item it shows."""
        name = sight.camera.name
        if name not in self._views:
            self._views[name] = _View(look_of(sight.camera, self._outline, self._pos))
        view = self._views[name]
        ground, share = self._measure(sight, view)
        view.share *= FORGET
        if not USEFUL[0] <= share <= USEFUL[1]:
            return share
        knocked = share >= STILL_CLEAR * view.share > 0.0 and _apart(ground, view.ground) > MOVED
        if knocked:
            self._views = {name: view}
        if knocked or share >= AS_CLEAR * view.share:
            view.ground, view.share = ground, share
        return share

    def _measure(self, sight: Sight, view: _View) -> tuple[Vector, float]:
        """Return where on the table a camera sees it, and the share of its pixels that are seen."""
        camera, pos = sight.camera, view.ground
        for _ in range(3):
            pos = on_plane(camera.pos, camera.ray(sight.pixel + view.look.shift), float(pos[2]))
            if _apart(view.look.pos, pos) <= SAME_LOOK:
                break
            view.look = look_of(camera, self._outline, pos)
        return pos, sight.area / view.look.area


def _apart(one: Vector, other: Vector) -> float:
    """Return the largest difference of two positions along an axis, metres."""
    return float(np.abs(one - other).max())
