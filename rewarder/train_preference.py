"""Train a reward on the pairs of a run: `python -m rewarder.train_preference run=RUN out=FOLDER`.

Words: `cameras=conf/cameras/twin.yaml`, `members=5`, `k=1.0`, `held=0.2` (share of the pairs that
the accuracy is told of), `seed=0`. A success threshold is fitted where `run/labels_by_people` says
of enough clips how they came out.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from rewarder.bradley_terry import (
    PERSON_WEIGHT,
    PairSet,
    accuracy,
    ends_of,
    fit,
    progress_of,
    threshold_of,
)
from rewarder.clip_set import INFO, BadSet, open_set
from rewarder.goal import UnknownGoal, parse_goal
from rewarder.pairs import FILE, BadPairs, PairLabel, newest, read_pairs
from rewarder.preference import About, Ensemble, Rows, clip_features, save_ensemble, spread
from rewarder.reward import NoScore, clip_of
from rewarder.statistics import wilson
from robot.journal import read_episode
from robot.sealed import Damaged
from robot.vision import CameraModel, load_cameras
from robot.words import UsageError, parse_words

LABELS = "labels_by_people"
"""The set of clips in a run's folder that people have labelled."""
FEWEST_PAIRS = 5
WORDS = {
    "run": "",
    "out": "",
    "cameras": "conf/cameras/twin.yaml",
    "members": "5",
    "k": "1.0",
    "held": "0.2",
    "seed": "0",
}

type Seen = tuple[Rows, NDArray[np.bool_]]


class TooFewPairs(Exception):
    """There is not enough to train on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to train."""

    members: int
    k: float
    held: float
    seed: int


def episodes_of(run: Path) -> dict[str, Path]:
    """Return the sealed episodes of a run's folder by name."""
    return {path.stem: path for path in sorted(run.glob("journals/*/episodes/*.npz"))}


def see(
    names: Iterable[str], paths: Mapping[str, Path], cameras: Mapping[str, CameraModel]
) -> Iterator[tuple[str, Seen]]:
    """Yield the features of each episode that there is and that shows anything."""
    for name in names:
        try:
            rows, valid = clip_features(clip_of(read_episode(paths[name])), cameras)
        except (KeyError, Damaged, NoScore, OSError):
            continue
        if valid.any():
            yield name, (rows, valid)


def pair_set(labels: Sequence[PairLabel], seen: Mapping[str, Seen], horizon: int) -> PairSet:
    """Return labels whose two clips were seen as what nets are trained on."""
    known = [a for a in labels if a.pair.first in seen and a.pair.second in seen and a.preferred]
    if not known:
        raise TooFewPairs("of no labelled pair are both episodes here, whole and understood")
    names = sorted(seen)
    at = {name: number for number, name in enumerate(names)}
    return PairSet(
        clips=np.stack([spread(*seen[name], horizon) for name in names]),
        first=np.array([at[label.pair.first] for label in known]),
        second=np.array([at[label.pair.second] for label in known]),
        targets=np.array([label.target for label in known]),
        weights=np.array([PERSON_WEIGHT if label.person else 1.0 for label in known]),
    )


def split(pairs: PairSet, *, share: float, seed: int) -> tuple[PairSet, PairSet]:
    """Return pairs to train on and pairs held out."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    held = round(share * len(pairs))
    return pairs.take(np.sort(order[held:])), pairs.take(np.sort(order[:held]))


def train(
    labels: Sequence[PairLabel], seen: Mapping[str, Seen], plan: Plan
) -> tuple[Ensemble, About, tuple[int, int]]:
    """Return an ensemble, what belongs to it, and how many held-out pairs it orders rightly.

    The pairs held out for that are used in the end as well. Raise `TooFewPairs`.
    """
    horizon = max(len(valid) for _, valid in seen.values()) if seen else 2
    pairs = pair_set(labels, seen, horizon)
    if len(pairs) < FEWEST_PAIRS:
        raise TooFewPairs(f"{len(pairs)} labelled pairs are too few; expected {FEWEST_PAIRS}")
    kept, held = split(pairs, share=plan.held, seed=plan.seed)
    trial = fit(kept, members=plan.members, seed=plan.seed)
    right, count = accuracy(trial, held)
    ensemble = fit(pairs, members=plan.members, seed=plan.seed)
    moments = np.concatenate([rows[valid] for rows, valid in seen.values()])
    low, high = ends_of(ensemble, moments, plan.k)
    about = About(
        task=parse_goal(labels[0].pair.goal).task,
        horizon=horizon,
        k=plan.k,
        low=low,
        high=high,
        threshold=None,
        pairs=len(pairs),
        people_pairs=int((pairs.weights == PERSON_WEIGHT).sum()),
        accuracy=right / count if count else None,
    )
    return ensemble, about, (right, count)


def verdicts(folder: Path) -> dict[str, bool]:
    """Return what people said of episodes: whether they ended in success. Raise `BadSet`."""
    if not (folder / INFO).exists():
        return {}
    found = open_set(folder)
    truth = found.truth()
    return {str(found.clips[name].origin["episode"]): said for name, said in truth.items()}


def with_threshold(
    ensemble: Ensemble, about: About, seen: Mapping[str, Seen], said: Mapping[str, bool]
) -> About:
    """Return `about` with the success threshold that people's verdicts allow."""
    known = [name for name in said if name in seen]
    if not known:
        return about
    last = np.array([progress_of(ensemble, about, _last(seen[name]))[0] for name in known])
    threshold = threshold_of(last, np.array([said[name] for name in known]))
    return replace(about, threshold=threshold)


def _last(seen: Seen) -> Rows:
    """Return the features of the last valid moment, shape (1, D)."""
    rows, valid = seen
    return rows[valid][-1:]


def run_training(run: Path, out: Path, cameras: Mapping[str, CameraModel], plan: Plan) -> About:
    """Train on the pairs of a run and write the model; raise `TooFewPairs` or `BadPairs`."""
    labels = newest(read_pairs(run / FILE))
    said = verdicts(run / LABELS)
    wanted = sorted({name for a in labels for name in (a.pair.first, a.pair.second)} | set(said))
    if not labels:
        raise TooFewPairs(f"{run / FILE} holds no pairs; make some with `make label RUN=… PAIRS=…`")
    looked = see(wanted, episodes_of(run), cameras)
    seen = dict(track(looked, "looking at episodes", total=len(wanted), disable=_quiet()))
    ensemble, about, (right, count) = train(labels, seen, plan)
    about = with_threshold(ensemble, about, seen, said)
    save_ensemble(out, ensemble, about)
    sys.stdout.write(_report(about, right, count, out))
    return about


def _report(about: About, right: int, count: int, out: Path) -> str:
    lower, upper = wilson(right, count)
    held = "no pair was held out" if not count else f"{right} of {count} held-out pairs ordered as"
    held += f" labelled ({100 * lower:.0f}-{100 * upper:.0f} %)" if count else ""
    enough = "success False everywhere: too few clips are labelled for a threshold"
    if about.threshold is not None:
        enough = f"success from progress {about.threshold:.3f} on"
    pairs = f"{about.pairs} pairs, {about.people_pairs} of them by people"
    return f"{pairs}; {held}; {enough}\n{out}: use it with reward=preference reward.folder={out}\n"


def _quiet() -> bool:
    return not sys.stdout.isatty()


def _plan(words: Mapping[str, str]) -> Plan:
    try:
        plan = Plan(
            members=int(words["members"]),
            k=float(words["k"]),
            held=float(words["held"]),
            seed=int(words["seed"]),
        )
    except ValueError as error:
        raise UsageError(f"members=, k=, held= and seed= are numbers: {error}") from None
    if not (2 <= plan.members <= 20 and 0.0 <= plan.held <= 0.8 and 0.0 <= plan.k <= 10.0):
        raise UsageError("expected members= from 2 to 20, held= from 0 to 0.8, k= from 0 to 10")
    return plan


def _folders(words: Mapping[str, str]) -> tuple[Path, Path]:
    if not words["run"] or not words["out"]:
        raise UsageError("name the run and where to write: make train-preference RUN=… OUT=…")
    inside = Path("runs") / words["run"]
    run = Path(words["run"]) if Path(words["run"]).is_dir() else inside
    if not run.is_dir():
        raise UsageError(f"there is no run folder {words['run']}; `ls runs` lists the runs")
    return run, Path(words["out"])


def main(argv: Sequence[str]) -> int:
    """Train, say how well it went and write the model; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        run, out = _folders(words)
        run_training(run, out, load_cameras(Path(words["cameras"])), _plan(words))
    except (TooFewPairs, BadPairs, BadSet) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (UsageError, UnknownGoal, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
