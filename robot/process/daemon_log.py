"""Where an arm's process writes what happened: JSON lines that only its owner can read."""

import logging
import os
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from robot.arm_config import ROOT

MAX_BYTES, KEPT = 10 * 2**20, 9
"""Ten files of 10 MB each, the one being written included."""
FOLDER_VARIABLE = "LOG_DIR"


class _OwnersFile(RotatingFileHandler):
    """A file that only its owner can read, from its first byte on."""

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding="utf-8", opener=opener)


def log_to(name: str) -> Path:
    """Write this process's log lines to a file of `LOG_DIR`, and return it."""
    folder = ROOT / (os.environ.get(FOLDER_VARIABLE) or "logs")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    path = folder / f"{name}.log"
    handler = _OwnersFile(path, maxBytes=MAX_BYTES, backupCount=KEPT)
    path.chmod(0o600)
    logging.basicConfig(handlers=[handler], format="%(message)s", level=logging.INFO, force=True)
    for chatty in ("uvicorn.error", "websockets", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            # As JSON, what a peer sends cannot begin a line of its own.
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return path
