"""What the entry points share: overrides as people type them, errors in one line, exit codes."""

import errno
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from envs.homing import ArmStopped
from rewarder.goal import UnknownGoal, parse_goal
from rl.fleet import ArmsFailed
from rl.own_arms import ArmsNotReady
from rl.own_process import OwnProcessFailed
from rl.run_folder import RunFolder
from rl.run_record import BadRun, read_run
from robot.arm_config import ConfigError

CONF = Path(__file__).resolve().parent.parent / "conf"
SENTENCES = ("goal", "resume", "run", "runs")
"""Words whose values are text, never Hydra's syntax."""
STOPPED = 130
"""Exit code after Ctrl-C."""


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """A configuration, and what it was composed of."""

    cfg: DictConfig
    choices: Mapping[str, str]
    """The option of each group."""
    overrides: Sequence[str]


def quoted(word: str) -> str:
    """Return `name=text` with the text quoted for Hydra, if the name is one of `SENTENCES`."""
    name, equals, text = word.partition("=")
    if name not in SENTENCES or not text or text == "null" or text[0] in "'\"":
        return word
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"{name}{equals}'{escaped}'"


def unquoted(text: str) -> str:
    """Return a value without Hydra's quotes."""
    return re.sub(r"\\(['\\])", r"\1", text[1:-1]) if text[:1] in ("'", '"') else text


def with_task(words: Sequence[str]) -> list[str]:
    """Return the words with the task that their goal names; raise `BadRun` if they name another."""
    given = _named(words)
    if given.get("goal", "null") == "null":
        return list(words)
    goal = parse_goal(unquoted(given["goal"]))
    task = given.get("task", goal.task)
    if task != goal.task:
        raise BadRun(
            f"task={task} but the goal names the task {goal.task}: {goal} Give one of the two",
            code=2,
        )
    return [*(word for word in words if not word.startswith("task=")), f"task={task}"]


def with_earlier(words: Sequence[str]) -> list[str]:
    """Return the words and, where they resume a run, those that it was started with."""
    given = _named(words)
    run = unquoted(given.get("resume", "null"))
    if run in ("null", ""):
        return list(words)
    folder = find_run(run, Path(unquoted(given.get("runs", "runs"))))
    earlier = [str(word) for word in folder.facts().get("overrides", ())]
    kept = [word for word in earlier if word.partition("=")[0] not in given]
    if given.keys() & {"goal", "task"}:
        kept = [word for word in kept if word.partition("=")[0] not in ("goal", "task")]
    return [*kept, *words]


def _named(words: Sequence[str]) -> dict[str, str]:
    parts = [word.partition("=") for word in words]
    return {name: value for name, _, value in parts}


def find_run(run: str, runs: Path) -> RunFolder:
    """Return a run by its folder, or by its name among `runs`."""
    inside = runs / run
    return RunFolder(inside if inside.is_dir() and not Path(run).is_dir() else Path(run))


def find_lift(cfg: DictConfig, runs: Path) -> Path | None:
    """Return the folder of the policy that puts things back, if one is to; raise `BadRun`."""
    if not cfg.put_back:
        return None
    run = read_run(find_run(str(cfg.put_back), runs).path)
    if run.task != "lift":
        raise BadRun(
            f"put_back={cfg.put_back} learnt {run.task}; expected a run of lift: what is to be "
            "laid elsewhere has to be lifted",
            code=2,
        )
    if not (run.policy / "policy.json").exists():
        raise BadRun(f"put_back={cfg.put_back} has no policy yet", code=2)
    return run.policy


def run_main(
    config: str, body: Callable[[Composed], int], prepare: Callable[[list[str]], list[str]]
) -> int:
    """Compose `conf/<config>.yaml` with the command line, run `body`, and return its exit code.

    Every expected error is one line; `HYDRA_FULL_ERROR=1` shows where it comes from. `prepare`
    turns the words of the command line into Hydra's overrides.
    """
    full = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        return max((body(composed) for composed in _compose(config, prepare)), default=0)
    except KeyboardInterrupt:
        return _say("stopped", STOPPED)
    except Exception as error:
        found = sentence_of(error)
        if found is None or full:
            raise
        return _say(*found)


def _compose(config: str, prepare: Callable[[list[str]], list[str]]) -> list[Composed]:
    words = sys.argv[1:]
    flags = [word for word in words if word.startswith("-")]
    sys.argv[1:] = [*flags, *prepare([quoted(word) for word in words if word not in flags])]
    found: list[Composed] = []

    # What runs inside Hydra's own main has its errors announced by Hydra, too.
    @hydra.main(version_base=None, config_path=str(CONF), config_name=config)
    def keep(cfg: DictConfig) -> None:
        head = HydraConfig.get()
        found.append(Composed(cfg, dict(head.runtime.choices), list(head.overrides.task)))

    keep()
    return found


def sentence_of(error: BaseException) -> tuple[str, int] | None:
    """Return an expected error as a sentence and an exit code, None for an unexpected one."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__
        if isinstance(error, InstantiationException) and cause:
            is_value = isinstance(cause, ValueError | TypeError)
            return sentence_of(cause) or ((_one_line(str(cause)), 2) if is_value else None)
        return _of_hydra(str(error)), 2
    codes = {BadRun: getattr(error, "code", 1), UnknownGoal: 2, ConfigError: 2}
    codes |= {ArmsFailed: 1, ArmsNotReady: 3, ArmStopped: 3, OwnProcessFailed: 1}
    for kind, code in codes.items():
        if isinstance(error, kind):
            return _one_line(str(error)), code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _one_line(str(error)), 1
    return None


def _of_hydra(text: str) -> str:
    """Return Hydra's explanation without its search path and its advice."""
    text = re.split(r"\n\s*(?:Config search path|Set the env variable|full_key|To append)", text)[0]
    return _one_line(text) + "; see conf/ for what there is to set"


def _one_line(text: str) -> str:
    return "; ".join(
        re.sub(r"\s+", " ", part).strip() for part in text.splitlines() if part.strip()
    )


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"error: {sentence}\n" if code != STOPPED else f"{sentence}\n")
    return code
