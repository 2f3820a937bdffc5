"""Make a set of clips of the twin with its ground truth: half goals reached, half just missed.

`python -m ops.reward_sets out=rewarder/sets/twin50 n=50 seed=5000000`. Beside the truth it holds
the labels of a simulated rater, who is wrong at a stated rate, also at a second look at some.
"""

import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from ops.reward_films import DARK, KINDS, SHIFT_PIXELS, VARIATION, Script, film
from rewarder.clip_set import (
    BadSet,
    Label,
    SetClip,
    SetInfo,
    add_clip,
    append_label,
    create_set,
    freeze,
)
from rl.progress import say
from robot.scene import COLOURS
from robot.words import UsageError, parse_words

WORDS = {"out": "", "n": "50", "seed": "5000000"}
FIRST_SEED = 5_000_000
"""Sets draw their layouts from here upwards, training and evaluation below."""
TRIES = 40
"""Scenes that may turn out otherwise than their script before that is an error."""
TRUTH, SIMULATED = "twin", "simulated_rater_a"
FLIPPED = 0.03
"""Share of the clips that the simulated rater gets wrong at each look, rounded up."""
SECOND_LOOK = 5
"""The simulated rater sees every fifth clip again."""

type Slot = tuple[str, str, str]
"""Task, kind, and what is done to the pictures."""

MISSED: tuple[Slot, ...] = (
    ("lift", "hover", ""),
    ("place", "near", ""),
    ("lift", "wrong", ""),
    ("place", "dropped", ""),
    ("lift", "pushed", ""),
    ("place", "occluded", ""),
    ("lift", "near", "dark"),
    ("place", "hover", "shifted"),
    ("reach", "near", ""),
    ("push", "early", ""),
    ("lift", "dropped", ""),
    ("place", "wrong", ""),
    ("stack", "near", ""),
    ("lift", "occluded", ""),
    ("place", "hover", ""),
    ("reach", "hover", ""),
    ("lift", "near", ""),
    ("place", "pushed", ""),
    ("push", "near", ""),
    ("place", "near", "dark"),
    ("lift", "hover", "shifted"),
    ("reach", "wrong", ""),
    ("stack", "dropped", ""),
    ("lift", "early", ""),
    ("place", "noise", ""),
)
# A picture too dark to judge should never be called a success, so none of these is dark.
REACHED: tuple[Slot, ...] = (
    *[("lift", "done", "")] * 3,
    *[("place", "done", "")] * 3,
    ("reach", "done", ""),
    ("push", "done", ""),
    ("lift", "done", "shifted"),
    ("stack", "done", ""),
    *[("lift", "done", "")] * 4,
    *[("place", "done", "")] * 3,
    ("place", "done", "shifted"),
    *[("reach", "done", "")] * 3,
    ("push", "done", ""),
    ("stack", "done", ""),
    ("place", "done", ""),
    ("push", "done", ""),
)


def slots(count: int) -> list[Slot]:
    """Return what a set of `count` clips holds, half of it missed goals."""
    missed, reached = islice(cycle(MISSED), count // 2), islice(cycle(REACHED), count // 2)
    return [slot for pair in zip(missed, reached, strict=True) for slot in pair]


def script_of(slot: Slot, seed: int) -> Script:
    """Return a slot's script with the colours that a seed gives it."""
    task, kind, spoilt = slot
    rng = np.random.default_rng(seed)
    thing, other, _ = (str(colour) for colour in rng.permutation(COLOURS))
    alone = task in ("lift", "reach")
    beside = alone and (kind == "wrong" or rng.random() < 0.3)
    return Script(
        task=task, kind=kind, thing=thing, other=other, beside=beside, seed=seed, spoilt=spoilt
    )


def films(count: int, seed: int) -> Iterator[tuple[SetClip, bool]]:
    """Film a set of `count` clips; raise `RuntimeError` where a script never turns out."""
    seeds = iter(range(seed, seed + TRIES * count))
    for slot in slots(count):
        found = next(filter(None, (film(script_of(slot, next(seeds))) for _ in range(TRIES))), None)
        if found is None:
            raise RuntimeError(f"none of {TRIES} scenes turned out as {slot} says")
        yield found


def make_set(folder: Path, *, count: int, seed: int, command: str) -> str:
    """Make, label and freeze a set, and return its hash; raise `BadSet`."""
    create_set(folder, _info(folder.name, seed, command))
    truth: list[Label] = []
    for done, (clip, success) in enumerate(films(count, seed), start=1):
        truth.append(
            append_label(folder, TRUTH, Label(clip=add_clip(folder, clip), success=success))
        )
        if done % 10 == 0 or done == count:
            say(f"{folder.name}: {done}/{count} clips")
    for label in simulated(truth, seed):
        append_label(folder, SIMULATED, label)
    return freeze(folder)


def simulated(truth: Sequence[Label], seed: int) -> Iterator[Label]:
    """Return what a rater would say who errs by `FLIPPED`, of all clips and then of some again."""
    rng = np.random.default_rng(seed)
    for look, seen in ((1, truth), (2, truth[::SECOND_LOOK])):
        wrong = rng.choice(len(seen), math.ceil(FLIPPED * len(seen)), replace=False)
        for index, label in enumerate(seen):
            said = bool(label.success) ^ (index in wrong)
            yield Label(clip=label.clip, success=said, pass_number=look)


def _info(name: str, seed: int, command: str) -> SetInfo:
    simulated = f"simulated, no person: the twin's labels, {FLIPPED:.0%} of them wrong, seed {seed}"
    return SetInfo(
        name=name,
        raters={TRUTH: "the twin's ground truth", SIMULATED: simulated},
        reference=TRUTH,
        command=command,
        seed=seed,
        cameras=("front", "side"),
        tasks=("lift", "place", "reach", "push", "stack"),
        notes={
            "scenes": f"variation {VARIATION} of light, colours, friction and cameras",
            "truth": "success held for 0.5 s up to the last moment; a missed goal does not hold",
            "dark": f"pictures at {DARK:.0%} of their brightness; missed goals only",
            "shifted": "one camera's pictures moved by {} to {} pixels".format(*SHIFT_PIXELS),
            **KINDS,
        },
    )


def _asked(argv: list[str]) -> tuple[Path, int, int]:
    words = parse_words(argv, known=WORDS)
    count, seed = int(words["n"]), int(words["seed"])
    if not words["out"] or count < 2 or count % 2 or seed < FIRST_SEED:
        raise UsageError(
            f"out={words['out']} n={count} seed={seed}: expected a folder, an even number of "
            f"clips and a seed from {FIRST_SEED} on"
        )
    return Path(words["out"]), count, seed


def main(argv: list[str]) -> int:
    """Make a set; return the exit code."""
    try:
        folder, count, seed = _asked(argv)
        command = shlex.join(["python", "-m", "ops.reward_sets", *argv])
        digest = make_set(folder, count=count, seed=seed, command=command)
    except (UsageError, BadSet, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    say(f"{folder}: {count} clips, frozen as {digest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
