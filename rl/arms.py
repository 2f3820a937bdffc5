"""What the option of the group `arm` means: which arms there are, and what reaches them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from envs.arm_env import ArmEnv
from envs.twin_env import ACTION_SPACES
from rewarder.goal import Goal
from rl.own_arms import OwnArms
from rl.progress import say
from rl.run_record import BadRun
from robot.arm_config import ARM_ID, ArmConfig
from robot.twin_model import PRESETS


def check_arms(cfg: DictConfig, arms: Sequence[str]) -> None:
    """Raise `BadRun` or `ConfigError` where the arms are not what can be had."""
    if not arms or len(set(arms)) < len(arms) or not all(map(ARM_ID.fullmatch, arms)):
        named = ", ".join(arms)
        raise BadRun(f"arms=[{named}]; expected different names of letters, digits and -", code=2)
    if "_target_" not in cfg:
        arm = cfg.get("arm_id")
        raise BadRun(
            f"arm={arm} is one arm's own file, not a kind of arm; expected arm=real ARM_ID={arm} "
            f"(make run-arm) or arm=real arms=[{arm}] (make train-rl)",
            code=2,
        )
    for key, known in (("preset", PRESETS), ("actions", ACTION_SPACES)):
        if key in cfg and cfg[key] not in known:
            raise BadRun(f"unknown arm.{key}={cfg[key]}; known: {', '.join(known)}", code=2)
    if has_processes(cfg):
        for arm in arms:
            ArmConfig.load(arm)


def has_processes(cfg: DictConfig) -> bool:
    """Return whether arms live in processes of their own, which keep real time."""
    return "arm_id" in cfg


def is_emulated(cfg: DictConfig) -> bool:
    """Return whether emulators carry the arms."""
    return cfg.get("scene") == "emulator"


def env_maker(cfg: DictConfig, goal: Goal, arm: str) -> Callable[[], ArmEnv]:
    """Return what makes the environment of one arm, wherever that is."""
    own = {"arm_id": arm} if has_processes(cfg) else {}
    return partial(instantiate(cfg, _convert_="all", **own), goal)


def kept(cfg: DictConfig, arm: str) -> Mapping[str, object]:
    """Return what an episode keeps of the configuration."""
    settings = cast("dict[str, object]", OmegaConf.to_container(cfg, resolve=True))
    return {"arm": settings | ({"arm_id": arm} if has_processes(cfg) else {})}


def start_own_arms(
    cfg: DictConfig, arms: Sequence[str], logs: Path, stack: ExitStack
) -> Callable[[], str | None]:
    """Start emulated arms that nobody has started; return what looks after them."""
    if not is_emulated(cfg):
        return lambda: None
    own = OwnArms(arms, logs)
    stack.callback(own.close)
    if own.started:
        names = ", ".join(config.arm_id for config in own.started)
        say(f"starting emulated arms: {names}; their logs are in {logs}")
        own.wait()
    return own.check
