"""The files of a LeRobot v3 dataset, read as far as they can be, without LeRobot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

STATE, ACTION, PICTURES = "observation.state", "action", "observation.images."
"""What LeRobot calls them; a camera's name follows the last."""
NEEDED = {"episode_index", "frame_index", "timestamp"}

# pyarrow comes without types.
arrow: Any = pyarrow
files: Any = parquet


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The parts of a dataset that could be read."""

    root: Path
    info: Mapping[str, Any]
    statistics: Mapping[str, Any]
    episodes: Sequence[Mapping[str, Any]]
    """What its metadata says of each."""
    rows: Mapping[int, Mapping[str, NDArray[Any]]]
    """Columns by episode."""
    troubles: Sequence[tuple[str, str]]
    """What could not be read, and why."""

    @property
    def fps(self) -> float:
        """Return frames a second."""
        return float(self.info.get("fps", 0)) or 1.0

    @property
    def cameras(self) -> list[str]:
        """Return the features that are videos."""
        features: Mapping[str, Any] = self.info.get("features", {})
        return [name for name, about in features.items() if about.get("dtype") == "video"]


def read_contents(root: Path) -> Contents:
    """Return what can be read of the dataset at `root`."""
    troubles: list[tuple[str, str]] = []
    meta = root / "meta"
    episodes = _table(root, "meta/episodes", troubles)
    rows = _table(root, "data", troubles)
    return Contents(
        root=root,
        info=_json(meta / "info.json", troubles),
        statistics=_json(meta / "stats.json", troubles),
        episodes=[] if episodes is None else episodes.to_pylist(),
        rows={} if rows is None else _by_episode(rows),
        troubles=troubles,
    )


def frames_in(file: Path) -> int | None:
    """Return how many frames a video has, by its packets; None where it is none."""
    try:
        with av.open(str(file)) as video:
            return sum(1 for packet in video.demux(video=0) if packet.size)
    except (OSError, av.error.FFmpegError, IndexError):
        return None


def _by_episode(table: Any) -> dict[int, Mapping[str, NDArray[Any]]]:  # noqa: ANN401 - pyarrow's
    names: list[str] = table.column_names
    if not set(names) >= NEEDED:
        return {}
    columns = {name: np.array(table.column(name).to_pylist()) for name in names}
    numbers = columns["episode_index"]
    return {
        number: {name: values[numbers == number] for name, values in columns.items()}
        for number in np.unique(numbers).tolist()
    }


def _json(path: Path, troubles: list[tuple[str, str]]) -> Mapping[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        troubles.append((f"meta/{path.name}", str(error)))
        return {}
    return content if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _table(root: Path, folder: str, troubles: list[tuple[str, str]]) -> Any:  # noqa: ANN401 - pyarrow's
    """Return all rows of a folder's parquet files that can be read; None where there are none."""
    tables: list[Any] = []
    found = sorted((root / folder).rglob("*.parquet"))
    for file in found:
        try:
            tables.append(files.read_table(file))
        except (OSError, arrow.ArrowException) as error:
            troubles.append((str(file.relative_to(root)), f"{error}: was its writer killed?"))
    if not found:
        troubles.append((folder, "it has no parquet file"))
    return arrow.concat_tables(tables, promote_options="default") if tables else None
