"""In what a simulated arm and its table may differ from the nominal ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import cast

import numpy as np


def _expected(name: str, value: float) -> str | None:
    """Return what was expected in place of a value, None where it will do."""
    if name == "delay_s":
        return None if math.isfinite(value) else "of seconds"
    if name in ("dropped", "shade"):
        return None if 0.0 <= value < 1.0 else "of 0 or more and below 1"
    if _NEUTRAL[name]:
        return None if 0.0 < value < math.inf else "above 0"
    return None if 0.0 <= value < math.inf else "of 0 or more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """In what a twin differs from the nominal one; whatever is not named stays as it is."""

    light: float = 1.0
    """Share of the light of all lamps."""
    shade: float = 0.0
    """By this share every colour's red, green and blue are more or less, whichever is drawn."""
    camera_m: float = 0.0
    camera_deg: float = 0.0
    """How far each camera was moved and turned; a scene draws the directions."""
    friction: float = 1.0
    """Share of the friction between things that touch."""
    joint_friction: float = 1.0
    """Share of the joints' dry friction and damping."""
    stiffness: float = 1.0
    """Share of the servos' position gain."""
    weight: float = 1.0
    """Share of what the links weigh, and so of how far they sag; their inertia stays."""
    backlash_deg: float = 0.0
    """Play that is added between servo and link, degrees from end to end."""
    delay_s: float = 0.0
    """What each command takes longer; below 0 less, down to none at all."""
    jitter_s: float = 0.0
    """What a command may take longer still, up to this, each another time; none overtakes."""
    smoothing_s: float = 0.0
    """Time constant with which the servos' goals follow the commands."""
    dropped: float = 0.0
    """Share of frames in whose place the camera gives the one before, with its stamp."""

    def __post_init__(self) -> None:
        for name in _NEUTRAL:
            value = float(getattr(self, name))
            expected = _expected(name, value)
            if expected:
                raise ValueError(f"{name} is {value}; expected a number {expected}")

    def plus(self, other: "Perturbation") -> "Perturbation":
        """Return both at once: shares are multiplied, the rest is added."""
        mine, others = _values(self), _values(other)
        return Perturbation(
            **{
                name: mine[name] * others[name] if neutral else mine[name] + others[name]
                for name, neutral in _NEUTRAL.items()
            }
        )


_NEUTRAL: Mapping[str, float] = {
    field.name: float(cast("float", field.default)) for field in fields(Perturbation)
}
NOMINAL = Perturbation()
LEAST_ARM = Perturbation(stiffness=0.7, weight=0.7, joint_friction=0.5, delay_s=-0.04)
MOST_ARM = Perturbation(
    stiffness=1.3,
    weight=1.3,
    joint_friction=1.5,
    backlash_deg=1.0,
    delay_s=-0.01,
    jitter_s=0.01,
    smoothing_s=0.02,
    dropped=0.15,
)
"""Between these an arm is drawn. With the compliant preset and the delay of a varied table its
commands take 20 to 80 ms. Of arms later by another 10 ms 2 of 100 do not get to their start: the
guard holds back a command that is far ahead of its joint."""


def drawn_arm(rng: np.random.Generator, strength: float) -> Perturbation:
    """Return an arm between `LEAST_ARM` and `MOST_ARM`, brought near the nominal by `strength`."""
    least, most = _values(LEAST_ARM), _values(MOST_ARM)
    drawn = {name: float(rng.uniform(least[name], most[name])) for name in _NEUTRAL}
    return Perturbation(
        **{name: mean + strength * (drawn[name] - mean) for name, mean in _NEUTRAL.items()}
    )


def _values(one: Perturbation) -> dict[str, float]:
    return {name: float(getattr(one, name)) for name in _NEUTRAL}
