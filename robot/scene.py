"""The tabletop around an arm: what lies on it, putting it back, and the truth about it."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

COLOURS = ("red", "green", "blue")
"""Colours that things and places can have, and that the colour masks tell apart."""

CUBE_EDGE = 0.025
"""Edge of a cube, metres."""
BOWL_RADIUS = 0.05
"""Inner radius of a bowl, metres."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something on the table, by what it looks like."""

    kind: Literal["cube", "bowl", "marker"]
    colour: str

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a scene holds: the thing to be moved and the place where it belongs."""

    thing: Item
    place: Item | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Where everything really is, for evaluation and tests only; metres, base frame."""

    thing: NDArray[np.float64]
    """Centre of the thing, shape (3,)."""
    thing_start: NDArray[np.float64]
    """Centre of the thing when the scene was reset and at rest, shape (3,)."""
    thing_speed: float
    """Metres a second."""
    place: NDArray[np.float64] | None
    """Centre of the place (of a bowl: of its floor), shape (3,)."""
    tool: NDArray[np.float64]
    """Tool centre point, shape (3,)."""
    gripper: float
    """Measured opening, 0 to 100."""
    held: bool
    """Whether both jaws touch the thing."""


class Scene(Protocol):
    """Whoever puts the table in order: the twin, an emulator, or a person at the bench."""

    def reset(self, seed: int) -> None:
        """Lay everything out anew; the same seed gives the same layout."""
        ...

    def truth(self) -> Truth:
        """Return where everything is; raise `NotImplementedError` where nobody can know."""
        ...
