"""Named numbers over time, in the run folder: JSON lines, TensorBoard, W&B where configured."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from rl.run_folder import RunFolder

log = structlog.get_logger(__name__)


class Metrics:
    """Writes the numbers of one run."""

    def __init__(self, folder: RunFolder, *, name: str = "") -> None:
        """Write into a folder; a tracker knows the run by `name`, or else by the folder's own."""
        self._folder = folder
        self._board: Any = None
        self._tracked: Any = _tracked(folder.path, name or folder.path.name)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers that belong to an environment step."""
        self._folder.append("metrics.jsonl", {k: round(v, 5) for k, v in numbers.items()})
        # Its import takes a second, which the first episodes need not wait for.
        if self._board is None:
            from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415

            self._board = SummaryWriter(str(self._folder.path / "tensorboard"))
        for name, number in numbers.items():
            self._board.add_scalar(name, number, step)
        if self._tracked is not None:
            self._track(step, numbers)

    def _track(self, step: int, numbers: Mapping[str, float]) -> None:
        try:
            self._tracked.log(dict(numbers), step=step)
        except _errors() as error:
            log.warning("the run is tracked no longer", step=step, error=str(error))
            self._tracked = None

    def close(self) -> None:
        """Write what is still buffered."""
        if self._board is not None:
            self._board.close()
        if self._tracked is not None:
            try:
                self._tracked.finish()
            except _errors() as error:
                log.warning("the tracker did not end the run", error=str(error))


def _errors() -> tuple[type[Exception], ...]:
    """Return what a tracker fails with."""
    wandb: Any = importlib.import_module("wandb")
    return (wandb.Error, OSError)


def _tracked(path: Path, name: str) -> Any | None:  # noqa: ANN401 - W&B is optional, and so are its types
    """Return a Weights & Biases run of this name if WANDB_PROJECT names a project.

    A tracker that is missing or does not answer is logged and never stops a run.
    """
    project = os.environ.get("WANDB_PROJECT")
    if not project:
        return None
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError:
        log.warning("wandb is not installed: uv sync --inexact --extra wandb", project=project)
        return None
    try:
        return wandb.init(project=project, id=name, name=name, resume="allow", dir=str(path))
    except _errors() as error:
        log.warning("the run is not tracked", project=project, error=str(error))
        return None
