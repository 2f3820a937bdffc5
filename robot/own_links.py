"""How near an arm's links are to each other: what folds must not touch what carries it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robot.kinematics import LINKS

type Floats = NDArray[np.float64]

CLEARANCE: Final = 0.001
"""Metres that are to stay between two links, as between fingers and table."""
FOLDING: Final = ("lower_arm", "wrist", "gripper")
"""The links that can reach the ones that carry them; the moving jaw counts as the gripper's."""
CARRYING: Final = ("shoulder", "upper_arm")

_CORNERS = 2.0 * np.array(list(np.ndindex(2, 2, 2))) - 1.0
_BOXES = Path(__file__).with_name("link_boxes.npz")


class Box(NamedTuple):
    """A box that is fixed to a link."""

    link: int
    """Index among the moving links."""
    frame: Floats
    """The box in the link's frame, shape (4, 4)."""
    half: Floats
    """Half its sides, metres, shape (3,)."""


def link_boxes() -> list[Box]:
    """Return the boxes that the moving links consist of.

    They are the collision shapes of MuJoCo Menagerie's SO-101 as so101-nexus ships it (both
    Apache-2.0), with its wrist camera's mount; the fixed finger's and the moving jaw's small shapes
    are one box each. Made by `ops/make_link_points.py`.
    """
    with np.load(_BOXES, allow_pickle=False) as stored:
        rows = zip(stored["link"].tolist(), stored["frame"], stored["half"], strict=True)
        return [Box(*row) for row in rows]


class OwnLinks:
    """Tells by how much an arm's own links are too near to each other."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        """Pair each box that carries with each that can fold onto it."""
        names = [LINKS[1:][box.link] for box in boxes]
        groups = ["gripper" if name == "moving_jaw" else name for name in names]
        pairs = [
            (carrying, folding)
            for folding, group in enumerate(groups)
            for carrying, name in enumerate(names)
            if group in FOLDING
            and name in CARRYING
            and boxes[folding].link > boxes[carrying].link + 1
        ]
        # By what folds, so that each of the three is one slice of the pairs.
        pairs.sort(key=lambda pair: FOLDING.index(groups[pair[1]]))
        self._starts = [
            min(row for row, pair in enumerate(pairs) if groups[pair[1]] == link)
            for link in FOLDING
        ]
        self._links = [box.link for box in boxes]
        self._frames = np.array([box.frame for box in boxes])[:, None]
        self._one, self._other = np.array(pairs).T
        self._halves = np.array([box.half for box in boxes])[:, None]
        self.farthest = _farthest(boxes)
        """How far from a moving link's origin its boxes reach, metres, shape (6,)."""
        around = np.linalg.norm(self._halves, axis=-1)
        self._near = around[self._one] + around[self._other]

    def violations(self, links: Floats) -> Floats:
        """Return by how much each of `FOLDING` is too near to what carries it, metres, (n, 3).

        `links` are the moving links' frames, shape (6, n, 3, 4). Two boxes are as far apart as the
        farthest of their six face directions says (Gottschalk, Lin and Manocha, 1996): that two
        edges alone may keep them apart is left out, which errs towards too near, by millimetres.
        Boxes whose bounding spheres are apart all along are as far apart as these.
        """
        boxes = links[self._links] @ self._frames  # (box, n, 3, 4)
        middle = boxes[..., 3]
        way = middle[self._other] - middle[self._one]
        apart = np.sqrt(np.einsum("pnx,pnx->pn", way, way)) - self._near
        close = np.flatnonzero(apart.min(1) < CLEARANCE)
        if len(close):
            apart[close] = self._between(boxes, close, way[close])
        return CLEARANCE - np.minimum.reduceat(apart, self._starts).T

    def _between(self, boxes: Floats, pairs: NDArray[np.intp], way: Floats) -> Floats:
        """Return the gaps of some pairs whose middles are `way` apart, metres, shape (pair, n)."""
        one, other = self._one[pairs], self._other[pairs]
        axes, other_axes = boxes[one, ..., :3].swapaxes(-1, -2), boxes[other, ..., :3]
        half, other_half = self._halves[one], self._halves[other]
        turn = np.abs(axes @ other_axes)
        return np.maximum(
            _apart(axes, way, turn, half, other_half),
            _apart(other_axes.swapaxes(-1, -2), way, turn.swapaxes(-1, -2), other_half, half),
        )


def _farthest(boxes: Sequence[Box]) -> Floats:
    farthest = np.zeros(len(LINKS) - 1)
    for box in boxes:
        corners = box.frame[:3, 3] + (_CORNERS * box.half) @ box.frame[:3, :3].T
        farthest[box.link] = max(farthest[box.link], np.linalg.norm(corners, axis=1).max())
    return farthest


def _apart(axes: Floats, way: Floats, turn: Floats, half: Floats, other_half: Floats) -> Floats:
    """Return the widest gap along three faces, their normals the rows of `axes`, (pair, n)."""
    along = np.abs(axes @ way[..., None])[..., 0]
    gap: Floats = along - half - (turn @ other_half[..., None])[..., 0]
    return gap.max(-1)
