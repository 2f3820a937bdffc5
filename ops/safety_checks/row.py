"""One promise and what was measured of it, and the verdict that so many trials allow."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

COLUMNS = ("id", "promise", "asked", "measured", "n (3/n)", "the rig's own noise", "verdict")
MOST_EXAMPLES = 5
"""Failures that a row keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    id: str
    """Of the promise: `S1` to `S12`, `R1` to `R8`, `N1` and `N2`."""
    promise: str
    asked: str
    """The number that was promised."""
    measured: str
    trials: int
    """n: how often it was tried."""
    full: int
    """How often it has to be tried before it may be said to hold."""
    broken: int
    """Trials in which it did not hold."""
    how: str
    """How it was measured, a sentence."""
    noise: str = "-"
    """What the rig itself adds to the figure."""
    examples: tuple[str, ...] = ()
    """How to see the first failures again."""
    missing: str = ""
    """Why it was not measured, where it was not."""
    circumstances: Mapping[str, object] = field(default_factory=dict[str, object])
    """Seed, revision, machine, command: where the figure comes from."""

    @property
    def verdict(self) -> str:
        """Return `pass` only where it was tried often enough and never broke."""
        if self.broken:
            return "FAIL"
        if self.missing or not self.trials:
            return "not measured"
        return "pass" if self.trials >= self.full else "pass so far"

    @property
    def bound(self) -> str:
        """Return n, and the rate of failures that n trials without one exclude at 95 %."""
        if not self.trials:
            return "0"
        if self.broken:
            return f"{self.trials:,} ({self.broken:,} broken)"
        return f"{self.trials:,} of {self.full:,} ({3 / self.trials:.1g})"

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the row as the table shows it, in the order of `COLUMNS`."""
        measured = self.missing or self.measured
        return (
            self.id,
            self.promise,
            self.asked,
            measured,
            self.bound,
            self.noise,
            self.verdict,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the row as it is stored, verdict included."""
        return {**asdict(self), "verdict": self.verdict}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return a stored row; raise `ValueError` where something is missing."""
        names = {name.name for name in fields(cls)}
        if set(stored) - {"verdict"} != names:
            odd = ", ".join(sorted((set(stored) - {"verdict"}) ^ names))
            raise ValueError(f"a row of results lacks or exceeds: {odd}; measure it again")
        kept: dict[str, Any] = {name: stored[name] for name in names}
        kept["examples"] = tuple(kept["examples"])
        return cls(**kept)


def not_measured(row_id: str, promise: str, asked: str, *, why: str) -> Row:
    """Return the row of a promise that could not be tried here."""
    return Row(
        id=row_id,
        promise=promise,
        asked=asked,
        measured="-",
        trials=0,
        full=0,
        broken=0,
        how="-",
        missing=f"not measured: {why}",
    )


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    ranked = sorted(values)
    rank = max(0, min(len(ranked) - 1, -int(-share * len(ranked) // 1) - 1))
    return ranked[rank]


def spread(values: list[float], *, scale: float = 1e3, unit: str = "ms") -> str:
    """Return median, p99.9 where there are enough values for one, and the greatest."""
    if not values:
        return "-"
    parts = [f"p50 {scale * percentile(values, 0.5):.1f}"]
    if len(values) >= 1000:
        parts.append(f"p99.9 {scale * percentile(values, 0.999):.1f}")
    parts.append(f"max {scale * max(values):.1f}")
    return ", ".join(parts) + f" {unit}"
