"""Say which gates the results on file pass: `python -m rl.gates world=twin json=PATH`.

`make gates` measures nothing: it reads what is committed under `docs/`, refuses what does not say
its command, revision and seed, and ends with 0 only where every gate passes in that world. `not
measured` is no pass. `reward=` is the reward that policies were trained by, `docs=` another folder.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl.evaluate import write_json
from rl.evidence import WORLDS, Evidence, read_evidence
from rl.gate_parts import (
    PASS,
    Gate,
    Part,
    first_task,
    latency,
    limits_verified,
    loop_runs,
    three_tasks,
)
from rl.progress import say
from robot.words import UsageError, parse_words

KNOWN = {"world": "twin", "reward": "heuristic", "docs": "docs", "json": ""}
WIDTH = 14
"""Columns of a verdict."""


def gates_of(evidence: Evidence, world: str, reward: str) -> list[Gate]:
    """Return G0 to G3 as they stand in a world, for policies that were trained by a reward."""
    return [
        limits_verified(evidence, world),
        loop_runs(evidence, world),
        first_task(evidence, world, reward),
        three_tasks(evidence, world, reward),
    ]


def text_of(gate: Gate, world: str) -> str:
    """Return a gate as a few lines of text."""
    lines = [f"{gate.verdict:<{WIDTH}}{gate.name:<4} {gate.title} ({world})"]
    for part in gate.parts:
        lines += _lines(part)
    return "\n".join(lines)


def _lines(part: Part) -> list[str]:
    indent = " " * 4
    lines = [f"{indent}{part.verdict:<{WIDTH}}asked: {part.asked}"]
    indent += " " * WIDTH
    if part.sources:
        bounds = "" if part.interval is None else f", 95 %: {_bounds(part)}"
        lines.append(f"{indent}measured: {part.measured}{bounds}, n {part.n:,}")
    lines += [f"{indent}{note}" for note in part.notes]
    return lines + [f"{indent}by: {line}" for line in _commands(part)]


def _bounds(part: Part) -> str:
    low, high = part.interval or (0.0, 1.0)
    if part.unit:
        return f"{low:.2f} to {high:.2f} {part.unit}"
    return f"{low:.2%} to {high:.2%}"


def _commands(part: Part) -> list[str]:
    """Return what measured a part, each command once, the newest files' first three."""
    found = list(dict.fromkeys(f"{s.command}  [{s.revision}, {s.file}]" for s in part.sources))
    rest = len(found) - 3
    return [*found[:3], *([f"and {rest} more"] if rest > 0 else [])]


def json_of(
    gates: Sequence[Gate], kpi: Gate, evidence: Evidence, *, world: str, reward: str
) -> dict[str, object]:
    """Return what is written of the gates."""
    return {
        "world": world,
        "reward": reward,
        "passed": _passed(gates),
        "gates": [_gate(gate) for gate in gates],
        "kpi": _gate(kpi),
        "refused": evidence.refused,
    }


def _gate(gate: Gate) -> Mapping[str, object]:
    parts = [
        {
            "asked": part.asked,
            "measured": part.measured,
            "n": part.n,
            "interval95": part.interval,
            "verdict": part.verdict,
            "notes": list(part.notes),
            "sources": [source.cite() for source in part.sources],
        }
        for part in gate.parts
    ]
    return {"gate": gate.name, "title": gate.title, "verdict": gate.verdict, "parts": parts}


def _passed(gates: Sequence[Gate]) -> bool:
    return all(gate.verdict == PASS for gate in gates)


def main(words: Sequence[str]) -> int:
    """Print the gates of a world and return the exit code."""
    try:
        given = parse_words(words, known=KNOWN)
        docs = _checked(given)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    world, reward = given["world"], given["reward"]
    evidence = read_evidence(docs)
    gates, kpi = gates_of(evidence, world, reward), latency(evidence, world)
    for gate in (*gates, kpi):
        say(f"{text_of(gate, world)}\n")
    for sentence in evidence.refused:
        say(f"refused: {sentence}")
    if given["json"]:
        said = json_of(gates, kpi, evidence, world=world, reward=reward)
        write_json(Path(given["json"]), said)
    return 0 if _passed(gates) else 1


def _checked(given: Mapping[str, str]) -> Path:
    """Return the folder of results; raise `UsageError`."""
    if given["world"] not in WORLDS:
        raise UsageError(f"world={given['world']}; expected one of {', '.join(WORLDS)}")
    docs = Path(given["docs"])
    if not docs.is_dir():
        raise UsageError(f"docs={docs} is no folder; expected one with results/*.json")
    return docs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
