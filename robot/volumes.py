"""Where the parts of an arm are against what surrounds it: tool box, arm box, table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints, to_radians
from robot.kinematics import LINKS, TOOL_SITE, forward, frames
from robot.limits import SafetyLimits
from robot.own_links import CARRYING, FOLDING, OwnLinks, link_boxes

type Floats = NDArray[np.float64]
type Bound = tuple[str, str]
"""A rule and what it is about, e.g. `("tool_box", "z")` or `("table", "gripper")`."""

MOVING_LINKS: Final = LINKS[1:]
FINGERS: Final = ("gripper", "moving_jaw")
_GRIPPER = MOVING_LINKS.index("gripper")
_OWN_LINKS: Final = 2 * len(MOVING_LINKS) + 2
_ROWS: Final = _OWN_LINKS + 1
_JAW_ROWS = [
    MOVING_LINKS.index("moving_jaw"),
    len(MOVING_LINKS) + MOVING_LINKS.index("moving_jaw"),
    _OWN_LINKS,
]
_POINTS = Path(__file__).with_name("link_points.npz")


def link_points() -> Mapping[str, tuple[Floats, float]]:
    """Return each moving link's points in its own frame, shape (n, 3), and their margin in metres.

    They are vertices of the convex hull of the link's meshes and collision shapes; the hull sticks
    out of them by the margin at most. Made by `ops/make_link_points.py` from MuJoCo Menagerie's
    SO-101 as so101-nexus ships it (both Apache-2.0).
    """
    with np.load(_POINTS, allow_pickle=False) as stored:
        return {link: (stored[link], float(stored[f"{link}_margin"])) for link in MOVING_LINKS}


class Volumes:
    """How far a pose is outside what is allowed, bound by bound."""

    def __init__(self, limits: SafetyLimits) -> None:
        """Precompute points and bounds."""
        shapes = [link_points()[link] for link in MOVING_LINKS]
        margins = np.array([margin for _, margin in shapes])
        self._points = _padded([points for points, _ in shapes])
        self._corners = _padded([_corners(points, margin) for points, margin in shapes])
        self._own_links = OwnLinks(link_boxes())
        self._tool = np.append(TOOL_SITE, 1.0)
        farthest = np.linalg.norm(self._corners[:, :3], axis=1).max(1)
        self._changes = _changes(farthest, self._own_links.farthest)
        self._reach = self._changes[:_OWN_LINKS].max((0, 1))
        # A joint turns what is beyond it; two of them bend its way by the nearer one's reach.
        self._levers = self._reach - np.append(self._reach[1:], 0.0)
        self._radians = to_radians(np.ones(6)) - to_radians(np.zeros(6))
        self._tool_box, self._arm_box = limits.tool_box, limits.arm_box
        table = limits.table_z + _clearances(limits)
        # Of two floors only the higher one can ever be the reason.
        self._on_table = table >= limits.arm_box.lower[2]
        self._floor = (np.maximum(table, limits.arm_box.lower[2]) + margins)[:, None]

    def violations(self, joints: Joints) -> Floats:
        """Return by how much each bound is exceeded, metres, shape (15, n, 3), for joints (n, 6).

        Rows are the six links' lower and upper bounds, then the tool's, then how near the arm's
        own links are to each other; `bound` names an entry. Negative numbers are what is left.
        Heights above the table are exact to the points' margins; against the other sides of the
        arm box a link counts as the box around it.
        """
        links = frames(joints)  # (6, n, 3, 4)
        found = np.empty((_ROWS, len(joints), 3))
        # Reducing along the first axis of an array is what numpy does fastest.
        corners = np.empty((8, *links.shape[:3]))
        by_link = corners.reshape(8, len(links), -1).transpose(1, 2, 0)
        np.matmul(links.reshape(len(links), -1, 4), self._corners, out=by_link)
        np.subtract(self._arm_box.lower, corners.min(0), out=found[:6])
        np.subtract(corners.max(0), self._arm_box.upper, out=found[6:12])
        lowest = (links[:, :, 2] @ self._points).min(-1)
        np.subtract(self._floor, lowest, out=found[:6, :, 2])
        tool = links[_GRIPPER] @ self._tool
        np.subtract(self._tool_box.lower, tool, out=found[12])
        np.subtract(tool, self._tool_box.upper, out=found[13])
        found[_OWN_LINKS] = self._own_links.violations(links)
        return found

    def change(self, change: Joints) -> Floats:
        """Return how much `violations` can change at most, (15, 3), when joints do by `change`."""
        return self._changes @ (np.abs(change) * self._radians)

    def bend(self, change: Joints) -> float:
        """Return how much any point's way may bend when joints move evenly by `change`, (6,).

        It bounds the second derivative by the share of the way, metres: along it no entry of
        `violations` exceeds the straight line between its ends by more than an eighth of this; of
        those of the arm's own links, whose clearance is for that, it bounds no more than the way.
        """
        turned = np.cumsum(np.abs(change) * self._radians)
        return float(self._levers @ (turned * turned))

    def jaw_is_free(self, violations: Floats, change: float) -> bool:
        """Return whether the gripper may surely move by `change` from a pose, shape (15, 3)."""
        swing = self._reach[-1] * self._radians[-1] * abs(change)
        return bool((violations[_JAW_ROWS] <= -swing).all())

    def bound(self, row: int, axis: int) -> Bound:
        """Return what an entry of `violations` is about."""
        if row == _OWN_LINKS:
            return "own_links", FOLDING[axis]
        if row >= 2 * len(MOVING_LINKS):
            return "tool_box", "xyz"[axis]
        link = row % len(MOVING_LINKS)
        if axis == 2 and row < len(MOVING_LINKS) and self._on_table[link]:
            return "table", MOVING_LINKS[link]
        return "arm_box", MOVING_LINKS[link]


def _clearances(limits: SafetyLimits) -> Floats:
    return np.array(
        [
            limits.finger_clearance if link in FINGERS else limits.link_clearance
            for link in MOVING_LINKS
        ]
    )


def _padded(shapes: Sequence[Floats]) -> Floats:
    """Return homogeneous points by column, shape (link, 4, most); fewer points are repeated."""
    most = max(len(points) for points in shapes)
    padded = np.ones((len(shapes), 4, most))
    for row, points in zip(padded, shapes, strict=True):
        row[:3] = points[np.arange(most) % len(points)].T
    return padded


def _corners(points: Floats, margin: float) -> Floats:
    """Return the corners, shape (8, 3), of the box around points and their margin."""
    sides = np.array([points.min(0) - margin, points.max(0) + margin])
    ends = np.array(list(np.ndindex(2, 2, 2)))
    return sides[ends, np.arange(3)]


def _changes(farthest: Floats, own_farthest: Floats) -> Floats:
    """Return how much each entry of `violations` changes per radian of each joint, (15, 3, 6).

    At most, and in any pose: a point moves by no more than its distance from the joint, which is
    no more than the way along the links between. `farthest` says how far a link's points are from
    its own joint, shape (6,), `own_farthest` the same of the boxes that must not touch.
    """
    origins = forward(np.zeros(6)).pos[1:]
    steps = np.linalg.norm(np.diff(origins, axis=0), axis=1)
    along = np.append(0.0, np.cumsum(steps))
    away = np.abs(along[:, None] - along)  # (link, joint)
    changes = np.zeros((_ROWS, 3, len(MOVING_LINKS)))
    links = np.tril(farthest[:, None] + away)
    changes[:6] = changes[6:12] = links[:, None]
    changes[12:14] = np.tril(np.linalg.norm(TOOL_SITE) + away)[_GRIPPER]
    # The first joint's axis is upright.
    changes[:_OWN_LINKS, 2, 0] = 0.0
    # Seen from either of two links, the other turns about the joints between.
    own = own_farthest[:, None] + away
    back = own[: len(CARRYING)].max(0)
    for axis, link in enumerate(FOLDING):
        first = MOVING_LINKS.index(link)
        last = len(MOVING_LINKS) if first == _GRIPPER else first + 1
        changes[_OWN_LINKS, axis, 1:last] = np.maximum(back, own[first:last].max(0))[1:last]
    return changes
