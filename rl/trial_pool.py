"""Trials of stored policies, several at a time in processes of their own."""

import multiprocessing as mp
import queue
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

from envs.arm_env import ArmEnv
from envs.homing import ArmStopped
from policy_server.backends.residual import PREFIX
from policy_server.policy import Policy, PolicySpec
from rewarder.goal import parse_goal
from rl.fleet import RETRY_S
from rl.person import PersonJudge
from rl.residual_base import Recipe, bases_of
from rl.run_record import BadRun, RunRecord
from rl.trial import FIRST_SEED, Judge, Trial, TruthJudge, play_trial
from robot.perturbation import NOMINAL, Perturbation

type Job = tuple[Contender, int]
"""Who plays, and on which seed."""
type Outcome = Trial | str
"""A trial, or why there is none."""
_POLL_S = 0.5
PATIENCE_S = 60.0
"""A trial waits this long for an arm that does not obey."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A stored policy and the world that it is tried in."""

    policy: Path
    goal: str
    preset: str
    variation: float = 0.0
    """How much the twin's table differs from scene to scene, 0 to 1."""
    perturbation: Perturbation = NOMINAL
    """In what the twin is another one, the same in every trial."""
    base: str = ""
    """Where the policy that it corrects is served; empty for one that acts alone."""


def contender_of(run: RunRecord, preset: str) -> Contender:
    """Return a run's newest policy; raise `BadRun` if there is none yet."""
    if not (run.policy / "policy.json").is_file():
        raise BadRun(f"{run.folder} has no policy yet; `make train-rl resume={run.folder.name}`")
    return Contender(policy=run.policy, goal=run.goal, preset=preset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How trials are held."""

    episodes: int = 200
    """Trials of each policy."""
    judge: str = "truth"
    """`truth` of the twin, or a `person` at the bench."""
    preset: str | None = None
    """Which twin; None for the one that the run was trained on."""
    processes: int = 2
    first_seed: int = FIRST_SEED
    arms: Sequence[str] = ()
    """Emulated arms behind their own processes to play on, in place of twins."""
    variation: float = 0.0
    """How much light, colours, cameras, friction and delay of twins differ, 0 to 1."""
    goal: str | None = None
    """A sentence of the same task with other colours; None for the one that was learnt."""

    def __post_init__(self) -> None:
        for name in ("episodes", "processes"):
            if getattr(self, name) < 1:
                raise BadRun(f"{name}={getattr(self, name)}; expected 1 or more", code=2)
        if self.judge not in {"truth", "person"}:
            raise BadRun(f"unknown judge {self.judge!r}; known: truth, person", code=2)
        if not 0.0 <= self.variation <= 1.0:
            raise BadRun(f"variation={self.variation}; expected 0 (none) to 1", code=2)
        if self.variation and self.arms:
            raise BadRun("variation= is of twins; leave out arms= or variation=", code=2)

    @property
    def seeds(self) -> range:
        """Return the seed of each layout."""
        return range(self.first_seed, self.first_seed + self.episodes)


def play(jobs: Sequence[Job], conditions: Conditions) -> Iterator[tuple[int, Trial]]:
    """Yield each job's index and trial as it ends, before the judge that is named."""
    with bases_of(contender.policy for contender, _ in jobs) as urls:
        jobs = [(replace(one, base=urls.get(one.policy, "")), seed) for one, seed in jobs]
        if conditions.judge == "person":
            yield from play_here(jobs, PersonJudge(total=len(jobs)))
        else:
            yield from play_jobs(jobs, on=conditions.arms or [None] * conditions.processes)


def play_jobs(jobs: Sequence[Job], *, on: Sequence[str | None]) -> Iterator[tuple[int, Trial]]:
    """Yield each job's index and trial as it ends; raise `BadRun` where one cannot be played.

    `on` names an arm for each process, or None for a twin.
    """
    context = mp.get_context("spawn")
    todo: mp.Queue[tuple[int, Job] | None] = context.Queue()
    done: mp.Queue[tuple[int, Outcome]] = context.Queue()
    for item in [*enumerate(jobs), *[None] * len(on)]:
        todo.put(item)
    workers = [
        context.Process(target=_work, args=(todo, done, arm), daemon=True)
        for arm in on[: len(jobs)]
    ]
    with _running(workers):
        for _ in jobs:
            index, outcome = _next(done, workers)
            if isinstance(outcome, str):
                raise BadRun(outcome)
            yield index, outcome


def play_here(jobs: Sequence[Job], judge: Judge) -> Iterator[tuple[int, Trial]]:
    """Yield each job's index and trial, one after another in this process."""
    for index, (contender, seed) in enumerate(jobs):
        env, policy = load(contender)
        yield index, play_trial(env, policy, seed=seed, judge=judge)


@cache
def load(contender: Contender, arm: str | None = None) -> tuple[ArmEnv, Policy]:
    """Return an environment and the contender's greedy policy; raise `BadRun` if damaged.

    Both are built once. The environment is a twin's where no emulated arm is named.
    """
    # torch and MuJoCo cost seconds, and whoever only hands out jobs has no use for them.
    import torch  # noqa: PLC0415

    from policy_server.backends.learned import LearnedPolicy  # noqa: PLC0415
    from rl.residual import composed  # noqa: PLC0415

    # Two processes of several threads each get in each other's way on few cores.
    torch.set_num_threads(1)
    try:
        policy = LearnedPolicy.load(contender.policy, greedy=True)
        recipe = Recipe.read(contender.policy)
        realtime = bool(arm or (recipe and recipe.settings["realtime"]))
        env = _env_of(contender, policy.spec, arm=arm, realtime=realtime)
    except (OSError, ValueError) as error:
        raise BadRun(f"{contender.policy} cannot be played: {error}") from None
    if recipe:
        return env, composed(
            policy,
            recipe,
            version=policy.version,
            url=contender.base,
            arm=env.offers,
            realtime=realtime,
        )
    if policy.spec != env.policy_spec:
        raise BadRun(
            f"{contender.policy} reads {policy.spec}, the arm gives {env.policy_spec}; "
            "check out the revision that trained it"
        )
    return env, policy


def _env_of(contender: Contender, spec: PolicySpec, *, arm: str | None, realtime: bool) -> ArmEnv:
    """Return the world of a contender whose policy has this spec."""
    from envs.real_env import make_real_env  # noqa: PLC0415
    from envs.twin_env import make_twin_env  # noqa: PLC0415

    goal, actions = parse_goal(contender.goal), spec.action_space.removeprefix(PREFIX)
    if arm:
        return make_real_env(goal, arm_id=arm, actions=actions, hz=spec.hz, scene="emulator")
    return make_twin_env(
        goal,
        preset=contender.preset,
        actions=actions,
        hz=spec.hz,
        realtime=realtime,
        variation=contender.variation,
        perturbation=contender.perturbation,
    )


def _work(
    todo: "mp.Queue[tuple[int, Job] | None]",
    done: "mp.Queue[tuple[int, Outcome]]",
    arm: str | None,
) -> None:
    for index, job in _while_wanted(todo):
        try:
            done.put((index, _play(job, arm)))
        except (BadRun, ArmStopped) as error:
            done.put((index, str(error)))


def _while_wanted[T](todo: "mp.Queue[T | None]") -> Iterator[T]:
    """Yield what is to be done until there is None, or nobody is left to tell."""
    parent = mp.parent_process()
    while parent is None or parent.is_alive():
        with suppress(queue.Empty):
            item = todo.get(timeout=_POLL_S)
            if item is None:
                return
            yield item


def _play(job: Job, arm: str | None) -> Trial:
    """Play a trial, as soon as the arm lets it begin; raise `BadRun` or `ArmStopped`."""
    contender, seed = job
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            env, policy = load(contender, arm)
            return play_trial(env, policy, seed=seed, judge=TruthJudge())
        except ArmStopped:
            if time.monotonic() > end:
                raise
            time.sleep(RETRY_S)


def _next(
    done: "mp.Queue[tuple[int, Outcome]]", workers: Sequence[BaseProcess]
) -> tuple[int, Outcome]:
    while True:
        # Asked before the wait: a worker that ends in good order leaves its last trial behind.
        failed = [worker.exitcode for worker in workers if worker.exitcode]
        try:
            return done.get(timeout=_POLL_S)
        except queue.Empty:
            if failed:
                raise BadRun(f"a process of trials died, exit code {failed[0]}") from None


@contextmanager
def _running(workers: Sequence[BaseProcess]) -> Generator[None]:
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(timeout=5)
