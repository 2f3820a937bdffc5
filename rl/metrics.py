"""Named numbers over time, in the run folder: JSON lines and TensorBoard."""

from collections.abc import Mapping
from typing import Any

from rl.run_folder import RunFolder


class Metrics:
    """Writes the numbers of one run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._board: Any = None

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers that belong to an environment step."""
        self._folder.append("metrics.jsonl", {k: round(v, 5) for k, v in numbers.items()})
        # Its import takes a second, which the first episodes need not wait for.
        if self._board is None:
            from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415

            self._board = SummaryWriter(str(self._folder.path / "tensorboard"))
        for name, number in numbers.items():
            self._board.add_scalar(name, number, step)

    def close(self) -> None:
        """Write what is still buffered."""
        if self._board is not None:
            self._board.close()
