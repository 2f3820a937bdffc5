"""Every evaluation that is on disk: those of the runs, and those that are committed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from rl.run_folder import RunFolder
from rl.statistics import kaplan_meier_median, wilson

GROUNDING = "grounding.json"
"""Where a run keeps what `rl.grounding` has found."""

type Content = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One version of a policy, tried on fresh layouts under one set of conditions."""

    file: str
    run: str
    task: str
    goal: str
    trained_goal: str
    preset: str
    """Which twin, or `emulated`."""
    variation: float
    """How much the twin's table differed from trial to trial, 0 to 1."""
    judge: str
    reward: str
    seed: int
    updates: int
    env_steps: int
    revision: str
    at: str
    successes: int
    episodes: int
    gentle: int
    """Failures that were gentle."""
    failures: int
    median_s: float | None
    """Kaplan-Meier median of the time to success, those that ran into the limit censored."""
    jerk: float | None
    """Median over trials of the RMS jerk, degrees/s^3; None where it was not kept."""
    trials: Sequence[Content] = ()
    """Lines of `results.jsonl`; none of a committed result."""

    @property
    def plain(self) -> bool:
        """Return whether it was tried under the conditions that it was trained for."""
        return not self.variation and self.goal == self.trained_goal

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of success."""
        return wilson(self.successes, self.episodes)

    @property
    def gentle_interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of gentle among the failures."""
        return wilson(self.gentle, self.failures)


@dataclass(slots=True, kw_only=True)
class Found:
    """What there is, and a sentence for each file that could not be read."""

    evaluations: list[Evaluation]
    groundings: list[Content]
    left_out: list[str]


def read_evaluations(runs: Path, results: Path) -> Found:
    """Return the evaluations of all runs and of committed results, the oldest first.

    An evaluation that is in both counts once, with the trials that its run keeps.
    """
    found = Found(evaluations=[], groundings=[], left_out=[])
    by_name: dict[tuple[str, str], Evaluation] = {}
    for path in sorted(results.glob("*.json")):
        _add(by_name, found, path, ())
    for folder in sorted(path.parent for path in runs.glob("*/run.json")):
        lines = list(RunFolder(folder).lines("results.jsonl"))
        for path in sorted(folder.glob("results*.json")):
            _add(by_name, found, path, lines)
        grounding = _content(folder / GROUNDING, found) if (folder / GROUNDING).is_file() else None
        found.groundings += [{"run": folder.name, **grounding}] if grounding else []
    found.evaluations = sorted(by_name.values(), key=lambda one: (one.at, one.file))
    return found


def _add(
    by_name: dict[tuple[str, str], Evaluation], found: Found, path: Path, lines: Sequence[Content]
) -> None:
    content = _content(path, found)
    if content is None:
        return
    try:
        one = evaluation_of(path.as_posix(), content, lines)
    except (KeyError, TypeError, ValueError) as error:
        found.left_out.append(f"{path} is no whole result: {error!r}")
        return
    by_name[one.run, one.at] = one


def evaluation_of(file: str, content: Content, lines: Sequence[Content]) -> Evaluation:
    """Return what a result says, with its trials among `lines`; raise KeyError, ValueError."""
    trials = [line for line in lines if line.get("evaluation") == content["evaluation"]]
    failures = int(content["failures"])
    gentle = float(content["gentle_failure_rate"] or 0.0)
    jerks = [float(line["jerk"]) for line in trials if line.get("jerk") is not None]
    return Evaluation(
        file=file,
        run=str(content["run"]),
        task=str(content["task"]),
        goal=str(content["goal"]),
        trained_goal=str(content.get("trained_goal", content["goal"])),
        preset=str(content["preset"]),
        variation=float(content.get("variation", 0.0)),
        judge=str(content["judge"]),
        reward=str(content["reward"]),
        seed=int(content["seed"]),
        updates=int(content["updates"]),
        env_steps=int(content["env_steps"]),
        revision=str(content["git_revision"]),
        at=str(content["evaluation"]),
        successes=int(content["successes"]),
        episodes=int(content["episodes"]),
        gentle=round(gentle * failures),
        failures=failures,
        median_s=_median_s(trials) if trials else content["time_to_success_s"],
        jerk=float(np.median(jerks)) if jerks else content.get("jerk_rms"),
        trials=trials,
    )


def versions(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return the plain evaluations of each task, the oldest first."""
    by_task: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        if one.plain:
            by_task.setdefault(one.task, []).append(one)
    return by_task


def compared(evaluations: Sequence[Evaluation]) -> Iterator[tuple[Evaluation | None, Evaluation]]:
    """Yield each evaluation under other conditions, beside the newest plain one of its policy."""
    for one in evaluations:
        same = [
            other
            for other in evaluations
            if other.plain and (other.run, other.updates) == (one.run, one.updates)
        ]
        if not one.plain:
            yield (same[-1] if same else None), one


def _median_s(trials: Sequence[Content]) -> float | None:
    times = [float(line["time_s"]) for line in trials]
    return kaplan_meier_median(times, [bool(line["success"]) for line in trials])


def _content(path: Path, found: Found) -> Content | None:
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found.left_out.append(f"{path} cannot be read: {error}")
        return None
    if not isinstance(value, dict):
        found.left_out.append(f"{path} holds no JSON object")
        return None
    return cast("Content", value)
