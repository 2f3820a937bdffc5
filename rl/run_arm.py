"""One arm without Ray: `ARM_ID=arm01 make run-arm`, with a stored policy or a learner elsewhere."""

import os
import secrets
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

from omegaconf import DictConfig

from envs.homing import ArmStopped
from rewarder.goal import Goal, parse_goal
from rl.actor import Worker
from rl.arms import check_arms, env_maker, kept, start_own_arms
from rl.command_line import STOPPED, Composed, find_lift, find_run, run_main, with_task
from rl.fleet import RETRY_S, Finished, Snapshot
from rl.learner_client import Courier, LearnerAway, LearnerClient, not_uploaded
from rl.logs import log_to
from rl.progress import say
from rl.remote_policy import fit_to_policy, policy_maker
from rl.residual_base import Recipe, check_recipe
from rl.run_record import BadRun, read_run
from rl.statistics import wilson
from robot.journal import EpisodeInfo, journal_folder, read_episode
from robot.revision import git_revision


def practise(composed: Composed) -> int:
    """Run episodes until there are enough, or Ctrl-C; return the exit code."""
    cfg = composed.cfg
    check_arms(cfg.arm, [str(cfg.arm_id)])
    recipe = fit_to_policy(cfg)
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    client = _client(cfg)
    goal = goal_of(cfg, client)
    journal = _journal(cfg, goal)
    log_to(journal / "arm.log")
    with ExitStack() as stack:
        courier = Courier(client, str(cfg.arm_id)) if client else None
        if courier:
            stack.callback(courier.close, patience_s=10.0)
            for path in _left_over(cfg, goal):
                courier.send(path)
        start_own_arms(cfg.arm, [str(cfg.arm_id)], journal, stack)
        stored = _stored_policy(cfg, goal, recipe)
        worker = when_ready(partial(make_worker, cfg, goal, journal, stopping.is_set), stopping)
        if worker:
            stack.callback(worker.close)
            _episodes(worker, journal, courier, stored, stopping, cfg.episodes)
    return STOPPED if stopping.is_set() else 0


def goal_of(cfg: DictConfig, client: LearnerClient | None) -> Goal:
    """Return the goal that was given, else the learner's; raise `BadRun` if they differ."""
    given = parse_goal(str(cfg.goal)) if cfg.goal else None
    try:
        asked = parse_goal(client.goal()) if client else None
    except LearnerAway as error:
        if given is None:
            raise BadRun(f"{error}; start the learner, or give the goal to go on alone") from error
        return given
    if given and asked and given != asked:
        raise BadRun(f"the learner practises {str(asked)!r}, not {str(given)!r}", code=2)
    return given or asked or parse_goal(str(cfg.task.goal))


def make_worker(cfg: DictConfig, goal: Goal, journal: Path, stop: Callable[[], bool]) -> Worker:
    """Return the worker of this arm."""
    return Worker(
        arm=str(cfg.arm_id),
        make_env=env_maker(cfg.arm, goal, str(cfg.arm_id)),
        journal=journal,
        seed=int(cfg.seed),
        git_revision=git_revision(),
        config=kept(cfg.arm, str(cfg.arm_id)),
        make_policy=policy_maker(cfg.policy),
        greedy_every=int(cfg.greedy_every),
        lift=find_lift(cfg, Path("runs")),
        stop=stop,
    )


def when_ready[T](body: Callable[[], T], stopping: threading.Event) -> T | None:
    """Return what `body` returns once the arm lets it; say once why not; None after Ctrl-C."""
    said: str | None = None
    while not stopping.is_set():
        try:
            return body()
        except ArmStopped as stopped:
            if str(stopped) != said:
                said = str(stopped)
                say(f"waiting: {said}")
            stopping.wait(RETRY_S)
    return None


def _episodes(
    worker: Worker,
    journal: Path,
    courier: Courier | None,
    stored: Snapshot | None,
    stopping: threading.Event,
    most: int | None,
) -> None:
    done, trouble, truths = 0, None, list[bool]()
    while not stopping.is_set() and (most is None or done < most):
        snapshot = courier.snapshot if courier else stored
        finished = when_ready(partial(worker.run_episode, snapshot), stopping)
        if finished is None:
            break
        path = journal / "episodes" / finished.name
        done += 1
        info = read_episode(path).info
        _tell(info, finished)
        if info.truth is not None:
            truths.append(bool(info.truth["success"]))
        if courier:
            courier.send(path)
            if courier.trouble and courier.trouble != trouble:
                say(f"{courier.trouble}; recording goes on")
            trouble = courier.trouble
    if truths:
        _count(truths)


def _tell(info: EpisodeInfo, finished: Finished) -> None:
    """Say how an episode went, and what of the arm or of the way to its policy was odd."""
    say(f"{finished.name}: {finished.steps} steps, {info.policy}, {info.end}")
    for sentence in cast("Sequence[str]", info.config.get("tracking", ())):
        say(f"{info.arm}: {sentence}")
    streaming = cast("Mapping[str, int]", info.config.get("streaming", {}))
    if streaming.get("starved_steps"):
        held, steps = streaming["starved_steps"], streaming["steps"]
        say(f"{info.arm}: held in {held} of {steps} steps, because no rows had come")


def _count(truths: Sequence[bool]) -> None:
    """Say how many episodes succeeded, with a 95% Wilson interval."""
    lower, upper = (100 * bound for bound in wilson(sum(truths), len(truths)))
    say(
        f"{sum(truths)} of {len(truths)} succeeded ({lower:.0f}-{upper:.0f} %), "
        "by where things really were"
    )


def _client(cfg: DictConfig) -> LearnerClient | None:
    url = str(cfg.learner_url or "")
    return LearnerClient(url, token=os.environ.get("LEARNER_TOKEN")) if url else None


def _stored_policy(cfg: DictConfig, goal: Goal, recipe: Recipe | None) -> Snapshot | None:
    if not cfg.run:
        return None
    run = read_run(find_run(str(cfg.run), Path("runs")).path)
    if parse_goal(run.goal).task != goal.task:
        raise BadRun(f"{run.folder} learnt {run.goal!r}, not {str(goal)!r}", code=2)
    check_recipe(run.policy, recipe)
    return Snapshot.read(run.policy, run.updates)


def _journal(cfg: DictConfig, goal: Goal) -> Path:
    try:
        return journal_folder(
            Path(cfg.journals),
            datetime.now(UTC).date(),
            task=goal.task,
            arm=str(cfg.arm_id),
            run=secrets.token_hex(4),
        )
    except ValueError as error:
        raise BadRun(f"arm_id: {error}", code=2) from error


def _left_over(cfg: DictConfig, goal: Goal) -> list[Path]:
    """Return what earlier sessions of this arm and task could not upload."""
    journals = Path(cfg.journals).glob(f"*_{goal.task}_{cfg.arm_id}_*")
    return [path for journal in sorted(journals) for path in not_uploaded(journal)]


def main() -> int:
    """Run the command line."""
    return run_main("run_arm", practise, with_task)
