"""Train the embedded vision-language model on the twin: `make train-embedded-vlm OUT=FOLDER`.

Words: `out=`, `data=` (a folder of `ops.reward_scenes`, made if missing), `minutes=30`, `seed=0`,
`base=` (a checkpoint of this kind to go on from).
First the vision tower alone learns to say where everything is; then the whole model learns the next
word, several questions to each picture after one look at it. The result is a checkpoint in the
layout of any Qwen3-VL.
"""

# pyright: reportUnknownMemberType=false
# The types of torch are partly unknown.

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from envs.tasks import TASKS
from ops import reward_scenes
from rewarder.faults import EXPOSURE, exposed
from rewarder.goal import FORMS, task_goal
from rewarder.prompts import LETTER, LETTERS, YES_NO, Prompt
from rewarder.tiny_qwen import MERGE, PATCH, make_tiny
from rl.progress import say
from robot.scene import COLOURS
from robot.twin import Twin
from robot.words import UsageError, parse_words

WORDS = {
    "out": "bench/embedded",
    "data": "bench/scenes",
    "n": "30000",
    "minutes": "30",
    "seed": "0",
    "base": "",
}
BATCH = 32
ALONE = 0.35
"""Share of the time in which the vision tower learns alone."""
ASIDE = 0.2
"""How much what the vision tower is told counts, once the whole model learns."""
RATE, WARMUP = 1e-3, 50
SCALE = np.array([0.1] * 9 + [0.05, 30.0, 1.0], np.float32)
"""What makes each of a moment's facts about as large as 1."""
PLACES = ["", *(f"{colour} {kind}" for kind in ("bowl", "marker", "cube") for colour in COLOURS)]
POINTS = 3
"""What the tokens say where it is: thing, place, middle of the jaws."""
SHARES = {2: (0.2, 0.8), 3: (0.15, 0.35, 0.5)}
"""How often each of a scene's goals is asked about: reach, lift, and what needs the place."""
DONE_SHARE = 0.4
"""Of the moments learnt from, those in which some goal is reached."""

type Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenes:
    """Moments of the twin."""

    pictures: NDArray[np.uint8]
    """Shape (N, 96, 192, 3)."""
    thing: NDArray[np.str_]
    place: NDArray[np.str_]
    facts: NDArray[np.float32]
    """Shape (N, 12), see `ops.reward_scenes.Seen`."""
    done: NDArray[np.int8]
    """By task, -1 where the task does not apply, shape (N, 5)."""
    progress: NDArray[np.float32]
    """By task, shape (N, 5)."""
    points: NDArray[np.float32]
    """Where thing, place and jaws are seen, shape (N, views, 3, 2), see `points_of`."""

    def __len__(self) -> int:
        return len(self.thing)

    @classmethod
    def load(cls, folder: Path) -> "Scenes":
        """Read every file of a folder, without what was thrown out of the picture."""
        files = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
        joined = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
        kept = np.abs(joined["facts"][:, :9]).max(1) < reward_scenes.FARTHEST
        sound = {name: values[kept] for name, values in joined.items()}
        sound["pictures"] = as_viewed(sound["pictures"])
        return cls(**sound, points=points_of(sound["facts"], sound["place"]))


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture, and the answer that is true."""

    prompt: Prompt
    goal: str
    target: NDArray[np.float32]
    """How likely each answer of the prompt shall be."""


def sentence(task: str, thing: str, place: str) -> str:
    """Return the goal of a task with these colours."""
    return FORMS[task].format(thing=thing, place=place.split(maxsplit=1)[0] if place else "")


def _yes_no(done: bool) -> NDArray[np.float32]:
    return np.array([done, not done], np.float32)


def _letters(progress: float) -> NDArray[np.float32]:
    """Return two neighbouring letters whose expectation is the progress."""
    at = progress * (len(LETTERS) - 1)
    low = min(int(at), len(LETTERS) - 2)
    target = np.zeros(len(LETTERS), np.float32)
    target[low], target[low + 1] = low + 1 - at, at - low
    return target


def questions(scenes: Scenes, row: int, rng: np.random.Generator) -> list[Asked]:
    """Return what is asked about a moment: one goal both ways, and now and then one not there."""
    thing, place = str(scenes.thing[row]), str(scenes.place[row])
    names = list(TASKS)
    can = [i for i in range(len(names)) if scenes.done[row, i] >= 0]
    i = int(rng.choice(can, p=np.array(SHARES[len(can)])))
    goal, done = sentence(names[i], thing, place), bool(scenes.done[row, i])
    asked = [
        Asked(YES_NO, goal, _yes_no(done)),
        Asked(LETTER, goal, _letters(float(scenes.progress[row, i]))),
    ]
    if rng.random() < 0.5:
        return asked
    other = absent_goal(thing, place, rng)
    either = Asked(YES_NO, other, _yes_no(False)), Asked(LETTER, other, _letters(0.0))
    return [*asked, either[int(rng.random() < 0.4)]]


def absent_goal(thing: str, place: str, rng: np.random.Generator) -> str:
    """Return a goal about something that is not on the table."""
    while True:
        task = str(rng.choice(list(FORMS)))
        a, b = rng.choice(COLOURS, 2, replace=False)
        goal = task_goal(task, str(a), str(b))
        present = {f"{thing} cube", place}
        needed = {str(goal.thing), str(goal.place)} if goal.place else {str(goal.thing)}
        if not needed <= present:
            return str(goal)


class Student:
    """A checkpoint that is being trained, with what it was told about the vision tower's sight."""

    def __init__(self, folder: Path) -> None:
        """Load the checkpoint of a folder."""
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder)
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self._texts: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._grid = (96 // PATCH, 192 // PATCH)
        tokens = self._grid[0] * self._grid[1] // MERGE**2
        width = self.model.config.text_config.hidden_size
        self.sight = nn.Sequential(
            nn.Flatten(), nn.Linear(tokens * width, 192), nn.GELU(), nn.Linear(192, 12 + 3 + 10)
        )
        self.where = nn.Linear(width, 3 * POINTS)
        """For each token and point: how likely it lies there, and where within the token."""
        self.aside = nn.ModuleList([self.sight, self.where])
        """What is thrown away after training."""

    def look(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what the vision tower makes of pictures (B, H, W, 3) in -1 to 1, per token."""
        patches = patches_of(pictures)
        grid = torch.tensor([[1, *self._grid]] * len(pictures))
        seen = self.model.model.visual(patches, grid_thw=grid, return_dict=True)
        return seen.pooler_output.reshape(len(pictures), -1, seen.pooler_output.shape[-1]), list(
            seen.deepstack_features
        )

    def answer(
        self, seen: Tensor, deep: Sequence[Tensor], asked: Sequence[tuple[int, Asked]]
    ) -> Tensor:
        """Return the log-probabilities of the next word, shape (questions, words)."""
        texts = [self._text(one.prompt, one.goal) for _, one in asked]
        longest = max(len(ids) for ids, _ in texts)
        ids = torch.stack([F.pad(ids, (longest - len(ids), 0)) for ids, _ in texts])
        mask = torch.stack([F.pad(torch.ones(len(i)), (longest - len(i), 0)) for i, _ in texts])
        where = torch.stack([F.pad(p, (longest - p.shape[1], 0)) for _, p in texts], dim=1)
        rows = torch.tensor([row for row, _ in asked])
        is_picture = (ids == self.model.config.image_token_id) & mask.bool()
        words = self.model.get_input_embeddings()(ids)
        words = words.masked_scatter(is_picture[..., None].expand_as(words), seen[rows])
        out = self.model.model.language_model(
            inputs_embeds=words,
            attention_mask=mask.long(),
            position_ids=where,
            visual_pos_masks=is_picture,
            deepstack_visual_embeds=[
                level.reshape(len(seen), -1, level.shape[-1])[rows].flatten(0, 1) for level in deep
            ],
            use_cache=False,
        )
        return self.model.lm_head(out.last_hidden_state[:, -1]).log_softmax(-1)

    def _text(self, prompt: Prompt, goal: str) -> tuple[Tensor, Tensor]:
        key = (prompt.text, goal)
        if key not in self._texts:
            content = [{"type": "image"}, {"type": "text", "text": prompt.about(goal)}]
            chat = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            blank = np.zeros((self._grid[0] * PATCH, self._grid[1] * PATCH, 3), np.uint8)
            given = self.processor(
                text=[chat], images=[blank], do_resize=False, return_tensors="pt"
            )
            where, _ = self.model.model.get_rope_index(
                given["input_ids"], given["mm_token_type_ids"], given["image_grid_thw"]
            )
            self._texts[key] = given["input_ids"][0], where[:, 0]
        return self._texts[key]

    def words_of(self, prompt: Prompt) -> Tensor:
        """Return the first spelling of each answer, as token ids."""
        first = [self.processor.tokenizer.encode(ways[0])[0] for ways in prompt.answers]
        return torch.tensor(first)


def patches_of(pictures: Tensor) -> Tensor:
    """Return pictures (B, H, W, 3) as the image processor cuts them, shape (B * patches, 864)."""
    count, height, width, _ = pictures.shape
    rows, columns = height // PATCH // MERGE, width // PATCH // MERGE
    cut = pictures.reshape(count, rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
    cut = cut.permute(0, 1, 4, 2, 5, 7, 3, 6)[..., None, :, :].expand(*(-1,) * 6, 2, *(-1,) * 2)
    return cut.reshape(count * rows * columns * MERGE**2, -1)


def varied(pictures: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Return pictures in -1 to 1 under other light, a little moved, noisy or soft."""
    count = len(pictures)
    light = np.exp(rng.uniform(np.log(0.75), np.log(1.3), (count, 1, 1, 1)))
    tint = rng.uniform(0.93, 1.07, (count, 1, 1, 3))
    values = torch.from_numpy((pictures / 255.0 * light * tint).astype(np.float32))
    values = values + torch.randn(values.shape) * float(rng.uniform(0.0, 0.02))
    across, down = rng.integers(-1, 2, 2)
    values = torch.roll(values, (int(down), int(across)), (1, 2))
    return 2.0 * values.clamp(0.0, 1.0) - 1.0


def as_viewed(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pictures of two views (N, H, W, 3), each view at the brightness that `View` gives."""
    middle = pictures.shape[2] // 2
    views = ([exposed(half, EXPOSURE) for half in (p[:, :middle], p[:, middle:])] for p in pictures)
    return np.stack([np.hstack(pair) for pair in views])


def points_of(facts: NDArray[np.float32], place: NDArray[np.str_]) -> NDArray[np.float32]:
    """Return where thing, place and the middle of the jaws are seen, shape (N, views, 3, 2).

    In tokens from the left and the top of each view; NaN where there is none, or out of sight.
    """
    spots = facts[:, :9].reshape(-1, 3, 3).astype(np.float64)
    token = PATCH * MERGE
    cameras = Twin(reward_scenes.layouts()[0], cameras=reward_scenes.CAMERAS).cameras
    views = [camera.project(spots)[0] for camera in cameras.values()]
    seen = (np.stack(views, axis=1) + 0.5) / token
    seen[(seen < 0) | (seen >= 96 / token)] = np.nan
    seen[place == "", :, 1] = np.nan
    seen[np.isnan(seen).any(-1)] = np.nan
    return seen.astype(np.float32)


def where_loss(told: Tensor, points: NDArray[np.float32]) -> Tensor:
    """Return how wrong the tokens are about which of them each point lies in, and where in it.

    `told` is (B, tokens, 9), tokens row by row over both views; `points` is (B, 2, 3, 2).
    """
    side = points.shape[1]
    across = 96 // (PATCH * MERGE)
    told = told.reshape(len(told), across, side, across, 3, POINTS).transpose(1, 2)
    told = told.reshape(len(points), side, across * across, 3, POINTS)
    there = torch.from_numpy(~np.isnan(points).any(-1))
    at = torch.from_numpy(np.nan_to_num(points))
    cell = (at[..., 1].long() * across + at[..., 0].long())[there]
    one, view, point = there.nonzero(as_tuple=True)
    logits = told[one, view, :, 0, point]
    within = (
        told[one, view, cell][:, 1:, :].gather(2, point[:, None, None].expand(-1, 2, 1)).squeeze(2)
    )
    off = (within - (at[there] % 1.0)).abs().mean()
    return F.cross_entropy(logits, cell) + 4.0 * off


def sight_loss(told: Tensor, scenes: Scenes, rows: Array) -> Tensor:
    """Return how wrong the vision tower is about where everything is."""
    facts = torch.from_numpy(scenes.facts[rows] / SCALE)
    there = torch.ones_like(facts)
    there[:, 3:6] = torch.from_numpy((scenes.place[rows] != "")[:, None].astype(np.float32))
    thing = torch.tensor([COLOURS.index(str(name)) for name in scenes.thing[rows]])
    place = torch.tensor([PLACES.index(str(name)) for name in scenes.place[rows]])
    off = (there * (told[:, :12] - facts).abs()).mean()
    return 4.0 * off + F.cross_entropy(told[:, 12:15], thing) + F.cross_entropy(told[:, 15:], place)


def word_loss(student: Student, said: Tensor, asked: Sequence[tuple[int, Asked]]) -> Tensor:
    """Return the cross-entropy of the true answers."""
    losses: list[Tensor] = []
    for prompt in (YES_NO, LETTER):
        rows = [i for i, (_, one) in enumerate(asked) if one.prompt is prompt]
        target = torch.from_numpy(np.stack([asked[i][1].target for i in rows]))
        losses.append(-(target * said[rows][:, student.words_of(prompt)]).sum(-1).mean())
    return losses[0] + 0.5 * losses[1]


def batches(scenes: Scenes, rng: np.random.Generator) -> Iterator[Array]:
    """Yield rows for ever; reached goals come more often than they lie in the data."""
    done = np.flatnonzero((scenes.done == 1).any(1))
    every = np.arange(len(scenes))
    most = round(DONE_SHARE * BATCH)
    while True:
        yield np.concatenate([rng.choice(done, most), rng.choice(every, BATCH - most)])


def train(student: Student, scenes: Scenes, *, minutes: float, seed: int) -> None:
    """Train for a time; the learning rate falls with it."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    parameters = [*student.model.parameters(), *student.aside.parameters()]
    learner = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.98), weight_decay=0.02)
    began, said_at = time.monotonic(), 0.0
    for steps, rows in enumerate(batches(scenes, rng), start=1):
        spent = (time.monotonic() - began) / (60 * minutes)
        if spent >= 1.0:
            break
        warm = min(1.0, steps / WARMUP)
        learner.param_groups[0]["lr"] = RATE * warm * (0.5 + 0.5 * math.cos(math.pi * spent))
        losses = _losses(student, scenes, rows, rng, alone=spent < ALONE)
        learner.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        learner.step()
        if spent - said_at > 0.01:
            said_at = spent
            now = ", ".join(f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items())
            say(f"{minutes * (1.0 - spent):.1f} min left, {steps} steps: {now}")


def _losses(
    student: Student, scenes: Scenes, rows: Array, rng: np.random.Generator, *, alone: bool
) -> Mapping[str, Tensor]:
    seen, deep = student.look(varied(scenes.pictures[rows], rng))
    losses = {
        "sight": sight_loss(student.sight(seen), scenes, rows),
        "where": where_loss(student.where(seen), scenes.points[rows]),
    }
    if alone:
        return losses
    asked = [(i, one) for i, row in enumerate(rows) for one in questions(scenes, int(row), rng)]
    said = student.answer(seen, deep, asked)
    kept = {name: ASIDE * loss for name, loss in losses.items()}
    return {"words": word_loss(student, said, asked), **kept}


def _student(base: str, seed: int) -> Student:
    """Return the checkpoint to go on from, or an untrained one; raise `UsageError`."""
    if not base:
        with TemporaryDirectory(prefix="untrained-") as folder:
            return Student(make_tiny(Path(folder), seed=seed))
    try:
        return Student(Path(base))
    except (OSError, ValueError) as error:
        raise UsageError(f"base={base} is no checkpoint of this kind: {error}") from error


def main(words: Sequence[str]) -> int:
    """Train and write the checkpoint; return the exit code."""
    torch.set_num_threads(1)
    try:
        given = parse_words(words, known=WORDS)
        minutes, seed = float(given["minutes"]), int(given["seed"])
        student = _student(given["base"], seed)
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    out, data = Path(given["out"]), Path(given["data"])
    if not any(data.glob("*.npz")):
        reward_scenes.main([f"out={data}", f"n={given['n']}", "seed=1"])
    scenes = Scenes.load(data)
    say(f"{len(scenes)} moments, {minutes:g} minutes")
    train(student, scenes, minutes=minutes, seed=seed)
    student.model.save_pretrained(out)
    student.processor.save_pretrained(out)
    say(f"{out}: trained")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
