"""A page on which people say how clips and pairs of clips went: what to ask next, and what is kept.

Each rater judges every clip by themselves, hard ones first, then the pairs, and then looks at some
clips again in another order without seeing what they said. An answer counts once it is on the disk.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewarder.clip_set import BadSet, Label, append_label, open_set
from rewarder.pairs import Pair, PairLabel, Preferred, append_pairs, newest, read_pairs
from robot.access import Door, RefusedError
from robot.http_server import Careful, Gate, answer_errors, json_body

PAGE = Path(__file__).with_name("label_page")
FILES = {path.name: path for path in PAGE.iterdir()}
SECOND_LOOKS = 0.2
"""Share of the clips that a rater is shown again."""
MAX_BODY = 4096


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class AnswerBody(_Message):
    """What a rater says of the item that is being asked about."""

    rater: Annotated[str, Field(max_length=32)]
    item: Annotated[str, Field(max_length=200)]
    """Its key."""
    success: bool | None = None
    """Of a clip."""
    stars: Annotated[int, Field(ge=1, le=5)] | None = None
    """Of a clip that was not passed over."""
    better: Literal["left", "right", "tie"] | None = None
    """Of a pair. With neither `success` nor `better` the item is passed over."""


class UndoBody(_Message):
    """Who takes their last answer back."""

    rater: Annotated[str, Field(max_length=32)]


@dataclass(frozen=True, slots=True)
class Item:
    """A clip, or a pair of them, that a rater is asked about."""

    clips: tuple[str, ...]
    """Names, from left to right."""
    pass_number: int = 1
    pair: Pair | None = None

    @property
    def key(self) -> str:
        """Return what an answer calls it."""
        return f"{self.pass_number}:" + ":".join(self.clips)


@dataclass(slots=True)
class _Rater:
    """Where one rater stands."""

    settled: set[str] = field(default_factory=set[str])
    """Keys of what is answered or, since the page was opened, passed over."""
    history: list[Item] = field(default_factory=list[Item])
    """What was answered since then, oldest first."""


class LabelDesk:
    """Knows what each rater is asked next, and keeps what they say."""

    def __init__(self, folder: Path, pairs: Sequence[Pair], pairs_file: Path) -> None:
        """Ask about the clips of a set and about pairs of the episodes that they come from.

        Raise `BadSet` where the set takes no labels.
        """
        self._folder, self._pairs_file = folder, pairs_file
        self._set = found = open_set(folder)
        if found.frozen is not None:
            raise BadSet(f"{folder} is frozen: it takes no more labels")
        ranks = {name: clip.origin.get("rank", 0) for name, clip in found.clips.items()}
        self._order = sorted(found.names, key=lambda name: (ranks[name], name))
        self._by_episode = {str(c.origin.get("episode")): n for n, c in found.clips.items()}
        self._pairs = [
            pair for pair in pairs if {pair.first, pair.second} <= self._by_episode.keys()
        ]
        self.raters = tuple(found.info.raters)
        self._at = {rater: self._where(rater) for rater in self.raters}

    def next(self, rater: str) -> Item | None:
        """Return what to ask a rater; None where they have judged everything."""
        settled = self._rater(rater).settled
        return next((item for item in self._items(rater) if item.key not in settled), None)

    def progress(self, rater: str) -> tuple[int, int]:
        """Return how many items a rater has settled, and of how many."""
        settled, items = self._rater(rater).settled, self._items(rater)
        return sum(item.key in settled for item in items), len(items)

    def answer(self, said: AnswerBody) -> None:
        """Keep an answer to what is being asked; raise `RefusedError` for any other."""
        item, at = self.next(said.rater), self._rater(said.rater)
        if item is None or item.key != said.item:
            raise RefusedError(409, "not_asked", "that is not what is asked; reload the page")
        if item.pair is None:
            self._keep_clip(item, said)
        else:
            self._keep_pair(item, said)
        at.settled.add(item.key)
        at.history.append(item)

    def undo(self, rater: str) -> None:
        """Take back a rater's last answer since the page was opened, and ask for it next."""
        at = self._rater(rater)
        if not at.history:
            raise RefusedError(409, "nothing_to_undo", "there is no answer to take back")
        item = at.history.pop()
        # What is passed over counts for nothing, also if nobody comes back to it.
        nothing = AnswerBody(rater=rater, item=item.key)
        (self._keep_clip if item.pair is None else self._keep_pair)(item, nothing)
        at.settled.discard(item.key)

    def picture(self, clip: str, camera: str, index: int) -> bytes:
        """Return a JPEG of a clip; raise `RefusedError` where there is none."""
        found = self._set.clips.get(clip)
        pictures = found.clip.frames.get(camera, ()) if found else ()
        if not 0 <= index < len(pictures) or not pictures[index]:
            raise RefusedError(404, "not_found", "there is no such picture")
        return pictures[index]

    def shown(self, item: Item) -> Mapping[str, object]:
        """Return what the page needs to know of an item; nothing of what models said."""
        clips = [self._set.clips[name].clip for name in item.clips]
        return {
            "item": item.key,
            "kind": "clip" if item.pair is None else "pair",
            "goal": clips[0].goal,
            "clips": [
                {"clip": name, "cameras": list(clip.frames), "moments": len(clip)}
                for name, clip in zip(item.clips, clips, strict=True)
            ],
        }

    def _keep_clip(self, item: Item, said: AnswerBody) -> None:
        if said.better is not None or (said.success is None and said.stars is not None):
            raise RefusedError(422, "invalid", "say success true or false of a clip, and stars")
        label = Label(
            clip=item.clips[0],
            success=said.success,
            stars=said.stars,
            pass_number=item.pass_number,
        )
        append_label(self._folder, said.rater, label)

    def _keep_pair(self, item: Item, said: AnswerBody) -> None:
        if said.success is not None or said.stars is not None or item.pair is None:
            raise RefusedError(422, "invalid", "say of a pair which is better: left, right or tie")
        left_is_first = self._by_episode[item.pair.first] == item.clips[0]
        sides: dict[str | None, Preferred | None] = {
            None: None,
            "tie": "tie",
            "left": "first" if left_is_first else "second",
            "right": "second" if left_is_first else "first",
        }
        label = PairLabel.of_person(item.pair, sides[said.better], said.rater)
        append_pairs(self._pairs_file, [label])

    def _items(self, rater: str) -> list[Item]:
        """Return all that a rater is asked, in order."""
        once = [Item((name,)) for name in self._order]
        pairs = [self._pair_item(rater, pair) for pair in self._pairs]
        drawn = sorted(self._order, key=lambda name: _draw(rater, name))
        looks = drawn[: math.ceil(SECOND_LOOKS * len(drawn))]
        return [*once, *pairs, *(Item((name,), pass_number=2) for name in looks)]

    def _pair_item(self, rater: str, pair: Pair) -> Item:
        clips = (self._by_episode[pair.first], self._by_episode[pair.second])
        turned = _draw(rater, *sorted((pair.first, pair.second)))[0] % 2 == 1
        return Item(clips[::-1] if turned else clips, pair=pair)

    def _where(self, rater: str) -> _Rater:
        """Return where a rater stands by what is on the disk; what was passed over is open."""
        judged = {
            Item((name,), pass_number=number).key
            for number in (1, 2)
            for name, label in self._set.labels(rater, pass_number=number).items()
            if label.success is not None
        }
        said = newest(label for label in read_pairs(self._pairs_file) if label.person)
        keys = {a.pair.key for a in said if a.by == rater and a.preferred is not None}
        known = {self._pair_item(rater, p).key for p in self._pairs if p.key in keys}
        return _Rater(settled=judged | known)

    def _rater(self, rater: str) -> _Rater:
        if rater not in self._at:
            names = ", ".join(self.raters)
            raise RefusedError(404, "not_found", f"there is no such rater; expected {names}")
        return self._at[rater]


def create_app(desk: LabelDesk) -> FastAPI:
    """Return the page of a desk, for browsers on this machine."""
    app = FastAPI(title="labels", docs_url=None, redoc_url=None, openapi_url=None)
    _add_page(app, desk)
    _add_desk(app, desk)
    answer_errors(app)
    app.add_middleware(Gate, door=Door(None), needs=lambda _method, _path: None)
    app.add_middleware(Careful)
    return app


def _add_page(app: FastAPI, desk: LabelDesk) -> None:
    @app.get("/")
    async def index() -> Response:  # pyright: ignore[reportUnusedFunction]
        return FileResponse(FILES["index.html"])

    @app.get("/page/{name}")
    async def page(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if name not in FILES:
            raise RefusedError(404, "not_found", "there is no such page")
        return FileResponse(FILES[name])

    @app.get("/clip/{clip}/{camera}/{index}.jpg")
    async def picture(clip: str, camera: str, index: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(desk.picture(clip, camera, index), media_type="image/jpeg")


def _add_desk(app: FastAPI, desk: LabelDesk) -> None:
    def ask(rater: str) -> Mapping[str, object]:
        item, (done, total) = desk.next(rater), desk.progress(rater)
        shown = {"item": None} if item is None else desk.shown(item)
        return {**shown, "rater": rater, "done": done, "of": total}

    @app.get("/raters")
    async def raters() -> Sequence[str]:  # pyright: ignore[reportUnusedFunction]
        return desk.raters

    @app.get("/next")
    async def upcoming(rater: str) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        return ask(rater)

    @app.post("/answer")
    async def answered(request: Request) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        said = _read(AnswerBody, await json_body(request, max_bytes=MAX_BODY))
        try:
            desk.answer(said)
        except BadSet as error:
            raise RefusedError(409, "not_kept", str(error)) from error
        return ask(said.rater)

    @app.post("/undo")
    async def undone(request: Request) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        said = _read(UndoBody, await json_body(request, max_bytes=MAX_BODY))
        desk.undo(said.rater)
        return ask(said.rater)


def _read[T: BaseModel](kind: type[T], content: bytes) -> T:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise RefusedError(422, "invalid", f"{where}: {first['msg']}") from error


def _draw(*words: str) -> bytes:
    """Return bytes that look drawn at random, the same for the same words."""
    return hashlib.sha256("\n".join(words).encode()).digest()
