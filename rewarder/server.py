"""Serve a reward model: `python -m rewarder.server`, or `make serve-rewarder`.

Settings are those of `conf/rewarder.yaml`; the token is `REWARDER_TOKEN` of the environment.
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import structlog
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rewarder.reward import RewardModel
from rewarder.service import create_app
from robot import http_server
from robot.access import is_loopback
from robot.http_server import ServiceError, server_of

log = structlog.get_logger(__name__)

CONF = Path(__file__).resolve().parents[1] / "conf"
TOKEN_VARIABLE = "REWARDER_TOKEN"  # noqa: S105 - its name
USAGE, INTERRUPTED = 2, 130


def listen(host: str, port: int, *, token: str | None, allow_remote: bool) -> socket.socket:
    """Return a listening socket; raise `ServiceError` where none may or can be had."""
    if not is_loopback(host) and not (token and allow_remote):
        raise ServiceError(
            f"{host} can be reached from other machines: set {TOKEN_VARIABLE} and "
            "allow_remote=true, or use REWARDER_HOST=127.0.0.1",
            code=USAGE,
        )
    if not 0 <= port < 2**16:
        raise ServiceError(f"REWARDER_PORT must be from 0 to 65535, not {port}", code=USAGE)
    return http_server.listen(
        host, port, guarded=True, remedy=", or choose another one with REWARDER_PORT"
    )


def announce(port_file: Path, listening: socket.socket) -> str:
    """Write `host:port` of a listening socket to a file, whole or not at all, and return it."""
    host, port = listening.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    partial = port_file.with_name(port_file.name + ".part")
    partial.write_text(address)
    partial.replace(port_file)
    return address


def build(cfg: DictConfig) -> RewardModel:
    """Return the configured model; raise `ServiceError` where it cannot be built."""
    try:
        return instantiate(cfg.reward)
    except InstantiationException as error:
        cause = error.__cause__ or error
        hint = "; write it with `make calibrate-camera`" if isinstance(cause, OSError) else ""
        raise ServiceError(f"cannot build the reward model: {cause}{hint}") from error


def run(cfg: DictConfig) -> None:
    """Listen, announce and serve as configured."""
    token = os.environ.get(TOKEN_VARIABLE) or None
    try:
        port = int(cfg.port)
    except (TypeError, ValueError):
        raise ServiceError(f"REWARDER_PORT is not a number: {cfg.port!r}", code=USAGE) from None
    model = build(cfg)
    with listen(cfg.host, port, token=token, allow_remote=cfg.allow_remote) as listening:
        app = create_app(model, token=token, workers=cfg.workers, max_pending=cfg.max_pending)
        host, bound = listening.getsockname()[:2]
        if cfg.port_file:
            announce(Path(cfg.port_file), listening)
        log.info("serving rewards", host=host, port=bound, model=type(model).__name__)
        server_of(app).run(sockets=[listening])


def configured(overrides: Sequence[str]) -> DictConfig:
    """Return `conf/rewarder.yaml` with overrides; raise `ServiceError` where one is unknown."""
    try:
        with initialize_config_dir(version_base=None, config_dir=str(CONF)):
            return compose("rewarder", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        what = str(error).partition("\nTo append")[0].partition("\nConfig search path")[0]
        message = f"{' '.join(what.split())} See conf/rewarder.yaml for what there is to set"
        raise ServiceError(message, code=USAGE) from error


def main() -> int:
    """Serve the reward model of a configuration until Ctrl-C; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rewarder.server", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="e.g. port=18081")
    words: list[str] = parser.parse_args().overrides
    cv2.setNumThreads(1)
    try:
        run(configured(words))
    except ServiceError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return error.code
    except KeyboardInterrupt:
        pass
    # Nothing but a signal ends it, also where the server itself has taken that in.
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
