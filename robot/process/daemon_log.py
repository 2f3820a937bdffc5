"""Where an arm's process writes what happened: JSON lines that only its owner can read.

They name peers by their addresses, so that nothing is kept for longer than a month.
"""

import logging
import os
import time
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from robot.arm_config import ROOT

MAX_BYTES, KEPT = 10 * 2**20, 9
"""Ten files of 10 MB each, the one being written included."""
DAY_S = 24 * 3600
KEPT_S = 30 * DAY_S
FOLDER_VARIABLE = "LOG_DIR"


class _OwnersFile(RotatingFileHandler):
    """A file a day that only its owner can read, from its first byte on."""

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 - logging's name
        """Return whether the file is full, of an earlier day, or gone."""
        try:
            written = Path(self.baseFilename).stat()
        except FileNotFoundError:
            return True
        if written.st_size and written.st_mtime // DAY_S != time.time() // DAY_S:
            return True
        return bool(super().shouldRollover(record))

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        """Begin another file and delete those of more than a month ago."""
        super().doRollover()
        path = Path(self.baseFilename)
        for old in path.parent.glob(f"{path.name}.*"):
            if old.stat().st_mtime < time.time() - KEPT_S:
                old.unlink()

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
