"""Have people judge clips of a run in a browser: `make label RUN=… [PAIRS=40]`.

`python -m rl.label_run run=RUN` picks clips of the run's sealed episodes, serves a page for this
machine only and prints its address. Words: `clips=60`, `pairs=0`, `raters=first,second`,
`port=18110`, `seed=0`; `freeze=yes` freezes what was said instead, so that rewards can be measured
on it. From another machine: `ssh -L 18110:127.0.0.1:18110 …`.
"""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rewarder.clip_set import (
    INFO,
    BadSet,
    ClipSet,
    SetClip,
    SetInfo,
    add_clip,
    create_set,
    freeze,
    open_set,
)
from rewarder.label_desk import LabelDesk, create_app
from rewarder.pair_judges import value
from rewarder.pairs import FILE, BadPairs
from rewarder.reward import Clip, Score, clip_of
from rl.command_line import find_run
from rl.evaluate import RUNS
from rl.label import STAYS_DONE, load_score
from rl.label_pairs import load_judge, questions
from rl.progress import say
from rl.run_folder import EPISODES, RunFolder
from rl.run_record import BadRun
from robot.http_server import ServiceError, listen, server_of
from robot.journal import Episode, read_episode
from robot.sealed import Damaged
from robot.words import UsageError, parse_words

LABELS = "labels_by_people"
"""Within a run's folder: the set of clips that people judge."""
MOST_CLIPS = 2000
MOMENTS = 24
"""A clip shows so many moments of its episode at most."""
WORDS = {
    "run": "",
    "clips": "60",
    "pairs": "0",
    "raters": "first,second",
    "port": "18110",
    "seed": "0",
    "cameras": "conf/cameras/twin.yaml",
    "freeze": "no",
}
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """An episode that has a score."""

    path: Path
    score: Score
    rewarded: bool
    """Whether the reward called it a success."""


def scored(folder: RunFolder) -> list[Scored]:
    """Return the episodes of a run that have a score and were judged somewhere."""
    found: list[Scored] = []
    for line in folder.lines(EPISODES):
        path = folder.path / str(line.get("file"))
        try:
            score = load_score(folder.labels, path.stem)
        except (OSError, Damaged):
            continue
        if path.is_file() and score.valid.any():
            rewarded = bool(line.get("rewarded_success"))
            found.append(Scored(path=path, score=score, rewarded=rewarded))
    return found


def pick(episodes: Sequence[Scored], count: int, rng: np.random.Generator) -> list[Scored]:
    """Return up to `count` episodes, hard ones first, as many successes as failures if there are.

    Hard are the failures that came far, and the successes that did not seem to. Half of either
    kind are the hardest, the others drawn at random, so that the easy ones are counted as well.
    """
    won = sorted((e for e in episodes if e.rewarded), key=lambda e: value(e.score))
    lost = sorted((e for e in episodes if not e.rewarded), key=lambda e: -value(e.score))
    wins = min(len(won), max(count // 2, count - len(lost)))
    kinds = [_hard_and_any(won, wins, rng), _hard_and_any(lost, count - wins, rng)]
    return [e for rank in range(count) for kind in kinds for e in kind[rank : rank + 1]]


def _hard_and_any(kind: Sequence[Scored], count: int, rng: np.random.Generator) -> list[Scored]:
    """Return `count` of a kind that is sorted by hardness."""
    count = min(count, len(kind))
    hard = -(-count // 2)
    others = sorted(rng.choice(np.arange(hard, len(kind)), count - hard, replace=False))
    return [kind[int(row)] for row in (*range(hard), *others)]


def moments_of(episode: Episode) -> Clip:
    """Return up to `MOMENTS` moments of an episode; the last is the one that a label is about.

    That is the look after the retreat where the goal outlasts it, else the last step.
    """
    whole = clip_of(episode)
    last = episode.first_step + episode.steps
    if episode.info.task in STAYS_DONE:
        last = len(whole) - 1
    kept = np.unique(np.linspace(0, last, MOMENTS).round().astype(int))
    return replace(
        whole,
        stamps=whole.stamps[kept],
        frames={name: [jpegs[int(t)] for t in kept] for name, jpegs in whole.frames.items()},
        joint_pos=whole.joint_pos[kept],
        joint_target=whole.joint_target[kept],
    )


def make_set(folder: RunFolder, raters: Sequence[str], count: int, seed: int) -> ClipSet:
    """Make the set of clips that people judge; raise `BadRun` where the run has none."""
    chosen = pick(scored(folder), count, np.random.default_rng(seed))
    episodes = [read_episode(one.path) for one in chosen]
    if not episodes:
        raise BadRun(f"{folder.path} has no judged episode: train first, or `make relabel RUN=…`")
    making = folder.path / f".{LABELS}.{seed}"
    info = SetInfo(
        name=f"people on {folder.path.name}",
        raters=dict.fromkeys(raters, "a person at the page of `make label`"),
        reference=raters[0],
        command=shlex.join(["python", "-m", "rl.label_run", *sys.argv[1:]]),
        seed=None,
        cameras=tuple(episodes[0].frames),
        tasks=tuple(sorted({episode.info.task for episode in episodes})),
    )
    shutil.rmtree(making, ignore_errors=True)
    create_set(making, info)
    for rank, (one, episode) in enumerate(zip(chosen, episodes, strict=True)):
        kind = "rewarded" if one.rewarded else "not rewarded"
        origin: dict[str, str | int] = {"episode": one.path.stem, "rank": rank}
        task = episode.info.task
        add_clip(making, SetClip(clip=moments_of(episode), task=task, kind=kind, origin=origin))
    # Whole or not at all: what a broken-off attempt left is made again.
    making.rename(folder.path / LABELS)
    return open_set(folder.path / LABELS)


def desk_of(folder: RunFolder, words: Mapping[str, str]) -> LabelDesk:
    """Return a desk for a run's clips and pairs, made where they are not there yet."""
    raters = [name for name in words["raters"].split(",") if name]
    count, pairs, seed = (_number(words, name) for name in ("clips", "pairs", "seed"))
    if not raters or not 1 <= count <= MOST_CLIPS:
        raise UsageError(f"expected clips= from 1 to {MOST_CLIPS} and raters= such as anna,ben")
    there = (folder.path / LABELS / INFO).exists()
    found = open_set(folder.path / LABELS) if there else make_set(folder, raters, count, seed)
    say(f"{len(found.names)} clips in {found.folder}, judged by {', '.join(found.info.raters)}")
    goals = {str(item.origin["episode"]): item.clip.goal for item in found.clips.values()}
    judge = load_judge(folder, Path(words["cameras"])) if pairs else None
    asked = questions(folder, goals, pairs, seed=seed, judge=judge)
    if pairs:
        say(f"{len(asked.pairs)} pairs for people; {asked.decided} others the models decided")
    return LabelDesk(found.folder, asked.pairs, folder.path / FILE)


def serve(desk: LabelDesk, port: int) -> int:
    """Serve the page until Ctrl-C; return the exit code."""
    with listen("127.0.0.1", port, guarded=False, remedy=", or port=18111") as listening:
        say(f"http://127.0.0.1:{listening.getsockname()[1]}")
        try:
            server_of(create_app(desk)).run(sockets=[listening])
        except KeyboardInterrupt:
            return INTERRUPTED
    # Nothing but a signal ends it, also where the server itself has taken that in.
    return INTERRUPTED


def frozen(folder: RunFolder) -> int:
    """Freeze what people said and print the hash; return the exit code."""
    digest = freeze(folder.path / LABELS)
    say(f"{folder.path / LABELS} is frozen: {digest}")
    return OK


def _number(words: Mapping[str, str], name: str) -> int:
    if not words[name].isdecimal():
        raise UsageError(f"{name}={words[name]}; expected a number from 0 on")
    return int(words[name])


def _run(words: Mapping[str, str]) -> int:
    if not words["run"]:
        raise UsageError("name a run: make label RUN=…; `ls runs` lists them")
    port = _number(words, "port")
    if port >= 2**16 or words["freeze"] not in ("yes", "no"):
        raise UsageError("expected port= from 0 to 65535 and freeze=yes or no")
    folder = find_run(words["run"], RUNS)
    folder.facts()
    return frozen(folder) if words["freeze"] == "yes" else serve(desk_of(folder, words), port)


def main(argv: Sequence[str]) -> int:
    """Serve the page of a run, or freeze its labels; return the exit code."""
    try:
        return _run(parse_words(argv, known=WORDS))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except (BadRun, ServiceError) as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    except (BadSet, BadPairs, Damaged, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
