"""Named numbers over time, in the run folder: JSON lines, TensorBoard, W&B where configured."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

import structlog

from rl.run_folder import RunFolder

log = structlog.get_logger(__name__)


class Metrics:
    """Writes the numbers of one run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._board: Any = None
        self._tracked = _tracked(folder)

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
            self._tracked.log(dict(numbers), step=step)

    def close(self) -> None:
        """Write what is still buffered."""
        if self._board is not None:
            self._board.close()
        if self._tracked is not None:
            self._tracked.finish()


def _tracked(folder: RunFolder) -> Any | None:  # noqa: ANN401 - W&B is optional, and so are its types
    """Return a Weights & Biases run of the folder's name if WANDB_PROJECT names a project.

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
        name = folder.path.name
        return wandb.init(project=project, id=name, name=name, resume="allow", dir=str(folder.path))
    except (wandb.Error, OSError) as error:
        log.warning("the run is not tracked", project=project, error=str(error))
        return None
