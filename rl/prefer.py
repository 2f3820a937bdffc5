"""Teach a run's policy by pairs of its episodes: `make prefer RUN=runs/… PAIRS=… OUT=FOLDER`.

`pairs=` is a file of pairs (the run's own `pairs.jsonl` if not said, where `make label RUN=…
PAIRS=40` puts what people and models say), `scores` for what the run's labels say, or `truth` for
what the simulated arm knows of the episodes: a stand-in for people, and named as one. Words:
`base=` (the folder of another policy to begin with, such as `make pretrain` makes), `count=200`
(pairs that `scores` and `truth` give), `updates=300`, `learning_rate=3e-4`, `alpha=0.1`,
`discount=1`, `conservative=0.5`, `keep=0.1`, `relative=1` (see `rl.preference.Contrast`),
`held=0.2` (share of the pairs that nothing is learnt from), `seed=0`.
"""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from policy_server.backends.learned import LearnedPolicy, PolicyDamaged
from policy_server.backends.residual import RECIPE
from policy_server.policy import PolicySpec
from rewarder.bradley_terry import PERSON_WEIGHT
from rewarder.pairs import (
    FILE,
    BadPairs,
    Pair,
    PairLabel,
    Preferred,
    candidate_pairs,
    newest,
    read_pairs,
)
from rl.bc import steps_of, write_policy
from rl.command_line import find_run
from rl.evaluate import RUNS, circumstances, write_json
from rl.label_pairs import compared
from rl.preference import Contrast, Learnt, Ranked, actor_of, prefer
from rl.progress import say
from rl.run_folder import RunFolder
from rl.run_record import BadRun, read_json, read_run
from rl.statistics import wilson
from robot.journal import Episode, EpisodeInfo, read_episode
from robot.sealed import Damaged
from robot.words import UsageError, parse_words

TRUTH, SCORES = "truth", "scores"
BY_TRUTH = "ground truth of the twin"
TELLS_S = 0.5
"""By so much one success has to be sooner than another to be the better."""
FEWEST_PAIRS = 5
TRIES = 10
"""So many pairs are looked at for each that is asked for: many are ties."""
NUMBERS = ("learning_rate", "alpha", "discount", "conservative", "keep", "held")
WORDS = {
    "run": "",
    "pairs": "",
    "out": "",
    "base": "",
    "count": "200",
    "updates": "300",
    "learning_rate": "3e-4",
    "alpha": "0.1",
    "discount": "1",
    "conservative": "0.5",
    "keep": "0.1",
    "relative": "1",
    "held": "0.2",
    "seed": "0",
}


def labels_of(folder: RunFolder, pairs: str, *, count: int, seed: int) -> list[PairLabel]:
    """Return what somebody said of pairs of a run's episodes; ties are left out.

    Raise `UsageError` where there is nothing to learn from, `BadPairs` for a damaged file.
    """
    if pairs in (TRUTH, SCORES):
        found = _drawn(folder, pairs, count=count, seed=seed)
    else:
        file = Path(pairs) if pairs else folder.path / FILE
        if not file.is_file():
            raise UsageError(
                f"there are no pairs in {file}; make label RUN={folder.path} PAIRS=40 asks people, "
                f"pairs={SCORES} takes what the run's reward says"
            )
        found = newest(read_pairs(file))
    decided = [label for label in found if label.preferred in ("first", "second")]
    if len(decided) < FEWEST_PAIRS:
        raise UsageError(
            f"of {len(found)} pairs {len(decided)} say which episode is the better; expected "
            f"{FEWEST_PAIRS} or more: have more pairs judged"
        )
    _refuse_one_sided(decided)
    return decided


def _refuse_one_sided(labels: Sequence[PairLabel]) -> None:
    """Raise `UsageError` for who always names the same side: that tells of sides, not of clips."""
    sides: dict[str, set[Preferred | None]] = {}
    counts: dict[str, int] = {}
    for label in labels:
        sides.setdefault(label.by, set()).add(label.preferred)
        counts[label.by] = counts.get(label.by, 0) + 1
    for by, said in sides.items():
        if len(said) == 1 and counts[by] >= FEWEST_PAIRS:
            raise UsageError(
                f"all {counts[by]} answers by {by} prefer the {said.pop()} episode: that is one "
                "class, and nothing can be learnt from it; have pairs judged in both orders"
            )


def _drawn(folder: RunFolder, pairs: str, *, count: int, seed: int) -> list[PairLabel]:
    infos = {path.stem: read_episode(path).info for path in _shown(folder.episodes())}
    goals = {name: info.goal for name, info in infos.items()}
    drawn = candidate_pairs(goals, TRIES * count, np.random.default_rng(seed))
    if pairs == SCORES:
        said = [label for label, _ in compared(folder, drawn)]
    else:
        said = [by_truth(pair, infos[pair.first], infos[pair.second]) for pair in drawn]
    return [label for label in said if label.preferred != "tie"][:count]


def by_truth(pair: Pair, first: EpisodeInfo, second: EpisodeInfo) -> PairLabel:
    """Return which of two episodes succeeded, or did so sooner, as the simulated arm knows."""
    one, other = _success_at_s(first), _success_at_s(second)
    apart = one != other and abs(one - other) >= TELLS_S
    preferred: Preferred = ("first" if one < other else "second") if apart else "tie"
    return PairLabel(
        pair=pair,
        preferred=preferred,
        by=BY_TRUTH,
        person=False,
        probability={"first": 1.0, "second": 0.0, "tie": 0.5}[preferred],
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _success_at_s(info: EpisodeInfo) -> float:
    if info.truth is None:
        raise UsageError(
            f"{info.episode} was not played on a simulated arm: nobody knows the truth"
        )
    return float(info.truth.get("success_at_s", math.inf))


def ranked_of(folder: RunFolder, labels: Sequence[PairLabel], spec: PolicySpec) -> Ranked:
    """Return the episodes that labels name, and the pairs of them that are here.

    Raise `UsageError` where there are too few, or where an episode is of another action space.
    """
    paths = {path.stem: path for path in folder.episodes()}
    here = [one for one in labels if one.pair.first in paths and one.pair.second in paths]
    if len(here) < FEWEST_PAIRS:
        raise UsageError(
            f"of {len(labels)} pairs {len(here)} are of episodes of {folder.path}; expected "
            f"{FEWEST_PAIRS} or more: give the run that the pairs are of"
        )
    names = sorted({name for one in here for name in (one.pair.first, one.pair.second)})
    episodes = [read_episode(path) for path in _shown([paths[name] for name in names])]
    for episode in episodes:
        refuse_other_actions(episode, spec)
    at = {name: number for number, name in enumerate(names)}
    sides = [(at[one.pair.first], at[one.pair.second]) for one in here]
    better, worse = zip(
        *(
            pair if one.preferred == "first" else pair[::-1]
            for one, pair in zip(here, sides, strict=True)
        ),
        strict=True,
    )
    return Ranked(
        steps=steps_of(episodes, spec),
        better=np.array(better),
        worse=np.array(worse),
        weights=np.array([PERSON_WEIGHT if one.person else 1.0 for one in here], np.float32),
    )


def refuse_other_actions(episode: Episode, spec: PolicySpec) -> None:
    """Raise `UsageError` unless an episode's steps are what a policy of this spec would do."""
    info, state = episode.info, {name: rows.shape[1] for name, rows in episode.state.items()}
    theirs = (info.action_space, episode.actions.shape[1])
    if theirs != (spec.action_space, spec.action_dim):
        raise UsageError(
            f"episode {info.episode} holds actions of {theirs[0]} with {theirs[1]} numbers, the "
            f"policy's are {spec.action_space} with {spec.action_dim}: these pairs are of another "
            "policy's action space"
        )
    other = [name for name, size in spec.state.items() if state.get(name) != size]
    if other:
        raise UsageError(
            f"episode {info.episode} holds {state}, and the policy reads {', '.join(other)} "
            "otherwise; use the revision that trained it"
        )


def _shown(paths: Sequence[Path]) -> list[Path]:
    return list(track(paths, "reading episodes", disable=not sys.stdout.isatty()))


def base_of(folder: RunFolder, base: str) -> LearnedPolicy:
    """Return the policy to begin with; raise `UsageError` where there is none of use."""
    where = Path(base) if base else folder.policy
    where = where / "policy" if (where / "policy").is_dir() else where
    if (where / RECIPE).is_file():
        raise UsageError(f"{where} corrects another policy's rows; give one that acts alone")
    try:
        return LearnedPolicy.load(where)
    except (OSError, PolicyDamaged) as error:
        raise UsageError(f"{where} is no learnt policy ({error}); give base=FOLDER") from None


def run_training(words: Mapping[str, str]) -> Path:
    """Learn from pairs and write the policy's folder, whole or not at all; return it."""
    out, numbers = _out(words), _numbers(words)
    updates, count = _whole(words, "updates"), _whole(words, "count")
    seed = _whole(words, "seed", least=0)
    contrast = _contrast(words, numbers)
    folder = find_run(words["run"], RUNS)
    read_run(folder.path)
    base = base_of(folder, words["base"])
    labels = labels_of(folder, words["pairs"], count=count, seed=seed)
    ranked = ranked_of(folder, labels, base.spec)
    networks = actor_of(base)
    torch.manual_seed(seed)
    learnt = prefer(
        networks,
        base.spec,
        ranked,
        contrast,
        updates=updates,
        learning_rate=numbers["learning_rate"],
        held_out=numbers["held"],
        seed=seed,
        report=lambda done, loss: say(f"{done}/{updates} updates, loss {loss:.3f}"),
    )
    facts = {"preferred": {**words, "run": str(folder.path)}, **_judges(labels)}
    part, version = out.with_name(f".{out.name}.making"), base.version + updates
    shutil.rmtree(part, ignore_errors=True)
    write_policy(part / "policy", networks, base.spec, updates=version)
    write_json(part / "prefer.json", {**facts, **asdict(learnt), **circumstances()})
    for name, more in (("run.json", facts), ("state.json", {"updates": version})):
        write_json(part / name, {**read_json(folder.path / name), **more})
    part.rename(out)
    say(_report(learnt, ranked, labels))
    return out


def _judges(labels: Sequence[PairLabel]) -> dict[str, object]:
    """Return how many answers each judge gave, people apart from models."""
    counts: dict[str, dict[str, int]] = {"people": {}, "models": {}}
    for label in labels:
        side = counts["people" if label.person else "models"]
        side[label.by] = side.get(label.by, 0) + 1
    return {"answers_by": counts}


def _report(learnt: Learnt, ranked: Ranked, labels: Sequence[PairLabel]) -> str:
    people = sum(label.person for label in labels)
    held, pairs = learnt.held, len(ranked)
    lines = [f"{pairs} pairs of {int(ranked.steps.episode.max()) + 1} episodes, {people} by people"]
    if held.pairs:
        lower, upper = wilson(held.right, held.pairs)
        lines.append(
            f"{held.right} of {held.pairs} pairs that it did not see it orders as they were judged "
            f"({100 * lower:.0f}-{100 * upper:.0f} %)"
        )
    lines.append(f"it moved {learnt.moved:.3f} nats a step from where it began")
    return "\n".join(lines)


def _out(words: Mapping[str, str]) -> Path:
    out = Path(words["out"])
    if not words["run"] or not out.name:
        raise UsageError("name the run and where to write: make prefer RUN=… PAIRS=… OUT=FOLDER")
    if out.exists():
        raise UsageError(f"out={out} is there already; give a folder that is still to be made")
    return out


def _numbers(words: Mapping[str, str]) -> dict[str, float]:
    try:
        numbers = {name: float(words[name]) for name in NUMBERS}
    except ValueError as error:
        raise UsageError(f"{', '.join(NUMBERS)} are numbers: {error}") from None
    if not (0.0 < numbers["learning_rate"] < 1.0 and 0.0 <= numbers["held"] <= 0.8):
        raise UsageError("expected learning_rate= above 0 and below 1, held= from 0 to 0.8")
    return numbers


def _whole(words: Mapping[str, str], name: str, *, least: int = 1) -> int:
    if not words[name].isdecimal() or int(words[name]) < least:
        raise UsageError(f"{name}={words[name]!r} is no whole number from {least} on")
    return int(words[name])


def _contrast(words: Mapping[str, str], numbers: Mapping[str, float]) -> Contrast:
    if words["relative"] not in ("0", "1"):
        raise UsageError(f"relative={words['relative']!r}; expected 1 or 0")
    try:
        return Contrast(
            relative=words["relative"] == "1",
            **{name: numbers[name] for name in ("alpha", "discount", "conservative", "keep")},
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def main(argv: Sequence[str]) -> int:
    """Learn, say what came of it and write the policy; return the exit code."""
    torch.set_num_threads(1)
    try:
        out = run_training(parse_words(argv, known=WORDS))
    except BadRun as error:
        return _end(str(error), error.code)
    except (BadPairs, Damaged, FloatingPointError) as error:
        return _end(str(error), 1)
    except (UsageError, ValueError, OSError) as error:
        return _end(str(error), 2)
    except KeyboardInterrupt:
        return _end("stopped; nothing was written", 130)
    say(f"{out}: try it with make evaluate RUN={out}, serve it with make serve-pi POLICY={out}")
    return 0


def _end(why: str, code: int) -> int:
    sys.stderr.write(f"{why}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
