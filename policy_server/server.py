"""Serve a policy to any number of arms: `python -m policy_server.server`, or `make serve-pi`.

Settings are those of `conf/policy_server.yaml`; the token is the environment's POLICY_SERVER_TOKEN.
"""

import gc
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from policy_server.host import Host
from policy_server.line_server import LineServer
from policy_server.load import Device, load_policy, plain_policy
from policy_server.policy import PolicyUnavailable
from policy_server.service import create_app
from robot.http_server import ServiceError, server_of
from robot.service_main import INTERRUPTED, Service, announce
from robot.wire import MAX_BYTES

log = structlog.get_logger(__name__)

CONF = Path(__file__).resolve().parents[1] / "conf"
SERVICE = Service(
    module="policy_server.server", config="conf/policy_server.yaml", prefix="POLICY_SERVER"
)
UNAVAILABLE = 3


def configured(overrides: Sequence[str]) -> DictConfig:
    """Return `conf/policy_server.yaml` with overrides; raise `ServiceError` for unknown ones."""
    try:
        with initialize_config_dir(version_base=None, config_dir=str(CONF)):
            return compose("policy_server", overrides=[_quoted(word) for word in overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise SERVICE.unknown(error) from error


def run(cfg: DictConfig) -> int:
    """Listen, load, announce and serve; return the exit code."""
    host, address, token = host_of(cfg), str(cfg.host), SERVICE.token()
    port, allow_remote = SERVICE.port(cfg.port), bool(cfg.allow_remote)
    with SERVICE.listen(address, port, token=token, allow_remote=allow_remote) as listening:
        server = server_of(create_app(host, token=token), max_message=MAX_BYTES)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            host.open()
            # What is loaded stays: to look through it for garbage would hold a request up.
            gc.collect()
            gc.freeze()
            with LineServer.maybe(host, address, cfg.line_port, token=token):
                if cfg.port_file:
                    announce(Path(cfg.port_file), listening)
                bound = listening.getsockname()
                log.info("ready", host=bound[0], port=bound[1], policy=host.serving.name)
                _wait_for_signal()
        except PolicyUnavailable as error:
            message = f"no policy can be served: {error}"
            raise ServiceError(message, code=UNAVAILABLE) from error
        finally:
            host.close()
            server.should_exit = True
            thread.join(timeout=5.0)
    return INTERRUPTED


def host_of(cfg: DictConfig) -> Host:
    """Return the host of the configured policies, none of which is loaded."""
    names = [name.strip() for name in str(cfg.policies).split(",") if name.strip()]
    device = Device(
        device=str(cfg.device),
        dtype=str(cfg.dtype),
        int8=bool(cfg.int8),
        compiled=bool(cfg.compiled),
        samples=int(cfg.samples),
        hz=float(cfg.hz),
    )
    return Host(
        names,
        load=partial(load_policy, device=device),
        plain=partial(plain_policy, device=device),
        max_batch=int(cfg.max_batch),
        gather_s=float(cfg.gather_ms) / 1e3,
    )


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
    return SERVICE.main(__doc__, lambda words: run(configured(words)))


def _quoted(word: str) -> str:
    """Return a word with a list of policies, or a folder, as Hydra takes it."""
    name, _, value = word.partition("=")
    # `policy` is the name of a group of conf, for those who run arms.
    return f"policies='{value.strip('\'"')}'" if name in {"policy", "policies"} else word


if __name__ == "__main__":
    sys.exit(main())
