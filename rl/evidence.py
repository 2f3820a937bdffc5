"""Results on file, and whether each says enough of itself to count as evidence."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

WORLDS = ("twin", "emulated", "bench")
WORLD_OF = {
    **{"stiff": "twin", "compliant": "twin", "twin": "twin"},
    **{"emulated": "emulated", "real": "bench"},
}
"""In which world a twin's preset, or the kind of an arm, is."""
SAFETY, SERVING = "safety.json", "bench_serve.json"

type Content = Mapping[str, Any]


class NoEvidence(Exception):
    """A result that does not say where it comes from, and which word it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One result on file."""

    file: str
    command: str
    revision: str
    seed: str
    """The seed, or the digest of the fixed set of clips that was judged."""
    content: Content

    def cite(self) -> dict[str, str]:
        """Return where it comes from, as JSON has it."""
        names = ("file", "command", "revision", "seed")
        return {name: str(getattr(self, name)) for name in names}


@dataclass(slots=True, kw_only=True)
class Evidence:
    """All results of a folder that count, by what they are of, and why others do not."""

    results: list[Record] = field(default_factory=list[Record])
    """Evaluations: `results/*.json`."""
    safety: list[Record] = field(default_factory=list[Record])
    """Rows of `safety.json`."""
    streams: list[Record] = field(default_factory=list[Record])
    """Served policies on arms: `rtc*.json`."""
    agreements: list[Record] = field(default_factory=list[Record])
    """Rewards beside labels: `agreement*.json`."""
    serving: list[Record] = field(default_factory=list[Record])
    """The policy server beside others: `bench_serve.json`."""
    refused: list[str] = field(default_factory=list[str])
    """A sentence for each result that cannot count."""
    refused_files: set[str] = field(default_factory=set[str])


def read_evidence(docs: Path) -> Evidence:
    """Return the results of a folder such as `docs`."""
    found = Evidence()
    for kept, pattern in (
        (found.results, "results/*.json"),
        (found.safety, SAFETY),
        (found.streams, "rtc*.json"),
        (found.agreements, "agreement*.json"),
        (found.serving, SERVING),
    ):
        for path in sorted(docs.glob(pattern)):
            _keep(found, kept, path, path.relative_to(docs.parent).as_posix())
    return found


def record_of(file: str, content: Content | str) -> Record:
    """Return a result with where it comes from; raise `NoEvidence` where it does not say.

    A sentence in place of a result says why there is none.
    """
    if isinstance(content, str):
        raise NoEvidence(content)
    said = {**content, **_mapping(content.get("circumstances"))}
    revision = _first(said, "evaluated_revision", "git_revision", "revision")
    seed = _first(said, "seed", "set_frozen")
    words = {"command": _first(said, "command"), "revision": revision, "seed": seed}
    lacking = [name for name, value in words.items() if value in ("", "unknown")]
    if lacking:
        raise NoEvidence(f"does not say its {' and its '.join(lacking)}")
    return Record(file=file, content=content, **words)


def _keep(found: Evidence, kept: list[Record], path: Path, file: str) -> None:
    """Add what a file holds; a refusal is told once a file and reason, with how often."""
    why: dict[str, int] = {}
    for content in _contents(path):
        try:
            kept.append(record_of(file, content))
        except NoEvidence as error:
            why[str(error)] = why.get(str(error), 0) + 1
    for reason, count in why.items():
        times = f" ({count} rows)" if count > 1 else ""
        found.refused.append(f"{file} {reason}{times}: no evidence; measure it again")
        found.refused_files.add(path.name)


def _contents(path: Path) -> Iterator[Content | str]:
    """Yield the results of a file, or a sentence where there is none to be had."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield f"cannot be read ({error})"
        return
    for one in cast("list[object]", value) if isinstance(value, list) else [value]:
        yield cast("Content", one) if isinstance(one, dict) else "holds no JSON object"


def _first(said: Content, *names: str) -> str:
    found = (said[name] for name in names if said.get(name) is not None)
    return str(next(found, ""))


def _mapping(value: object) -> Content:
    return cast("Content", value) if isinstance(value, dict) else {}
