"""A small network that judges pictures of the goals of `rewarder.goal`, rebuilt from two files."""

# pyright: reportUnknownMemberType=false
# Torch's own types are partly unknown.

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from rewarder.goal import FORMS, Goal, UnknownGoal, parse_goal
from rewarder.reward import Clip, NoScore, Score
from rewarder.view import View
from robot.scene import COLOURS
from robot.sealed import make_folder, seal

FORMAT = 1
"""Version of `classifier.json`; another one is refused."""
WEIGHTS, DESCRIPTION = "classifier.safetensors", "classifier.json"
BATCH = 64
SLOTS = (tuple(FORMS), COLOURS, ("", *COLOURS))
"""What a goal says: task, colour of the thing, colour of the place ('' for none)."""
GOAL_SIZE = sum(len(slot) for slot in SLOTS)
CHANNELS = (24, 48, 96, 128)
SQUEEZED, HIDDEN = 32, 128


class ClassifierDamaged(ValueError):
    """The files of a classifier do not belong together or are not of this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What has to be known of a classifier besides its weights."""

    height: int
    """Of the pictures it was trained on, as its width is."""
    width: int
    trained_on: str
    """Hash of the labelled set."""
    accuracy: float
    """On the scenes that were held out."""
    auc: float


class Network(nn.Module):
    """Looks at a picture with the goal in mind: convolutions, modulated by the goal (FiLM)."""

    def __init__(self, height: int, width: int) -> None:
        """Take pictures of (height, width), each at least 16 pixels."""
        super().__init__()
        sizes = (3, *CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(into, out, 3, stride=2, padding=1) for into, out in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, out) for out in CHANNELS)
        self.films = nn.ModuleList(nn.Linear(GOAL_SIZE, 2 * out) for out in CHANNELS)
        self.squeeze = nn.Conv2d(CHANNELS[-1], SQUEEZED, 1)
        fields = _halved(height) * _halved(width)
        self.hidden = nn.Linear(SQUEEZED * fields + GOAL_SIZE, HIDDEN)
        self.heads = nn.Linear(HIDDEN, 2)

    def forward(self, pictures: Tensor, goals: Tensor) -> Tensor:
        """Return log-odds of success and of progress, shape (n, 2).

        `pictures` are (n, height, width, 3) from 0 to 255, `goals` (n, GOAL_SIZE).
        """
        x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        for convolution, norm, film in zip(self.convolutions, self.norms, self.films, strict=True):
            scale, shift = film(goals)[:, :, None, None].chunk(2, dim=1)
            x = torch.relu(norm(convolution(x)) * (1.0 + scale) + shift)
        x = torch.relu(self.squeeze(x)).flatten(1)
        return self.heads(torch.relu(self.hidden(torch.cat([x, goals], dim=1))))


def _halved(side: int) -> int:
    for _ in CHANNELS:
        side = (side + 1) // 2
    return side


def encoded(goals: Sequence[Goal]) -> Tensor:
    """Return goals as ones among zeros, shape (n, GOAL_SIZE)."""
    rows = torch.zeros(len(goals), GOAL_SIZE)
    for row, goal in zip(rows, goals, strict=True):
        said = (goal.task, goal.thing.colour, goal.place.colour if goal.place else "")
        at = 0
        for slot, word in zip(SLOTS, said, strict=True):
            row[at + slot.index(word)] = 1.0
            at += len(slot)
    return rows


@torch.inference_mode()
def judged(network: Network, pictures: NDArray[np.uint8], goals: Tensor) -> NDArray[np.float64]:
    """Return log-odds of success and of progress of pictures (n, h, w, 3), shape (n, 2)."""
    rows = [
        network(torch.tensor(pictures[at : at + BATCH]), goals[at : at + BATCH])
        for at in range(0, len(pictures), BATCH)
    ]
    return np.asarray(torch.cat(rows), np.float64) if rows else np.zeros((0, 2))


class Classifier:
    """Scores clips moment by moment; it knows the goals of `rewarder.goal` and no other."""

    def __init__(self, folder: str | Path, *, view: View, threads: int | None = 1) -> None:
        """Load what `make train-classifier` wrote and look through `view`.

        `threads` is how many torch may use in this process; None leaves them. Raise
        `ClassifierDamaged`.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self._network, self._facts, self._name = load_classifier(Path(folder))
        self._view = view

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` for a goal or pictures that are unknown."""
        goal = _goal(clip.goal)
        faults = self._view.faults(clip)
        shown = {t: self._view.moment(clip, t) for t, fault in enumerate(faults) if fault is None}
        seen = {t: picture for t, picture in shown.items() if picture is not None}
        valid = np.isin(np.arange(len(clip)), list(seen))
        logit, progress = np.full(len(clip), np.nan), np.zeros(len(clip))
        if seen:
            pictures = self._stacked(list(seen.values()))
            said = judged(self._network, pictures, encoded([goal]).expand(len(seen), -1))
            logit[valid], progress[valid] = said[:, 0], 1.0 / (1.0 + np.exp(-said[:, 1]))
        why = {} if seen else {"why": next((f for f in faults if f), "no picture is whole")}
        return Score(
            success=logit > 0.0,
            progress=progress,
            valid=valid,
            model=self._name,
            logit=logit,
            evidence={"valid_share": float(valid.mean())},
            notes=why,
        )

    def _stacked(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        expected = (self._facts.height, self._facts.width, 3)
        for picture in pictures:
            if picture.shape != expected:
                raise NoScore(
                    f"the view shows pictures of {picture.shape[0]}x{picture.shape[1]} pixels, the "
                    f"classifier was trained on {expected[0]}x{expected[1]}; give it that view"
                )
        return np.stack(pictures)


def save_classifier(folder: Path, network: Network, facts: Facts) -> None:
    """Write a classifier's two files, the description last: with it the folder is complete."""
    make_folder(folder)
    weights = save_tensors(
        {name: value.contiguous() for name, value in network.state_dict().items()}
    )
    said = {
        "format": FORMAT,
        "slots": SLOTS,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **asdict(facts),
    }
    seal(folder / WEIGHTS, weights)
    seal(folder / DESCRIPTION, (json.dumps(said, indent=2) + "\n").encode())


def load_classifier(folder: Path) -> tuple[Network, Facts, str]:
    """Return the network in a folder, what is known of it, and its name with version."""
    try:
        said = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
        sha = hashlib.sha256(weights).hexdigest()
        if said["format"] != FORMAT or said["slots"] != json.loads(json.dumps(SLOTS)):
            raise _damaged(folder, "it is of another version; train it again")
        if said["weights_sha256"] != sha:
            raise _damaged(folder, f"{WEIGHTS} is not the file that {DESCRIPTION} describes")
        facts = Facts(**{name: said[name] for name in Facts.__dataclass_fields__})
        network = Network(facts.height, facts.width)
        network.load_state_dict(load_tensors(weights))
    except FileNotFoundError as error:
        raise _damaged(folder, f"{error.filename} is missing; make train-classifier") from error
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ClassifierDamaged):
            raise
        raise _damaged(folder, f"it holds nonsense: {error!r}") from error
    network.eval()
    return network, facts, f"classifier/{sha[:12]}"


def _damaged(folder: Path, why: str) -> ClassifierDamaged:
    return ClassifierDamaged(f"{folder} is no classifier: {why}")


def _goal(sentence: str) -> Goal:
    try:
        return parse_goal(sentence)
    except UnknownGoal as error:
        raise NoScore(str(error)) from error
