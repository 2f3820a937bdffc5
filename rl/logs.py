"""Where log lines go: a file, one JSON object a line, so that the terminal stays readable."""

import logging
import os
from pathlib import Path

import structlog


def log_to(default: Path) -> Path:
    """Write this process's log lines to `default`, or to a file of its name in `LOG_DIR`."""
    folder = os.environ.get("LOG_DIR")
    path = Path(folder) / f"{default.parent.name}.{default.name}" if folder else default
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    path.chmod(0o600)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    logging.basicConfig(filename=path, level=logging.WARNING, force=True)
    return path
