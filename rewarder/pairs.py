"""Pairs of clips of one goal: which of the two went better, by whom it was said, and what to ask.

What was said is kept as JSON lines, `pairs.jsonl` of a run's folder, and nothing is ever replaced:

    {"goal": "Lift the red cube.", "first": "000012-5e0c1f7a", "second": "000031-9b2d44c0",
     "preferred": "first", "by": "anna", "person": true, "probability": 1.0,
     "at": "2026-11-22T10:00:00+00:00"}

`first` and `second` are names of the run's episodes, `preferred` is `first`, `second`, `tie` or,
where a person passed the pair over, null; `probability` is the one that `first` is the better, and
`by` is a model or, where `person` is true, a rater. What somebody says later of the same pair
replaces what they said before (`newest`).
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewarder.reward import Clip, NoScore

FILE = "pairs.jsonl"
DEAD_BAND = 0.1
"""Probabilities nearer than this to even odds prefer neither: serving stacks differ by as much."""

type Preferred = Literal["first", "second", "tie"]
_SHARES: dict[Preferred, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}


class BadPairs(ValueError):
    """A file of pairs that cannot be read."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two clips of one goal, by name."""

    goal: str
    first: str
    second: str

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError(f"a pair needs two clips, {self.first} is one")

    @property
    def mirrored(self) -> Self:
        """Return the pair the other way round."""
        return type(self)(self.goal, self.second, self.first)

    @property
    def key(self) -> frozenset[str]:
        """Return what both ways round have in common."""
        return frozenset((self.first, self.second))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLabel:
    """What somebody said of a pair."""

    pair: Pair
    preferred: Preferred | None
    """None where a person could not or would not tell: it counts for nothing."""
    by: str
    """Name of the model or of the rater."""
    person: bool
    probability: float
    """That the first is the better, as `by` sees it."""
    at: str
    """UTC, ISO 8601."""

    @classmethod
    def of_person(cls, pair: Pair, preferred: Preferred | None, rater: str) -> Self:
        """Return what a person said just now."""
        return cls(
            pair=pair,
            preferred=preferred,
            by=rater,
            person=True,
            probability=_SHARES[preferred or "tie"],
            at=_now(),
        )

    @property
    def target(self) -> float:
        """Return the share of the first: 1, 0, or one half for a tie."""
        return _SHARES[self.preferred or "tie"]


class _Line(BaseModel):
    """A `PairLabel` in a file."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    goal: Annotated[str, Field(min_length=1)]
    first: Annotated[str, Field(min_length=1)]
    second: Annotated[str, Field(min_length=1)]
    preferred: Literal["first", "second", "tie"] | None
    by: Annotated[str, Field(min_length=1)]
    person: bool
    probability: Annotated[float, Field(ge=0.0, le=1.0)]
    at: str

    def label(self) -> PairLabel:
        return PairLabel(
            pair=Pair(self.goal, self.first, self.second),
            preferred=self.preferred,
            by=self.by,
            person=self.person,
            probability=self.probability,
            at=self.at,
        )


def append_pairs(file: Path, labels: Iterable[PairLabel]) -> None:
    """Add labels to a file durably: they are on the disk when this returns."""
    lines = [{**asdict(label.pair), **_without_pair(label)} for label in labels]
    with file.open("a+b") as open_file:
        if _torn(open_file.tell(), file):
            open_file.write(b"\n")
        open_file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        open_file.flush()
        os.fsync(open_file.fileno())


def read_pairs(file: Path) -> list[PairLabel]:
    """Return the labels of a file, oldest first; none where there is no file.

    A line that a power cut left half written is passed over; raise `BadPairs` for any other that
    is none.
    """
    texts = file.read_bytes().split(b"\n") if file.is_file() else []
    found = [_read_line(file, number, text) for number, text in enumerate(texts, start=1)]
    return [label for label in found if label is not None]


def newest(labels: Iterable[PairLabel]) -> list[PairLabel]:
    """Return what each said last of each pair, whichever way round it was shown."""
    last = {(label.by, label.person, label.pair.key): label for label in labels}
    return list(last.values())


class PairJudge(Protocol):
    """A model that compares two clips."""

    @property
    def name(self) -> str:
        """Return name and version."""
        ...

    def first_is_better(self, first: Clip, second: Clip) -> float:
        """Return the probability that the first went better; raise `NoScore`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a model says of a pair that it was shown both ways round."""

    preferred: Preferred
    probability: float
    """That the first is the better: the mean of both orders."""
    forward: float
    """The same, asked first-second."""
    backward: float
    """The same, asked second-first."""


def compare(judge: PairJudge, first: Clip, second: Clip) -> Comparison:
    """Ask a model both ways round; where the orders disagree or are in doubt, it is a tie.

    Models favour a side (arXiv 2402.03681). Raise `NoScore` where the goals differ.
    """
    if first.goal != second.goal:
        raise NoScore(f"the clips have two goals, {first.goal!r} and {second.goal!r}; give one")
    forward = judge.first_is_better(first, second)
    backward = 1.0 - judge.first_is_better(second, first)
    if not (0.0 <= forward <= 1.0 and 0.0 <= backward <= 1.0):
        raise NoScore(f"{judge.name} gave {forward} and {1.0 - backward} for probabilities")
    return Comparison(
        preferred=_preferred(forward, backward),
        probability=(forward + backward) / 2,
        forward=forward,
        backward=backward,
    )


def said_by(judge: str, pair: Pair, comparison: Comparison) -> PairLabel:
    """Return a comparison as a label of the model of that name."""
    return PairLabel(
        pair=pair,
        preferred=comparison.preferred,
        by=judge,
        person=False,
        probability=comparison.probability,
        at=_now(),
    )


def candidate_pairs(
    goals: Mapping[str, str],
    count: int,
    rng: np.random.Generator,
    *,
    without: Iterable[Pair] = (),
) -> list[Pair]:
    """Return up to `count` different pairs of clips with one goal, drawn at random.

    `goals` are by clip; which clip is the first is drawn as well.
    """
    known = {pair.key for pair in without}
    names = sorted(goals)
    pairs: list[Pair] = []
    # A draw may hit two goals or a known pair, and there may be no pair left.
    for _ in range(20 * count if len(names) > 1 else 0):
        one, other = (names[int(i)] for i in rng.choice(len(names), 2, replace=False))
        pair = Pair(goals[one], one, other)
        if goals[one] == goals[other] and pair.key not in known:
            pairs.append(pair)
            known.add(pair.key)
        if len(pairs) == count:
            break
    return pairs


def disagreement(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much the members of an ensemble differ on each pair, shape (pairs,).

    `probabilities` that the first is better have the shape (members, pairs). The standard
    deviation over the members picks the pairs that are worth asking about (arXiv 1706.03741).
    """
    return probabilities.std(axis=0)


def needs_person(model: Iterable[Comparison], members: NDArray[np.float64]) -> bool:
    """Return whether a pair goes to a person: only where those who were asked disagree.

    `model` are what models say that compare clips, `members` the probabilities of an ensemble,
    shape (members,), which may be none. A model whose two orders differ disagrees with itself.
    """
    said = list(model)
    if any(comparison.preferred == "tie" for comparison in said):
        return True
    sides = {comparison.probability > 0.5 for comparison in said} | {bool(p > 0.5) for p in members}
    return len(sides) != 1


def _preferred(forward: float, backward: float) -> Preferred:
    if min(forward, backward) > 0.5 + DEAD_BAND:
        return "first"
    if max(forward, backward) < 0.5 - DEAD_BAND:
        return "second"
    return "tie"


def _read_line(file: Path, number: int, text: bytes) -> PairLabel | None:
    if not text.strip():
        return None
    try:
        return _Line.model_validate_json(text).label()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            return None
        where = ".".join(str(part) for part in first["loc"])
        raise BadPairs(f"{file}, line {number}: {where}: {first['msg']}") from None
    except ValueError as error:
        raise BadPairs(f"{file}, line {number}: {error}") from None


def _without_pair(label: PairLabel) -> dict[str, object]:
    names = ("preferred", "by", "person", "probability", "at")
    return {name: getattr(label, name) for name in names}


def _torn(size: int, file: Path) -> bool:
    """Return whether a file ends within a line."""
    if not size:
        return False
    with file.open("rb") as open_file:
        open_file.seek(-1, os.SEEK_END)
        return open_file.read() != b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
