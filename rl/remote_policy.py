"""What a policy server means for a run: its arms act in the space and at the pace of its policy.

With `policy=remote` they act by its rows, with `policy=residual` by what is learnt to correct them.
"""

import os
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from policy_server.backends.residual import Growth
from policy_server.handshake import SpecMismatch
from policy_server.link import PolicyLink
from policy_server.policy import Policy, PolicySpec, PolicyUnavailable
from rl.residual_base import MISSING, Recipe, own_base
from rl.run_record import BadRun

TARGET = "rl.residual.residual_policy"
"""What an option of conf/policy that corrects a base names."""
SCRIPTED, SCRIPTED_HZ = "scripted", 10
"""The base that is the expert of the run's own task, at the pace of policies that learn here."""

type Watch = Callable[[], str | None]
"""Looks after a helper and says what is wrong with it."""


def is_remote(cfg: DictConfig) -> bool:
    """Return whether the group `policy` names a server."""
    return "_target_" in cfg


def is_residual(policy: DictConfig) -> bool:
    """Return whether an option of conf/policy corrects a base."""
    return str(policy.get("_target_")) == TARGET


@contextmanager
def base_at_hand(cfg: DictConfig) -> Generator[Watch]:
    """Have the base of `cfg.policy` served while this lasts, where there is one to be corrected.

    Without a URL a server of the run's own is started, and `cfg.policy.url` says where. Raise
    `BadRun` where the settings make no sense, `OwnProcessFailed` where it does not start.
    """
    policy = cfg.policy
    if not is_residual(policy):
        yield lambda: None
        return
    _check_growth(policy)
    if policy.url:
        with open_dict(cfg):
            policy.base = None
        yield lambda: None
    else:
        name = base_name(policy, str(cfg.task.name))
        with own_base(name) as server:
            with open_dict(cfg):
                policy.base, policy.url = name, server.url
            yield server.check


def fit_to_policy(cfg: DictConfig) -> Recipe | None:
    """Have the arms act as the server's policy does, in real time; raise `BadRun`.

    A base that is to be corrected may take its time instead, while a twin's stands still. What is
    to be kept of it is returned.
    """
    if not is_remote(cfg.policy):
        return None
    if not cfg.policy.url:
        raise BadRun("give policy.url=ws://host:8080 of the policy to correct", code=2)
    try:
        with closing(PolicyLink(str(cfg.policy.url), token=_token())) as link:
            spec = link.spec
    except PolicyUnavailable as error:
        raise BadRun(str(error), code=MISSING) from error
    with open_dict(cfg):
        cfg.arm.actions, cfg.arm.hz = spec.action_space, spec.hz
        if "realtime" in cfg.arm and not is_residual(cfg.policy):
            # A server's time is wall time: a twin that runs ahead of it would outrun its policy.
            cfg.arm.realtime = True
    return recipe_of(cfg.policy, spec.checkpoint) if is_residual(cfg.policy) else None


def _check_growth(policy: DictConfig) -> None:
    try:
        Growth(alpha=policy.alpha, first=policy.first, updates=policy.updates)
    except (TypeError, ValueError) as error:
        raise BadRun(f"policy: {error}", code=2) from error


def recipe_of(policy: DictConfig, checkpoint: str) -> Recipe:
    """Return what is to be kept of a residual's settings and of the base's spec."""
    settings = cast("dict[str, Any]", OmegaConf.to_container(policy, resolve=True))
    url, base = str(settings.pop("url")), settings.pop("base")
    ours = {name: value for name, value in settings.items() if name[0] != "_" and name != "noise"}
    return Recipe(base=base or url, own=bool(base), checkpoint=checkpoint, settings=ours)


def base_name(policy: DictConfig, task: str) -> str:
    """Return the name of the base by `policy_server.load`; raise `BadRun` where there is none."""
    base, noise = str(policy.base or ""), policy.noise
    if not isinstance(noise, int | float) or not 0.0 <= noise < float("inf"):
        raise BadRun(f"policy.noise={noise}; expected a number from 0 up", code=2)
    if base == SCRIPTED:
        return f"{SCRIPTED}:{task}?noise={noise:g}&hz={SCRIPTED_HZ}"
    if not base:
        raise BadRun(
            "policy=residual corrects another policy: give policy.url=ws://host:8080 of one (make "
            f"serve-pi), or policy.base={SCRIPTED} policy.noise=0.25 for one that comes along",
            code=2,
        )
    if noise:
        raise BadRun(
            f"policy.noise={noise} is for policy.base={SCRIPTED} alone; leave it out with {base}",
            code=2,
        )
    return base


def policy_maker(cfg: DictConfig) -> Callable[[PolicySpec, str], Policy] | None:
    """Return what connects an arm to its policy server; None for a run's own policy."""
    if not is_remote(cfg):
        return None
    settings = OmegaConf.to_container(cfg, resolve=True)
    return partial(_connected, settings)


def _connected(settings: object, arm: PolicySpec, name: str) -> Policy:
    try:
        return instantiate(settings, _convert_="all")(arm=arm, name=name, token=_token())
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, PolicyUnavailable | SpecMismatch):
            raise BadRun(str(cause), code=MISSING) from error
        raise


def _token() -> str | None:
    return os.environ.get("POLICY_SERVER_TOKEN") or None
