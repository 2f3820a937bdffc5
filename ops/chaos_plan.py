"""What goes wrong when: the same for the same seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

GAP_S = (2.0, 20.0)
"""Between two faults, all arms together."""
MOST_PAUSE_S = 30.0
SETTLE_S = 15.0
"""At the end, without faults: what is broken then stays broken."""
CAMERA_ARM = 0
"""Of all arms the first has cameras: to draw for more takes the cores away from the others."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way in which things go wrong."""

    name: str
    longest_s: float
    """How long it lasts at most; 0 is a moment."""
    weight: float = 1.0


KINDS = (
    Kind("kill -9 policy", 0.0, 2.0),
    Kind("kill -9 arm process", 0.0),
    Kind("kill -9 arm parent", 0.0),
    Kind("SIGSTOP policy", MOST_PAUSE_S),
    Kind("SIGSTOP arm process", MOST_PAUSE_S),
    Kind("TCP cut", 0.0, 2.0),
    Kind("half-open", 0.0),
    Kind("black hole", 10.0),
    Kind("corrupt byte", 0.0, 2.0),
    Kind("1 B/s", 5.0),
    Kind("lost statuses", 3.0),
    Kind("flipped statuses", 3.0),
    Kind("late statuses", 3.0),
    Kind("doubled statuses", 3.0),
    Kind("cable cut", 3.0),
    Kind("unplug", 6.0),
    Kind("heat", 3.0),
    Kind("stall", 3.0),
    Kind("camera freeze", 10.0),
    Kind("camera black", 10.0),
    Kind("camera missing", 10.0),
    Kind("CPU hog", 15.0),
    Kind("disk full", 0.0),
    Kind("kill -9 writer", 0.0, 2.0),
    Kind("stop pressed", 3.0),
    Kind("take-over", 5.0),
)
NOT_TRIED = (
    "a clock step: it would move the clock of the whole machine",
    "swapped cameras: the emulator's are told apart by name",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan."""

    number: int
    at_s: float
    arm: int
    kind: str
    seconds: float
    seed: int

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"fault {self.number} at {self.at_s:.1f} s: {self.kind}{lasting}, arm {self.arm + 1}"


def plan(seed: int, *, minutes: float, arms: int) -> Sequence[Fault]:
    """Return the faults of a run, in order."""
    rng = random.Random(seed)  # noqa: S311 - faults, no secrets
    faults: list[Fault] = []
    at, end = rng.uniform(*GAP_S), max(0.0, 60.0 * minutes - SETTLE_S)
    while at < end:
        kind = rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
        seconds = min(rng.uniform(0.1, kind.longest_s), end - at) if kind.longest_s else 0.0
        arm, own = rng.randrange(arms), rng.randrange(2**31)
        if kind.name.startswith("camera"):
            arm = CAMERA_ARM
        faults.append(Fault(len(faults), round(at, 2), arm, kind.name, round(seconds, 2), own))
        at += rng.uniform(*GAP_S)
    return faults
