"""Which pairs of a run's episodes people are asked about: those on which models disagree."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from rewarder.pair_judges import better
from rewarder.pairs import (
    DEAD_BAND,
    FILE,
    BadPairs,
    Comparison,
    Pair,
    PairLabel,
    append_pairs,
    candidate_pairs,
    disagreement,
    needs_person,
    read_pairs,
    said_by,
)
from rewarder.preference import ABOUT, PreferenceReward, Rows, chances, spread
from rewarder.reward import NoScore, clip_of
from rl.label import load_score
from rl.run_folder import RunFolder
from robot.journal import read_episode
from robot.sealed import Damaged, seal
from robot.vision import load_cameras

QUESTIONS, ENSEMBLE = "pair_questions.jsonl", "preference"
"""Within a run's folder: the pairs that people are asked about, and what
`make train-preference RUN=… OUT=RUN/preference` wrote."""
CANDIDATES = 4
"""So many pairs are looked at for each that people are to be asked about."""
AUDIT = 0.1
"""Share of the questions that are about pairs on which the models agree: or nobody would know
where all of them err."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What people are asked about."""

    pairs: Sequence[Pair]
    decided: int
    """Pairs that were looked at just now and left to the models."""


def questions(
    folder: RunFolder,
    goals: Mapping[str, str],
    count: int,
    *,
    seed: int,
    judge: PreferenceReward | None,
) -> Questions:
    """Return up to `count` pairs of episodes to ask people about; `goals` are by episode.

    What was asked about before is asked about again. What the run's own reward says of every pair
    that was looked at goes to the run's `pairs.jsonl`.
    """
    before = _read(folder.path / QUESTIONS)
    missing = max(0, count - len(before))
    if not missing:
        return Questions(pairs=before[:count], decided=0)
    known = [label.pair for label in read_pairs(folder.path / FILE)]
    rng = np.random.default_rng((seed, len(known)))
    looked = candidate_pairs(goals, CANDIDATES * missing, rng, without=[*known, *before])
    said = {label.pair: (label, comparison) for label, comparison in compared(folder, looked)}
    clips = {} if judge is None else dict(_seen(folder, looked, judge))
    pairs = [p for p in said if judge is None or {p.first, p.second} <= clips.keys()]
    odds = _odds(pairs, clips, judge)
    order = most_disputed([said[pair][1] for pair in pairs], odds)
    split = [row for row in order if needs_person([said[pairs[row]][1]], odds[:, row])]
    agreed = [row for row in rng.permutation(len(pairs)) if row not in set(split)]
    audited = agreed[: round(AUDIT * missing)]
    fresh = [pairs[row] for row in (*split[: missing - len(audited)], *audited)]
    append_pairs(folder.path / FILE, [said[pair][0] for pair in pairs])
    _write(folder.path / QUESTIONS, [*before, *fresh])
    return Questions(pairs=[*before, *fresh], decided=len(agreed) - len(audited))


def most_disputed(said: Sequence[Comparison], odds: Rows) -> list[int]:
    """Return the rows of pairs, those first on which an ensemble's members differ most.

    `odds` have the shape (members, pairs). Without members, those first where the model is least
    sure.
    """
    if len(odds):
        return [int(row) for row in np.argsort(-disagreement(odds), kind="stable")]
    sure = np.array([abs(comparison.probability - 0.5) for comparison in said])
    return [int(row) for row in np.argsort(sure, kind="stable")]


def compared(folder: RunFolder, pairs: Sequence[Pair]) -> Iterator[tuple[PairLabel, Comparison]]:
    """Yield what the scores of a run's reward say of pairs: a score alone knows no order."""
    for pair in pairs:
        try:
            one, other = (load_score(folder.labels, name) for name in (pair.first, pair.second))
            chance = better(one, other)
        except (OSError, Damaged, NoScore):
            continue
        side = "first" if chance > 0.5 else "second"
        comparison = Comparison(
            preferred=side if abs(chance - 0.5) > DEAD_BAND else "tie",
            probability=chance,
            forward=chance,
            backward=chance,
        )
        yield said_by(f"score of {one.model}", pair, comparison), comparison


def load_judge(folder: RunFolder, cameras: Path) -> PreferenceReward | None:
    """Return the ensemble that was trained on this run's pairs, if one was."""
    trained = folder.path / ENSEMBLE
    if not (trained / ABOUT).exists():
        return None
    return PreferenceReward(trained, load_cameras(cameras))


def _seen(
    folder: RunFolder, pairs: Sequence[Pair], judge: PreferenceReward
) -> Iterator[tuple[str, Rows]]:
    """Yield the moments of each episode that the ensemble can look at."""
    paths = {path.stem: path for path in folder.episodes()}
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    for name in track(names, "looking at episodes", disable=not sys.stdout.isatty()):
        try:
            rows, valid = judge.seen(clip_of(read_episode(paths[name])))
            yield name, spread(rows, valid, judge.about.horizon)
        except (NoScore, Damaged, OSError):
            continue


def _odds(pairs: Sequence[Pair], clips: Mapping[str, Rows], judge: PreferenceReward | None) -> Rows:
    """Return each member's probability that the first is the better, shape (members, pairs)."""
    if judge is None or not pairs:
        return np.zeros((0, len(pairs)))
    sums = judge.ensemble.sums(np.stack(list(clips.values())))
    at = {name: row for row, name in enumerate(clips)}
    first, second = [at[p.first] for p in pairs], [at[p.second] for p in pairs]
    return chances(sums[:, first], sums[:, second])


def _read(file: Path) -> list[Pair]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    try:
        return [Pair(*(str(word) for word in json.loads(line))) for line in lines]
    except (ValueError, TypeError) as error:
        raise BadPairs(f"{file} holds something else than pairs: {error}") from None


def _write(file: Path, pairs: Sequence[Pair]) -> None:
    lines = [json.dumps([pair.goal, pair.first, pair.second]) + "\n" for pair in pairs]
    seal(file, "".join(lines).encode())
