"""Serve a reward model: `python -m rewarder.server`, or `make serve-rewarder`.

Settings are those of `conf/rewarder.yaml`; the token is `REWARDER_TOKEN` of the environment.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rewarder.admin_api import Records, Setting
from rewarder.checkpoint import ModelUnavailable
from rewarder.desk import Limits
from rewarder.feedback import FeedbackStore
from rewarder.reward import RewardModel
from rewarder.score_log import ScoreLog
from rewarder.service import create_app
from robot.http_server import ServiceError, server_of
from robot.service_main import INTERRUPTED, USAGE, Service, announce
from robot.tokens import OneToken, TokenError, TokenFile, Tokens

log = structlog.get_logger(__name__)

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
UNAVAILABLE = 3
"""Exit code where the model's weights are not here."""
SERVICE = Service(module="rewarder.server", config="conf/rewarder.yaml", prefix="REWARDER")


def configured(overrides: Sequence[str]) -> DictConfig:
    """Return `conf/rewarder.yaml` with overrides; raise `ServiceError` where one is unknown."""
    try:
        with initialize_config_dir(version_base=None, config_dir=str(CONF)):
            return compose("rewarder", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise SERVICE.unknown(error) from error


def build(cfg: DictConfig) -> RewardModel:
    """Return the configured model; raise `ServiceError` where it cannot be built."""
    try:
        return instantiate(cfg.reward)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ModelUnavailable):
            raise ServiceError(f"no reward model: {cause}", code=UNAVAILABLE) from error
        hint = "; write it with `make calibrate-camera`" if isinstance(cause, OSError) else ""
        raise ServiceError(f"cannot build the reward model: {cause}{hint}") from error


def limits_of(cfg: DictConfig) -> Limits:
    """Return how much the service takes on; raise `ServiceError` where that makes no sense."""
    try:
        return Limits(
            workers=int(cfg.workers),
            max_pending=int(cfg.max_pending),
            deadline_s=float(cfg.deadline_s),
            cached=int(cfg.cached),
        )
    except (TypeError, ValueError) as error:
        raise ServiceError(f"{error}; see {SERVICE.config}", code=USAGE) from error


def records_of(cfg: DictConfig) -> Records:
    """Return where scores and verdicts are kept; raise `ServiceError` where that makes no sense."""
    feedback = FeedbackStore(ROOT / str(cfg.feedback)) if cfg.feedback else None
    if cfg.log is None:
        return Records(feedback=feedback)
    try:
        score_log = ScoreLog(
            ROOT / str(cfg.log.folder), days=int(cfg.log.days), most_mb=float(cfg.log.most_mb)
        )
    except (TypeError, ValueError) as error:
        raise ServiceError(f"{error}; see {SERVICE.config}", code=USAGE) from error
    return Records(score_log=score_log, feedback=feedback)


def tokens_of(cfg: DictConfig, token: str | None) -> Tokens | None:
    """Return the tokens that are asked for, None for none; raise `ServiceError` for a bad file."""
    if not cfg.token_file:
        return OneToken(token) if token else None
    try:
        return TokenFile(ROOT / str(cfg.token_file))
    except (TokenError, OSError) as error:
        raise ServiceError(f"token_file: {error}", code=USAGE) from error


def load(name: str, settings: Mapping[str, Setting]) -> RewardModel:
    """Return a model of `conf/reward/` with some settings changed; raise `ModelUnavailable`.

    What comes from a peer names no class and no variable of the environment.
    """
    try:
        cfg = configured([f"reward={name}"])
        for setting, value in settings.items():
            is_inner = any(part.startswith("_") for part in setting.split("."))
            is_group = OmegaConf.is_config(OmegaConf.select(cfg.reward, setting))
            if is_inner or is_group or "${" in str(value):
                raise ModelUnavailable(f"{setting}={value!r} is nothing that a peer may set")
            OmegaConf.update(cfg.reward, setting, value)
        return build(cfg)
    except (ServiceError, OmegaConfBaseException) as error:
        raise ModelUnavailable(f"{name}: {' '.join(str(error).split())}") from error


def run(cfg: DictConfig) -> int:
    """Listen, announce and serve as configured; return the exit code."""
    token, port, model = SERVICE.token(), SERVICE.port(cfg.port), build(cfg)
    limits, tokens, guard = limits_of(cfg), tokens_of(cfg, token), token or cfg.token_file
    with SERVICE.listen(cfg.host, port, token=guard, allow_remote=cfg.allow_remote) as listening:
        records = records_of(cfg)
        app = create_app(model, tokens=tokens, limits=limits, records=records, load=load)
        host, bound = listening.getsockname()[:2]
        if cfg.port_file:
            announce(Path(cfg.port_file), listening)
        log.info("serving rewards", host=host, port=bound, model=type(model).__name__)
        server_of(app).run(sockets=[listening])
    if records.score_log is not None:
        records.score_log.close()
    # Nothing but a signal ends it, also where the server itself has taken that in.
    return INTERRUPTED


def main() -> int:
    """Serve the reward model of a configuration until Ctrl-C; return the exit code."""
    return SERVICE.main(__doc__, lambda words: run(configured(words)))


if __name__ == "__main__":
    sys.exit(main())
