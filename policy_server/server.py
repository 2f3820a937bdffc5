"""Serve a policy to any number of arms: `python -m policy_server.server`, or `make serve-pi`.

Settings are those of `conf/policy_server.yaml`; the token is the environment's POLICY_SERVER_TOKEN.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import structlog
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from policy_server.host import Host
from policy_server.line_server import LineServer
from policy_server.load import Device, load_policy
from policy_server.policy import PolicyUnavailable
from policy_server.service import create_app
from robot.access import is_loopback
from robot.http_server import ServiceError, listen, server_of
from robot.wire import MAX_BYTES

log = structlog.get_logger(__name__)

CONF = Path(__file__).resolve().parents[1] / "conf"
TOKEN_VARIABLE = "POLICY_SERVER_TOKEN"  # noqa: S105 - its name
USAGE, UNAVAILABLE, INTERRUPTED = 2, 3, 130


def configured(overrides: Sequence[str]) -> DictConfig:
    """Return `conf/policy_server.yaml` with overrides; raise `ServiceError` for unknown ones."""
    try:
        with initialize_config_dir(version_base=None, config_dir=str(CONF)):
            return compose("policy_server", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        what = " ".join(str(error).partition("\nTo append")[0].split())
        raise ServiceError(f"{what} See conf/policy_server.yaml", code=USAGE) from error


def run(cfg: DictConfig) -> int:
    """Listen, load, announce and serve; return the exit code."""
    token = os.environ.get(TOKEN_VARIABLE) or None
    port = _port(cfg.port)
    _require_token(str(cfg.host), token, allow_remote=bool(cfg.allow_remote))
    names = [name.strip() for name in str(cfg.policies).split(",") if name.strip()]
    device = Device(
        device=str(cfg.device), dtype=str(cfg.dtype), compiled=bool(cfg.compiled), hz=float(cfg.hz)
    )
    load = partial(load_policy, device=device)
    host = Host(names, load=load, max_batch=int(cfg.max_batch), gather_s=float(cfg.gather_ms) / 1e3)
    remedy = ", or choose another one with POLICY_SERVER_PORT"
    with listen(str(cfg.host), port, guarded=True, remedy=remedy) as listening:
        server = server_of(create_app(host, token=token), max_message=MAX_BYTES)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        bound = listening.getsockname()
        try:
            host.open()
            with LineServer.maybe(host, str(cfg.host), cfg.line_port, token=token):
                _announce(cfg.port_file, f"{bound[0]}:{bound[1]}")
                log.info("ready", host=bound[0], port=bound[1], policy=host.serving.name)
                _wait_for_signal()
            return INTERRUPTED
        finally:
            host.close()
            server.should_exit = True
            thread.join(timeout=5.0)


def _port(value: object) -> int:
    text = str(value)
    if not text.isdigit() or not 0 <= int(text) < 2**16:
        raise ServiceError(f"POLICY_SERVER_PORT must be from 0 to 65535, not {text!r}", code=USAGE)
    return int(text)


def _require_token(host: str, token: str | None, *, allow_remote: bool) -> None:
    if not is_loopback(host) and not (token and allow_remote):
        raise ServiceError(
            f"{host} can be reached from other machines: set {TOKEN_VARIABLE} and "
            "allow_remote=true, or use POLICY_SERVER_HOST=127.0.0.1",
            code=USAGE,
        )


def _announce(port_file: object, address: str) -> None:
    """Write the address to a file, whole or not at all, where one is asked for."""
    if port_file:
        path = Path(str(port_file))
        partial = path.with_name(path.name + ".part")
        partial.write_text(address)
        partial.replace(path)


def _wait_for_signal() -> None:
    """Wait for Ctrl-C or for whoever ends this process."""
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    while not ended.wait(1.0):
        pass


def main() -> int:
    """Serve the policy of a configuration until Ctrl-C; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m policy_server.server", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="e.g. policy=scripted")
    words: list[str] = parser.parse_args().overrides
    cv2.setNumThreads(1)
    try:
        return run(configured([_quoted(word) for word in words]))
    except PolicyUnavailable as error:
        sys.stderr.write(f"no policy can be served: {error}\n")
        return UNAVAILABLE
    except ServiceError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED


def _quoted(word: str) -> str:
    """Return a word with a list of policies, or a folder, as Hydra takes it."""
    name, _, value = word.partition("=")
    # `policy` is the name of a group of conf, for those who run arms.
    return f"policies='{value.strip('\'"')}'" if name in {"policy", "policies"} else word


if __name__ == "__main__":
    sys.exit(main())
