"""Teach a policy from a typed goal: `python -m rl.train goal="Lift the green cube."`."""

import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from envs.arm_env import policy_spec
from envs.twin_env import ACTION_SPACES, SAFETY
from rewarder.client import RemoteReward
from rewarder.goal import Goal, parse_goal
from rewarder.reward import RewardModel
from rl import put_back
from rl.actor import Worker
from rl.arms import check_arms, env_maker, has_processes, is_emulated, kept, start_own_arms
from rl.audit import Audit, Rules
from rl.command_line import (
    CONF,
    STOPPED,
    Composed,
    find_lift,
    find_run,
    run_main,
    with_earlier,
    with_task,
)
from rl.dashboard import make_view
from rl.evaluate import Conditions, evaluate_run, sentence
from rl.fleet import Fleet, MakeWorker
from rl.intake import Intake
from rl.labeller import Labeller
from rl.learner import Learner
from rl.logs import log_to
from rl.loop import Schedule, Training, View
from rl.own_rewarder import OwnRewarder
from rl.progress import say
from rl.remote_policy import (
    base_at_hand,
    fit_to_policy,
    is_remote,
    is_residual,
    policy_maker,
)
from rl.report import write_report
from rl.residual_base import Recipe
from rl.run_folder import EPISODES, RunFolder
from rl.run_record import BadRun
from rl.service import LearnerService
from robot.limits import SafetyLimits
from robot.revision import git_revision

FROZEN = 4
"""Exit code of a run that ended with its updates frozen."""
NO_JUDGE = "none"
HAVE_GEOMETRY = ("heuristic", "blend")
"""Rewards that the heuristic has a part in: it cannot be their judge."""

type Watch = Callable[[], str | None]
"""Looks after helpers and says what is wrong with them."""


def practise(composed: Composed) -> int:
    """Train, evaluate and write the report; return the exit code."""
    # What this process has spent so far went into imports, and the person waited for it.
    began = time.monotonic() - time.process_time()
    cfg = composed.cfg
    check_arms(cfg.arm, arms_of(cfg))
    rules_of(cfg)
    judge_of(composed)
    fit_hard_share(cfg)
    find_lift(cfg, Path(cfg.runs))
    with base_at_hand(cfg) as watch_base:
        return _practise(composed, fit_to_policy(cfg), watch_base, began)


def _practise(composed: Composed, recipe: Recipe | None, watch_base: Watch, began: float) -> int:
    cfg = composed.cfg
    goal, schedule, learner = goal_of(cfg), schedule_of(cfg), make_learner(cfg)
    folder = open_folder(composed, goal)
    log_to(folder.path / "train.log")
    try:
        if recipe:
            recipe.keep(folder.policy)
        with helpers(composed, goal, folder) as (intake, audit, view, watch):
            training = Training(
                learner=learner,
                intake=intake,
                folder=folder,
                schedule=schedule,
                audit=audit,
                view=view,
                watch=lambda: watch() or watch_base(),
                began=began,
            )
            with stopped_by_signals(training.stopping.set):
                training.restore()
                training.run()
    finally:
        folder.close()
    if cfg.put_back:
        say(put_back.sentence(folder.lines(EPISODES)))
    if training.stopping.is_set():
        say(f"stopped; go on with: make train-rl resume={folder.path.name}")
        return STOPPED
    if training.frozen:
        say(f"{training.frozen}; go on with: make train-rl resume={folder.path.name}")
        say(f"report: {write_report(folder.path)}")
        return FROZEN
    conclude(folder.path, conditions_of(cfg))
    return 0


def arms_of(cfg: DictConfig) -> list[str]:
    """Return the names of the arms."""
    return [str(arm) for arm in cfg.arms]


def goal_of(cfg: DictConfig) -> Goal:
    """Return the goal; raise `BadRun` if goal and task differ."""
    goal = parse_goal(str(cfg.goal or cfg.task.goal))
    if goal.task != cfg.task.name:
        raise BadRun(f"the goal {str(goal)!r} is not of the task {cfg.task.name}", code=2)
    return goal


def schedule_of(cfg: DictConfig) -> Schedule:
    """Return the schedule; raise `BadRun` where a number is none."""
    names = ("steps", "minutes", "updates_per_step", "warmup_steps", "max_debt")
    try:
        patience_s = cfg.audit.patience_s
        return Schedule(patience_s=patience_s, **{name: cfg[name] for name in names})
    except (TypeError, ValueError) as error:
        raise BadRun(str(error), code=2) from error


def fit_hard_share(cfg: DictConfig) -> None:
    """Let no layout be repeated where a person lays out; raise `BadRun` where the share is none."""
    share: object = cfg.hard_share
    if not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
        raise BadRun(f"hard_share={share!r}; expected a number from 0 to 1", code=2)
    if share and (cfg.put_back or cfg.arm.get("scene") == "person"):
        who = "the arm" if cfg.put_back else "a person"
        say(f"hard_share is ignored: {who} lays the table out, and no layout can be repeated")
        cfg.hard_share = 0.0


def rules_of(cfg: DictConfig) -> Rules:
    """Return when updates freeze; raise `BadRun` where a number is none."""
    try:
        return Rules(every=cfg.audit.every, precision=cfg.audit.precision)
    except (TypeError, ValueError) as error:
        raise BadRun(str(error), code=2) from error


def open_folder(composed: Composed, goal: Goal) -> RunFolder:
    """Return the locked folder of a new run, or of the one to go on with."""
    cfg = composed.cfg
    if not cfg.resume:
        return RunFolder.create(
            Path(cfg.runs),
            task=goal.task,
            config=OmegaConf.to_yaml(cfg, resolve=True),
            facts=facts(composed, goal),
        )
    folder = find_run(str(cfg.resume), Path(cfg.runs))
    earlier = folder.facts()
    if earlier["goal"] != str(goal):
        raise BadRun(f"{folder.path} practises {earlier['goal']!r}, not {str(goal)!r}", code=2)
    folder.lock()
    return folder


def facts(composed: Composed, goal: Goal) -> Mapping[str, object]:
    """Return what `run.json` says of a run."""
    cfg = composed.cfg
    return {
        "goal": str(goal),
        "preset": str(cfg.arm.get("preset", "stiff")),
        "arm": composed.choices["arm"],
        "seed": int(cfg.seed),
        "actors": len(cfg.arms),
        "reward": str(cfg.rewarder.url or composed.choices["reward"]),
        "judge": str(cfg.audit.url or judge_of(composed)),
        "git_revision": git_revision(),
        "overrides": list(composed.overrides),
        "command": shlex.join(["python", "-m", "rl.train", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def helpers(
    composed: Composed, goal: Goal, folder: RunFolder
) -> Generator[tuple[Intake, Audit, View, Watch]]:
    """Start the view, the reward service, the judge and the arms; end them in the end."""
    cfg = composed.cfg
    arms = "1 arm" if len(cfg.arms) == 1 else f"{len(cfg.arms)} arms"
    title = f"{goal} {arms}, seed {cfg.seed}, {folder.path}"
    with ExitStack() as stack:
        own_arms = start_own_arms(cfg.arm, arms_of(cfg), folder.path, stack)
        view = stack.enter_context(make_view(title))
        reward, watch = make_reward(composed, folder, stack)
        labeller = Labeller(reward, folder.labels)
        stack.callback(labeller.close)
        judge, watch_judge = make_judge(composed, folder, stack)
        audit = Audit(judge, folder, rules_of(cfg))
        stack.callback(audit.close)
        intake = Intake(make_fleets(cfg, goal, folder, stack), labeller, folder)
        yield intake, audit, view, lambda: own_arms() or watch() or watch_judge()


def make_reward(
    composed: Composed, folder: RunFolder, stack: ExitStack
) -> tuple[RewardModel, Watch]:
    """Return the reward service's client, and what looks after a service of the run's own."""
    cfg, reward = composed.cfg, composed.choices["reward"]
    log_file = folder.path / "rewarder.log"
    return client_of(str(cfg.rewarder.url or ""), reward, cfg, log_file, stack)


def make_judge(
    composed: Composed, folder: RunFolder, stack: ExitStack
) -> tuple[RewardModel | None, Watch]:
    """Return the client of the judge of the audits, if there is to be one, and its watch."""
    cfg, judge = composed.cfg, judge_of(composed)
    url = str(cfg.audit.url or "")
    if judge == NO_JUDGE and not url:
        return None, lambda: None
    return client_of(url, judge, cfg, folder.path / "judge.log", stack)


def judge_of(composed: Composed) -> str:
    """Return the option of conf/reward that judges the rewarded successes again, or `none`."""
    judge, reward = str(composed.cfg.judge), composed.choices["reward"]
    models = {path.stem for path in (CONF / "reward").glob("*.yaml")}
    if judge == "auto":
        return NO_JUDGE if reward in HAVE_GEOMETRY else "heuristic"
    if judge == reward:
        raise BadRun(f"judge={judge} is the reward itself; give another model, or none", code=2)
    if judge != NO_JUDGE and judge not in models:
        known = ", ".join(sorted(models))
        raise BadRun(f"unknown judge {judge!r}; known: auto, none, {known}", code=2)
    return judge


def client_of(
    url: str, model: str, cfg: DictConfig, log_file: Path, stack: ExitStack
) -> tuple[RemoteReward, Watch]:
    """Return a client of the service at `url`, or of one of the run's own that serves `model`."""
    watch = None
    if not url:
        service = OwnRewarder(model, log_file)
        stack.callback(service.close)
        url, watch = service.url, service.check
    token = os.environ.get("REWARDER_TOKEN")
    client = RemoteReward(url, timeout_s=float(cfg.rewarder.timeout_s), token=token)
    stack.callback(client.close)
    return client, watch or (lambda: None)


def make_fleets(
    cfg: DictConfig, goal: Goal, folder: RunFolder, stack: ExitStack
) -> Sequence[Fleet]:
    """Return the run's own arms at work, and the door for arms elsewhere if there is to be one."""
    fleets: list[Fleet] = []
    if cfg.service.port:
        service = LearnerService(folder, goal=str(goal), token=cfg.service.token)
        service.serve(str(cfg.service.host), int(cfg.service.port))
        stack.callback(service.close)
        fleets.append(service)
    # An arm that keeps real time cannot give way to the learner as the twin does.
    pace = {"nice": 0} if has_processes(cfg.arm) and "nice" in cfg.cluster else {}
    own: Fleet = instantiate(cfg.cluster, _convert_="all", **pace)
    stack.callback(own.close)
    own.start({arm: worker_of(cfg, goal, folder, arm) for arm in arms_of(cfg)})
    return [own, *fleets]


def worker_of(cfg: DictConfig, goal: Goal, folder: RunFolder, arm: str) -> MakeWorker:
    """Return what makes the worker of one arm, wherever that is."""
    return partial(
        Worker,
        arm=arm,
        make_env=env_maker(cfg.arm, goal, arm),
        journal=folder.journal(arm).resolve(),
        seed=int(cfg.seed),
        git_revision=git_revision(),
        config=kept(cfg.arm, arm),
        make_policy=policy_maker(cfg.policy),
        greedy_every=int(cfg.greedy_every),
        hard_share=float(cfg.hard_share),
        lift=find_lift(cfg, Path(cfg.runs)),
    )


def make_learner(cfg: DictConfig) -> Learner:
    """Return the learner for what the arms see and do; raise `BadRun` where a setting is none."""
    make = instantiate(cfg.learner, _partial_=True, _convert_="all")
    check_learner(cfg)
    actions = ACTION_SPACES[str(cfg.arm.actions)](SafetyLimits.load(SAFETY))
    spec = policy_spec(actions, hz=float(cfg.arm.hz))
    try:
        return make(spec, seed=int(cfg.seed), git_revision=git_revision())
    except (TypeError, ValueError) as error:
        raise BadRun(f"learner: {error}", code=2) from error


def check_learner(cfg: DictConfig) -> None:
    """Raise `BadRun` where the learner cannot learn from how the arms act."""
    if "policy" not in cfg:
        return
    learner, corrects = str(cfg.learner._target_), is_residual(cfg.policy)
    if corrects != learner.endswith("residual_learner"):
        raise BadRun("learner=residual and policy=residual go together: give both", code=2)
    if is_remote(cfg.policy) and not corrects and "NoLearner" not in learner:
        raise BadRun("policy=remote acts by a policy server: add learner=none", code=2)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Generator[None]:
    """Turn the first Ctrl-C into a clean end; a second one is as abrupt as ever."""

    def handle(number: int, _: object) -> None:
        stop()
        signal.signal(number, signal.default_int_handler)

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def conditions_of(cfg: DictConfig) -> Conditions | None:
    """Return how the policy is tried in the end: on arms of the kind that it was trained on."""
    if cfg.evaluation_episodes < 1 or cfg.arm.get("scene") == "person":
        return None
    arms = arms_of(cfg) if is_emulated(cfg.arm) else ()
    return Conditions(episodes=int(cfg.evaluation_episodes), arms=arms)


def conclude(folder: Path, conditions: Conditions | None) -> None:
    """Try the policy on fresh layouts, write the report and say where it is."""
    if conditions:
        say(sentence(evaluate_run(folder, conditions)))
    say(f"report: {write_report(folder)}")


def main() -> int:
    """Run the command line."""
    return run_main("train", practise, lambda words: with_task(with_earlier(words)))


if __name__ == "__main__":
    sys.exit(main())
