"""Serve a reward model: `python -m rewarder.server`, or `make serve-rewarder`.

Settings are those of `conf/rewarder.yaml`; the token is `REWARDER_TOKEN` of the environment.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rewarder.checkpoint import ModelUnavailable
from rewarder.desk import Limits
from rewarder.reward import RewardModel
from rewarder.score_log import ScoreLog
from rewarder.service import create_app
from robot.http_server import ServiceError, server_of
from robot.service_main import INTERRUPTED, USAGE, Service, announce

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


def score_log_of(cfg: DictConfig) -> ScoreLog | None:
    """Return the log of scores, None where there is to be none; raise `ServiceError`."""
    if cfg.log is None:
        return None
    try:
        return ScoreLog(
            ROOT / str(cfg.log.folder), days=int(cfg.log.days), most_mb=float(cfg.log.most_mb)
        )
    except (TypeError, ValueError) as error:
        raise ServiceError(f"{error}; see {SERVICE.config}", code=USAGE) from error


def run(cfg: DictConfig) -> int:
    """Listen, announce and serve as configured; return the exit code."""
    token, port, model = SERVICE.token(), SERVICE.port(cfg.port), build(cfg)
    limits, score_log = limits_of(cfg), score_log_of(cfg)
    with SERVICE.listen(cfg.host, port, token=token, allow_remote=cfg.allow_remote) as listening:
        app = create_app(model, token=token, limits=limits, score_log=score_log)
        host, bound = listening.getsockname()[:2]
        if cfg.port_file:
            announce(Path(cfg.port_file), listening)
        log.info("serving rewards", host=host, port=bound, model=type(model).__name__)
        server_of(app).run(sockets=[listening])
    if score_log is not None:
        score_log.close()
    # Nothing but a signal ends it, also where the server itself has taken that in.
    return INTERRUPTED


def main() -> int:
    """Serve the reward model of a configuration until Ctrl-C; return the exit code."""
    return SERVICE.main(__doc__, lambda words: run(configured(words)))


if __name__ == "__main__":
    sys.exit(main())
