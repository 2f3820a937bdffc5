"""Ask the embedded vision-language model about moments that it was not trained on.

Words: `data=` (a folder of `ops.reward_scenes` of another seed than the training's), `n=1000`
moments, `weights=`, `json=`. Every goal that a moment can have is asked about, and one that is not
there. Run: `python -m ops.bench_embedded data=FOLDER`.
"""

# pyright: reportUnknownMemberType=false
# The types of torch are partly unknown.

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from envs.tasks import TASKS
from ops.train_embedded import Asked, Scenes, Student, absent_goal, sentence
from rewarder.agreement import area_under_curve
from rewarder.curves import expected_calibration_error, sigmoid
from rewarder.prompts import LETTER, LETTERS, YES_NO
from rewarder.statistics import wilson
from rl.progress import say
from robot.revision import git_revision
from robot.words import UsageError, parse_words

WORDS = {
    "data": "bench/scenes902",
    "n": "1000",
    "weights": "rewarder/weights/embedded",
    "json": "",
}
BATCH = 16
ABSENT = "absent"
"""What goals are called that are about something that is not on the table."""


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What was asked, what is true and what the model said; arrays of one length."""

    task: NDArray[np.str_]
    done: NDArray[np.bool_]
    progress: NDArray[np.float64]
    log_odds: NDArray[np.float64]
    said_progress: NDArray[np.float64]

    def of(self, task: str | None) -> "Said":
        """Return the questions of one task, all for None."""
        kept = np.full(len(self.task), fill_value=True) if task is None else self.task == task
        return Said(*(getattr(self, name)[kept] for name in self.__slots__))


def ask(student: Student, scenes: Scenes, *, n: int) -> Said:
    """Ask about `n` moments, drawn by a fixed seed, and return all answers."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(scenes))[:n]
    facts: list[tuple[str, bool, float]] = []
    said: list[NDArray[np.float64]] = []
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        goals: list[tuple[int, str]] = []
        for at, row in enumerate(batch):
            for goal, fact in _goals(scenes, int(row), rng):
                goals.append((at, goal))
                facts.append(fact)
        said.append(_answers(student, scenes.pictures[batch], goals))
    task, done, progress = zip(*facts, strict=True)
    odds, letters = np.concatenate(said).T
    return Said(np.array(task), np.array(done), np.array(progress), odds, letters)


def _goals(
    scenes: Scenes, row: int, rng: np.random.Generator
) -> list[tuple[str, tuple[str, bool, float]]]:
    """Return a moment's goals, each with its task, whether it is done, and how far it is."""
    thing, place = str(scenes.thing[row]), str(scenes.place[row])
    goals = [
        (
            sentence(task, thing, place),
            (task, bool(scenes.done[row, i]), float(scenes.progress[row, i])),
        )
        for i, task in enumerate(TASKS)
        if scenes.done[row, i] >= 0
    ]
    return [*goals, (absent_goal(thing, place, rng), (ABSENT, False, 0.0))]


@torch.inference_mode()
def _answers(
    student: Student, pictures: NDArray[np.uint8], goals: Sequence[tuple[int, str]]
) -> NDArray[np.float64]:
    """Return the log-odds of Yes and the expected progress of each goal, shape (n, 2)."""
    nothing = np.zeros(0, np.float32)
    asked = [(at, Asked(form, goal, nothing)) for at, goal in goals for form in (YES_NO, LETTER)]
    seen, deep = student.look(torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1.0))
    words = student.answer(seen, deep, asked)
    yes_no = words[0::2][:, student.words_of(YES_NO)]
    letters = words[1::2][:, student.words_of(LETTER)].softmax(-1)
    progress = letters @ torch.linspace(0.0, 1.0, len(LETTERS))
    both = torch.stack([yes_no[:, 0] - yes_no[:, 1], progress], dim=1)
    return np.asarray(both.double().numpy(), np.float64)


def figures(said: Said) -> dict[str, Any]:
    """Return the figures of some questions; None where a class is missing."""
    yes = said.log_odds > 0
    right, wrong = int((yes == said.done).sum()), int((yes & ~said.done).sum())
    off = np.abs(said.said_progress - said.progress).mean()
    return {
        "questions": len(said.done),
        "accuracy": right / len(said.done),
        "accuracy_95": wilson(right, len(said.done)),
        "auc": area_under_curve(said.log_odds, said.done),
        "false_successes": wrong / max(1, int((~said.done).sum())),
        "ece": expected_calibration_error(sigmoid(said.log_odds), said.done),
        "progress_off": float(off),
    }


def _opened(weights: Path, data: Path) -> tuple[Student, Scenes]:
    """Return the model and the moments; raise `UsageError` where there are none."""
    if not any(data.glob("*.npz")):
        raise UsageError(f"{data} has no moments: python -m ops.reward_scenes out={data}")
    return Student(weights), Scenes.load(data)


def main(words: Sequence[str]) -> int:
    """Ask, print a line a task, write JSON; return the exit code."""
    torch.set_num_threads(1)
    try:
        given = parse_words(words, known=WORDS)
        student, scenes = _opened(Path(given["weights"]), Path(given["data"]))
        said = ask(student, scenes, n=int(given["n"]))
    except (UsageError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    found = {task: figures(said.of(task)) for task in [*TASKS, ABSENT]} | {"all": figures(said)}
    for task, row in found.items():
        auc = "-" if row["auc"] is None else f"{row['auc']:.4f}"
        say(
            f"{task:<7} {row['questions']:>5} questions: accuracy {row['accuracy']:.4f}, "
            f"AUC {auc}, false successes {row['false_successes']:.4f}, ECE {row['ece']:.4f}, "
            f"progress off by {row['progress_off']:.3f}"
        )
    if given["json"]:
        command = shlex.join(["python", "-m", "ops.bench_embedded", *words])
        facts = {"command": command, "git_revision": git_revision(), "figures": found}
        Path(given["json"]).write_text(json.dumps(facts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
