"""Steps to learn from that another run practised: its sealed episodes, as they are labelled."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import structlog

from policy_server.policy import PolicySpec
from rewarder.reward import NoScore
from rl.command_line import find_run
from rl.labeller import relabelled
from rl.progress import PLAIN_LINES, say
from rl.run_folder import RunFolder
from rl.run_record import BadRun
from rl.transition import Transition
from robot.journal import Episode
from robot.kinematics import jaw_centre
from robot.sealed import Damaged

log = structlog.get_logger(__name__)

LONG = 200
"""Reading more episodes than this takes seconds, and shows how far it is."""
RATE_TOLERANCE = 0.25
"""By this share of its length a step may be longer or shorter than this run's: a slow link."""
JAW_TOLERANCE = 0.005
"""The jaws may be so far from where the joints put them, metres."""
LEAST_DEGREES = 2 * np.pi
"""Five joints that stay within this all along are measured in radians."""


def prior_episodes(
    runs: Sequence[str], *, root: Path, task: str, spec: PolicySpec
) -> Iterator[Sequence[Transition]]:
    """Yield the labelled episodes of runs, given by their folders or by their names in `root`.

    Raise `BadRun` for a run of another task, of other actions, vectors, rate or units than `spec`
    and the arm have, and for one without labels. An episode that is damaged or has no label is
    left out.
    """
    if isinstance(runs, str):
        raise BadRun(f"prior is {runs!r}; expected a list: learner.prior=[{runs}]", code=2)
    folders = [find_run(str(run), root) for run in runs]
    for folder in folders:
        _refuse_other_task(folder, task)
    for folder in folders:
        yield from _episodes_of(folder, spec)


def _refuse_other_task(folder: RunFolder, task: str) -> None:
    theirs = folder.facts().get("task")
    if theirs != task:
        raise BadRun(
            f"{folder.path} practised {theirs!r} and this run practises {task!r}; give a prior of "
            "the same task",
            code=2,
        )


def _episodes_of(folder: RunFolder, spec: PolicySpec) -> Iterator[Sequence[Transition]]:
    paths = folder.episodes()
    steps = successes = 0
    periods: list[float] = []
    for done, path in enumerate(paths, start=1):
        _show(folder, done, len(paths))
        found = _labelled(path, folder.labels)
        if found is None:
            continue
        episode, transitions = found
        _refuse_unfit(episode, path, spec)
        periods.append(_period_s(episode))
        steps, successes = steps + len(transitions), successes + transitions[-1].terminated
        yield transitions
    if not periods:
        raise BadRun(_no_labels(folder, len(paths)), code=2)
    _refuse_other_rate(folder, float(np.median(periods)), spec)
    unlabelled = len(paths) - len(periods)
    left = f"; {unlabelled} without a label are left out" if unlabelled else ""
    say(f"prior {folder.path}: {steps} steps, {len(periods)} episodes, {successes} successes{left}")


def _show(folder: RunFolder, done: int, total: int) -> None:
    if total > LONG and done % (total // PLAIN_LINES) == 0:
        say(f"reading the prior {folder.path}: {done}/{total} episodes")


def _labelled(path: Path, labels: Path) -> tuple[Episode, Sequence[Transition]] | None:
    """Return an episode and its steps, None where it has no label or is lost."""
    try:
        labelled = relabelled(path, labels)
    except FileNotFoundError:
        return None
    except (NoScore, OSError, Damaged) as error:
        log.warning("episode left out of the prior", file=str(path), reason=str(error))
        return None
    return (labelled.episode, labelled.transitions) if labelled.episode else None


def _no_labels(folder: RunFolder, episodes: int) -> str:
    if not episodes:
        return f"{folder.path} has no episodes; give a run that has practised"
    return (
        f"none of the {episodes} episodes of {folder.path} has a label to learn from; "
        f"label them: make relabel RUN={folder.path}"
    )


def _refuse_unfit(episode: Episode, path: Path, spec: PolicySpec) -> None:
    """Raise `BadRun` where an episode's steps are not steps of this run's policy."""
    unfit = _other_actions(episode, spec) or _other_vectors(episode, spec) or _other_units(episode)
    if unfit:
        raise BadRun(
            f"{path} cannot be learnt from: {unfit}; give a prior from the same kind of arm", code=2
        )


def _other_actions(episode: Episode, spec: PolicySpec) -> str | None:
    theirs = f"{episode.info.action_space} of {episode.actions.shape[1]} numbers"
    mine = f"{spec.action_space} of {spec.action_dim} numbers"
    return f"its actions are {theirs}, this run's {mine}" if theirs != mine else None


def _other_vectors(episode: Episode, spec: PolicySpec) -> str | None:
    for name, size in spec.state.items():
        if name not in episode.state:
            return f"it has no vector {name!r}"
        if episode.state[name].shape[1] != size:
            theirs = episode.state[name].shape[1]
            return f"its vector {name!r} has {theirs} numbers, this run's {size}"
    return None


def _other_units(episode: Episode) -> str | None:
    """Return what is wrong with its joints: they are degrees, and put the jaws where it says."""
    joints, jaw = episode.joint_pos[episode.first_step :], episode.state.get("jaw")
    off = 0.0 if jaw is None else float(np.linalg.norm(jaw_centre(joints[0]) - jaw[0]))
    if np.abs(joints[:, :5]).max() > LEAST_DEGREES and off < JAW_TOLERANCE:
        return None
    return "its joints are not in degrees with a gripper from 0 to 100, as those of this arm are"


def _period_s(episode: Episode) -> float:
    stamps = episode.stamps[episode.first_step :][: episode.steps + 1]
    return float(np.median(np.diff(stamps)))


def _refuse_other_rate(folder: RunFolder, period_s: float, spec: PolicySpec) -> None:
    if abs(period_s * spec.hz - 1.0) > RATE_TOLERANCE:
        raise BadRun(
            f"{folder.path} was practised at {1.0 / max(period_s, 1e-3):.1f} steps a second and "
            f"this run is at {spec.hz:.1f}; give a prior of the same rate",
            code=2,
        )
