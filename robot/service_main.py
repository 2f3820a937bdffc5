"""What the services that people start share: where they listen, what they say, how they end."""

import argparse
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from robot import http_server
from robot.access import is_loopback
from robot.http_server import ServiceError

USAGE, INTERRUPTED = 2, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How a service is called by those who set it up."""

    module: str
    """After `python -m`."""
    config: str
    """Its file of settings, below the project's folder."""
    prefix: str
    """Of its variables: `<prefix>_HOST`, `<prefix>_PORT` and `<prefix>_TOKEN`."""

    def token(self) -> str | None:
        """Return the token of the environment, None where there is none."""
        return os.environ.get(f"{self.prefix}_TOKEN") or None

    def unknown(self, error: Exception) -> ServiceError:
        """Return Hydra's complaint about a setting, without its advice on its own syntax."""
        what = str(error).partition("\nTo append")[0].partition("\nConfig search path")[0]
        return ServiceError(f"{what} See {self.config} for what there is to set", code=USAGE)

    def port(self, value: object) -> int:
        """Return a setting as a port; raise `ServiceError` where it is none."""
        try:
            port = int(str(value))
        except ValueError:
            text = f"{self.prefix}_PORT is not a number: {value!r}"
            raise ServiceError(text, code=USAGE) from None
        if not 0 <= port < 2**16:
            raise ServiceError(
                f"{self.prefix}_PORT must be from 0 to 65535, not {port}", code=USAGE
            )
        return port

    def listen(
        self, host: str, port: int, *, token: str | None, allow_remote: bool
    ) -> socket.socket:
        """Return a listening socket; raise `ServiceError` where none may or can be had."""
        if not is_loopback(host) and not (token and allow_remote):
            raise ServiceError(
                f"{host} can be reached from other machines: set {self.prefix}_TOKEN and "
                f"allow_remote=true, or use {self.prefix}_HOST=127.0.0.1",
                code=USAGE,
            )
        remedy = f", or choose another one with {self.prefix}_PORT"
        return http_server.listen(host, port, guarded=True, remedy=remedy)

    def main(self, about: str | None, run: Callable[[Sequence[str]], int]) -> int:
        """Run a service with the command line's settings until Ctrl-C; return the exit code."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", description=about)
        parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="e.g. port=18081")
        words: list[str] = parser.parse_args().overrides
        cv2.setNumThreads(1)
        try:
            return run(words)
        except ServiceError as error:
            sys.stderr.write(" ".join(str(error).split()) + "\n")
            return error.code
        except KeyboardInterrupt:
            return INTERRUPTED


def announce(port_file: Path, listening: socket.socket) -> str:
    """Write `host:port` of a listening socket to a file, whole or not at all, and return it."""
    host, port = listening.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    partial = port_file.with_name(port_file.name + ".part")
    partial.write_text(address)
    partial.replace(port_file)
    return address
