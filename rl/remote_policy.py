"""What `policy=remote` means for a run: its arms act in the space and at the pace of a server."""

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from policy_server.handshake import SpecMismatch
from policy_server.link import PolicyLink
from policy_server.policy import Policy, PolicySpec, PolicyUnavailable
from rl.run_record import BadRun

MISSING = 3
"""Exit code where something that a run needs is not there."""


def is_remote(cfg: DictConfig) -> bool:
    """Return whether the group `policy` names a server."""
    return "_target_" in cfg


def fit_to_policy(cfg: DictConfig) -> None:
    """Have the arms act as the server's policy does, in real time; raise `BadRun`."""
    if not is_remote(cfg.policy):
        return
    try:
        with closing(PolicyLink(str(cfg.policy.url), token=_token())) as link:
            spec = link.spec
    except PolicyUnavailable as error:
        raise BadRun(str(error), code=MISSING) from error
    with open_dict(cfg):
        cfg.arm.actions, cfg.arm.hz = spec.action_space, spec.hz
        if "realtime" in cfg.arm:
            # A server's time is wall time: a twin that runs ahead of it would outrun its policy.
            cfg.arm.realtime = True


def policy_maker(cfg: DictConfig) -> Callable[[PolicySpec], Policy] | None:
    """Return what connects an arm to its policy server; None for a run's own policy."""
    if not is_remote(cfg):
        return None
    settings = OmegaConf.to_container(cfg, resolve=True)
    return partial(_connected, settings)


def _connected(settings: object, arm: PolicySpec) -> Policy:
    try:
        return instantiate(settings, _convert_="all")(arm=arm, token=_token())
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, PolicyUnavailable | SpecMismatch):
            raise BadRun(str(cause), code=MISSING) from error
        raise


def _token() -> str | None:
    return os.environ.get("POLICY_SERVER_TOKEN") or None
