"""Calibrate a reward model on a labelled set: `python -m rewarder.calibrate`.

`make calibrate-reward REWARD=embedded SET=twin50` fits a curve from log-odds to probability and a
threshold, says by cross-validation what that gains, and writes the file that uses it.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rewarder.calibration import Calibration, Key, Labelled, calibrate
from rewarder.clip_set import SetClip
from rewarder.curves import (
    BadCalibration,
    check_labels,
    expected_calibration_error,
    nll,
    out_of_fold,
    sigmoid,
)
from rewarder.entry import composed, find_set, run_tool, watched
from rewarder.reward import NoScore, RewardModel
from robot.words import UsageError

OUT = Path("runs/calibration")


def log_odds_of(
    model: RewardModel, clips: Iterable[tuple[str, SetClip]], truth: Mapping[str, bool]
) -> Labelled:
    """Return what a model says of labelled clips; raise `BadCalibration` where it says nothing."""
    keys: list[Key] = []
    found: list[tuple[float, bool]] = []
    left_out = 0
    for name, item in clips:
        try:
            score = model.score(item.clip)
        except NoScore as error:
            if error.retry:
                raise
            left_out += 1
            continue
        if score.logit is None or not score.valid[-1] or not np.isfinite(score.logit[-1]):
            left_out += 1
            continue
        keys.append(Key.of(item.clip, score))
        found.append((float(score.logit[-1]), truth[name]))
    if not found:
        raise BadCalibration(
            "this model gave log-odds for none of the clips; only models that say how sure they "
            "are can be calibrated, such as reward=embedded"
        )
    logit, label = zip(*found, strict=True)
    return Labelled(Key.joined(keys), np.array(logit, np.float64), np.array(label), left_out)


def run(words: Sequence[str]) -> int:
    """Fit, print and write as the words say; return the exit code."""
    asked = composed("calibrate_reward", words)
    cfg = asked.cfg
    precision, days = float(cfg.precision), int(cfg.days)
    if not (0.0 < precision < 1.0 and days > 0):
        raise UsageError(
            f"precision={precision} days={days}: expected a share below 1 and some days"
        )
    found = find_set(str(cfg.set))
    truth = found.truth(cfg.rater)
    clips = watched(found, truth, f"{asked.reward} on {found.info.name}")
    labelled = log_odds_of(asked.model(), clips, truth)
    fitted_on = f"{found.info.name} {(found.frozen or 'not frozen')[:12]}"
    made = calibrate(labelled, fitted_on, precision=precision, days=days)
    path = Path(cfg.out or OUT / f"{found.info.name}-{asked.reward}.json")
    made.save(path)
    _print(labelled, made)
    console = Console()
    console.print(f"{path}: {made.calib_id}, until {made.expires}; use it with", soft_wrap=True)
    console.print(f"  make train-rl {usage(asked.reward, path)}", soft_wrap=True)
    console.print(
        f"  make agreement SET=twin200 {usage(asked.reward, path)}", soft_wrap=True, markup=False
    )
    return 0


def usage(reward: str, path: Path) -> str:
    """Return the words that make a tool use a calibration."""
    return f"reward=calibrated reward@reward.model={reward} reward.calibration={path}"


def _print(labelled: Labelled, made: Calibration) -> None:
    check_labels(labelled.logit, labelled.label)
    before = sigmoid(labelled.logit)
    after = out_of_fold(type(made.curve).fit, labelled.logit, labelled.label)
    table = Table("", "before", "after", title="on clips that were held out")
    for name, measure in (("NLL", nll), ("ECE", expected_calibration_error)):
        figures = (f"{measure(p, labelled.label):.4f}" for p in (before, after))
        table.add_row(name, *figures)
    console = Console()
    console.print(table)
    console.print(
        f"{made.clips} clips ({labelled.left_out} without log-odds); success from p = "
        f"{made.threshold:.3f} on: precision at least {made.precision_bound:.3f} (95 %), "
        f"recall {made.recall:.3f}, on the clips it was fitted on"
    )


def main() -> int:
    """Run the command line."""
    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
