"""`POST /preference`: two clips of one goal, and who of a model's two orders prefers which."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewarder.messages import MAX_BYTES, ClipBody
from rewarder.openapi import takes
from rewarder.pairs import PairJudge, compare
from rewarder.reward import Clip, NoScore
from robot.access import RefusedError
from robot.http_server import json_body

type Work = Callable[[], Mapping[str, object]]
type Run = Callable[[Work], Awaitable[Mapping[str, object]]]


class PairBody(BaseModel):
    """Two clips in a request."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    first: ClipBody
    second: ClipBody

    def clips(self) -> tuple[Clip, Clip]:
        """Return both; raise ValueError where a picture is none, or the goals differ."""
        if self.first.goal != self.second.goal:
            raise ValueError(
                f"the clips have two goals, {self.first.goal!r} and {self.second.goal!r}; "
                "expected one"
            )
        return self.first.clip(), self.second.clip()


class PreferenceBody(BaseModel):
    """What is answered."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    preferred: str
    """`first`, `second` or `tie`."""
    probability: Annotated[float, Field(ge=0.0, le=1.0)]
    """That the first is the better."""
    forward: Annotated[float, Field(ge=0.0, le=1.0)]
    """The same, asked first-second."""
    backward: Annotated[float, Field(ge=0.0, le=1.0)]
    """The same, asked second-first."""
    model: str
    latency_ms: float
    request_id: str


async def _in_a_thread(work: Work) -> Mapping[str, object]:
    return await asyncio.to_thread(work)


def preference_router(judge: PairJudge, *, run: Run = _in_a_thread) -> APIRouter:
    """Return the route; `run` does the work of a request and may refuse it (a service's queue)."""
    router = APIRouter()

    @router.post("/preference", openapi_extra=takes(PairBody, answers=PreferenceBody))
    async def preference(request: Request) -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        content = await json_body(request, max_bytes=2 * MAX_BYTES)
        return await run(lambda: _answer(judge, content, request.state.request_id))

    return router


def _answer(judge: PairJudge, content: bytes, request_id: str) -> Mapping[str, object]:
    started = time.perf_counter()
    first, second = _clips(content)
    try:
        said = compare(judge, first, second)
    except NoScore as error:
        raise RefusedError(503 if error.retry else 422, "no_score", str(error)) from error
    return PreferenceBody(
        preferred=said.preferred,
        probability=said.probability,
        forward=said.forward,
        backward=said.backward,
        model=judge.name,
        latency_ms=round(1000 * (time.perf_counter() - started), 3),
        request_id=request_id,
    ).model_dump()


def _clips(content: bytes) -> tuple[Clip, Clip]:
    try:
        return PairBody.model_validate_json(content).clips()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RefusedError(400, "not_json", first["msg"]) from error
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise RefusedError(422, "invalid", f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise RefusedError(422, "invalid", str(error)) from error
