"""Give the stored episodes of a run another reward: `python -m rl.relabel run=RUN reward=remote`.

A run that is resumed afterwards learns from the new labels.
"""

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from rewarder.reward import RewardModel
from rl.command_line import Composed, find_run, run_main
from rl.evaluate import RUNS, write_json
from rl.figures import episode_line
from rl.labeller import Labelled, Labeller
from rl.progress import say
from rl.run_folder import EPISODES, Counters, RunFolder
from rl.run_record import BadRun
from robot.revision import git_revision
from robot.sealed import seal

POLL_S = 0.05
OF_THE_LABEL = ("transitions", "reason", "return", "rewarded_success")
"""What a run says of an episode that another label changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelling:
    """What came of scoring stored episodes again."""

    episodes: int
    relabelled: int
    changed: int
    """Of those, how many earn something else, end in another way, or had no label."""
    unscored: int
    """The model could not judge these, or they are damaged; what label they had stays."""
    successes_before: int
    successes_after: int
    """Of all episodes, how many are called a success."""

    def __str__(self) -> str:
        words = f"{self.relabelled} of {self.episodes} episodes have a label of this reward"
        changed = f"{self.changed} of them another than before; {self.unscored} keep theirs"
        return (
            f"{words}, {changed}; {self.successes_before} successes became {self.successes_after}"
        )


def relabel(
    folder: RunFolder,
    model: RewardModel,
    *,
    patience_s: float = 60.0,
    wait: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Relabelling:
    """Score the episodes of a run with `model`, in place of the scores that they had.

    Raise `BadRun` where the model gives no score for `patience_s`; each episode then has either
    label, whole.
    """
    paths, fates, before = folder.episodes(), list[Labelled](), _successes(folder)
    labeller = Labeller(model, folder.labels)
    try:
        for path in paths:
            labeller.submit(path)
        heard = now()
        while len(fates) < len(paths):
            found = labeller.done()
            fates += found
            heard = now() if found else heard
            if now() - heard > patience_s:
                raise BadRun(_silence(labeller, len(fates), len(paths)))
            wait(POLL_S)
    finally:
        labeller.close()
        changed = _retell(folder, fates)
    scored = sum(fate.reason is None for fate in fates)
    return Relabelling(
        episodes=len(paths),
        relabelled=scored,
        changed=changed,
        unscored=len(paths) - scored,
        successes_before=before,
        successes_after=_successes(folder),
    )


def _successes(folder: RunFolder) -> int:
    return sum(bool(line.get("rewarded_success")) for line in folder.lines(EPISODES))


def _silence(labeller: Labeller, scored: int, total: int) -> str:
    trouble = labeller.trouble or "it does not answer"
    return (
        f"the reward model gives no scores: {trouble}; {scored} of {total} episodes were scored, "
        "run the same command again when it answers"
    )


def _retell(folder: RunFolder, fates: list[Labelled]) -> int:
    """Bring what the run says of its episodes up to date; return how many changed."""
    fresh = {folder.relative(fate.path): _said(fate) for fate in fates if fate.reason is None}
    stale = list(folder.lines(EPISODES))
    lines = [{**line, **fresh.get(str(line.get("file")), {})} for line in stale]
    same = sum(a == b for a, b in zip(stale, lines, strict=True) if a.get("file") in fresh)
    if lines != stale:
        seal(folder.path / EPISODES, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return len(fresh) - same


def _said(fate: Labelled) -> Mapping[str, Any]:
    line = episode_line(fate, Counters())
    return {name: line[name] for name in OF_THE_LABEL if name in line}


def record(folder: RunFolder, result: Relabelling, reward: str) -> Mapping[str, object]:
    """Write what was done into the run's folder and return it."""
    said = {
        "run": folder.path.name,
        "reward": reward,
        **asdict(result),
        "git_revision": git_revision(),
        "command": shlex.join(["python", "-m", "rl.relabel", *sys.argv[1:]]),
    }
    write_json(folder.path / "relabel.json", said)
    return said


def relabel_run(composed: Composed) -> int:
    """Relabel a run, say what changed and write it as JSON."""
    cfg = composed.cfg
    folder = find_run(str(cfg.run), RUNS)
    folder.facts()
    folder.lock()
    try:
        model: RewardModel = instantiate(cfg.reward, _convert_="all")
        result = relabel(folder, model, patience_s=_seconds(cfg.patience_s))
        said = record(folder, result, composed.choices["reward"])
    finally:
        folder.close()
    if cfg.json:
        write_json(Path(cfg.json), said)
    say(str(result))
    say(f"go on with: make train-rl resume={folder.path.name}")
    return 0


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or not value > 0:
        raise BadRun(f"patience_s={value} is no time, expected seconds above 0", code=2)
    return float(value)


def main() -> int:
    """Run the command line."""
    return run_main("relabel", relabel_run, list)


if __name__ == "__main__":
    sys.exit(main())
