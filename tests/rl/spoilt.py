"""Datasets with one thing wrong with them each."""

import json

import numpy as np
import pyarrow as pa
from pyarrow import parquet


def other_fps(root):
    info = json.loads((root / "meta/info.json").read_text())
    rewrite(root, timestamp=lambda values: values * info["fps"] / 25)
    (root / "meta/info.json").write_text(json.dumps({**info, "fps": 25}))


def other_camera(root):
    for path in (root / "meta/info.json", root / "meta/stats.json"):
        path.write_text(path.read_text().replace("images.side", "images.wrist"))


def other_joints(root):
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace("elbow_flex.pos", "elbow_roll.pos"))


def radians(root):
    rewrite(root, **{"observation.state": np.deg2rad, "action": np.deg2rad})


def no_statistics(root):
    (root / "meta/stats.json").unlink()


def cut_parquet(root):
    path = next((root / "data").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:200])


def cut_video(root):
    path = next((root / "videos").rglob("*.mp4"))
    path.write_bytes(path.read_bytes()[:200])


def not_finite(root):
    rewrite(root, action=lambda values: values * np.nan)


def rewrite(root, **changes):
    path = next((root / "data").rglob("*.parquet"))
    table = parquet.read_table(path)
    for name, change in changes.items():
        index = table.column_names.index(name)
        values = change(np.array(table.column(name).to_pylist()))
        column = pa.array(values.tolist(), table.schema.field(name).type)
        table = table.set_column(index, table.schema.field(name), column)
    parquet.write_table(table, path)


SPOILT = [
    (other_fps, "25 frames a second"),
    (other_camera, "cameras front 96x96, wrist 96x96"),
    (other_joints, "elbow_roll"),
    (radians, "radians"),
    (no_statistics, "stats.json"),
    (cut_parquet, "parquet"),
    (cut_video, "no video"),
    (not_finite, "not finite"),
]
"""What spoils a dataset, and what is said of it then."""
