"""What a clone's training needs to be gone on with, in one file that is whole or the one before."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Torch's and safetensors' own types are partly unknown.

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from rl.adam import Adam
from rl.networks import Networks
from robot.sealed import make_folder, seal

CHECKPOINT = "clone.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Where a training is kept, how often, and which training that is."""

    file: Path
    every: int
    """Updates."""
    facts: Mapping[str, object]
    """What a training that goes on from it must share with this one, as JSON gives it back."""

    def save(
        self, done: int, networks: Networks, optimizer: Adam, draws: np.random.Generator
    ) -> None:
        """Keep a training after `done` updates, in the place of what was kept before."""
        said = {"facts": self.facts, "done": done, "draws": draws.bit_generator.state}
        make_folder(self.file.parent)
        tensors = _tensors(networks, optimizer)
        seal(self.file, save_tensors(tensors, {name: json.dumps(it) for name, it in said.items()}))

    def load(self, networks: Networks, optimizer: Adam, draws: np.random.Generator) -> int:
        """Return how many updates were kept, and give a training what it had then.

        That is 0 where nothing was kept. Raise `ValueError` for what is damaged or another's.
        """
        if not self.file.is_file():
            return 0
        mine = _tensors(networks, optimizer)
        kept, said = _read(self.file)
        self._refuse_other(said["facts"])
        for name, tensor in mine.items():
            tensor.copy_(kept[name])
        draws.bit_generator.state = said["draws"]
        return said["done"]

    def _refuse_other(self, theirs: Mapping[str, object]) -> None:
        for name, mine in self.facts.items():
            if theirs.get(name) != mine:
                raise ValueError(
                    f"{self.file} was begun with {name}={theirs.get(name)} and not {mine}; go on "
                    f"with the same words and recordings, or delete {self.file.parent}"
                )


def _tensors(networks: Networks, optimizer: Adam) -> dict[str, Tensor]:
    """Return all that updates change, by name and not copied."""
    return {"flat": networks.flat.detach(), **optimizer.moments[0].named()}


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, "pt") as kept:
            said = {name: json.loads(text) for name, text in kept.metadata().items()}
            return {name: kept.get_tensor(name) for name in kept.keys()}, said  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); delete {file.parent} to begin anew"
        ) from None
