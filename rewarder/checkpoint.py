"""Where a model's weights are on this machine, and which ones they are."""

# pyright: reportUnknownVariableType=false
# The hub's types are partly unknown.

import hashlib
import re
from pathlib import Path

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_EDGE = 1 << 20
"""Bytes at both ends of a file of weights that tell it from others."""


class ModelUnavailable(Exception):
    """A model cannot be had here; the message says what to do about it."""


def folder_of(model: str) -> Path:
    """Return the folder of a model's weights; raise `ModelUnavailable`.

    `model` is a folder, or the hub's name of one that was downloaded; nothing is fetched.
    """
    if not model:
        raise ModelUnavailable("no model is named; give MODEL=FOLDER or a model of the hub")
    if Path(model).is_dir():
        return Path(model)
    if not _HUB_NAME.fullmatch(model):
        raise ModelUnavailable(f"there is no folder {model}, and no model of the hub is called so")
    return _downloaded(model)


def fingerprint(folder: Path) -> str:
    """Return 12 hex digits that tell these weights from others; raise `ModelUnavailable` for none.

    They are of name, size and both ends of every file of weights, so that large ones take no time.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelUnavailable(f"{folder} holds no *.safetensors: give the folder of a checkpoint")
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            digest.update(file.read(_EDGE))
    return digest.hexdigest()[:12]


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for published weights
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder: str = snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise ModelUnavailable(
            f"there is no folder {name}, and no weights of that name are on this machine; "
            f"get them with: hf download {name}"
        ) from error
    return Path(folder)
