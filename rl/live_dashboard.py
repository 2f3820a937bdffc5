"""Arms and learning in a browser, with a stop button: `make dashboard ARMS=arm01,arm02`.

`python -m rl.live_dashboard port=18100 arms=arm01,arm02 runs=runs` serves this machine only. From
another one: `ssh -L 18100:127.0.0.1:18100 …`.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from rl.live_arms import Answer, ArmAddress, LinkedArms
from rl.live_runs import LiveRun
from robot.access import Door, RefusedError
from robot.arm_config import ROOT, ArmConfig, ConfigError
from robot.http_server import (
    Careful,
    Gate,
    ServiceError,
    answer_errors,
    json_body,
    listen,
    server_of,
)
from robot.tokens import TokenError, own_token
from robot.words import UsageError, parse_words

PAGE = Path(__file__).with_name("live_page")
FILES = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*.*")}
PERIOD_S = 0.1
MAX_BODY = 4096
LINKS = ("REWARDER", "POLICY_SERVER", "LEARNER")
"""Services whose address and token are in variables of these names, `_URL` and `_TOKEN`."""
WORDS = {
    "port": "18100",
    "arms": "arm01,arm02,arm03,arm04",
    "runs": "runs",
    "folder": str(ROOT / "conf" / "arm"),
}
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Service(NamedTuple):
    """Where a service is, and what it takes to look at it."""

    url: str
    token: str | None = None


def create_app(arms: LinkedArms, run: LiveRun, links: Mapping[str, Service]) -> FastAPI:
    """Return the dashboard of some arms and the newest run; `links` are services by name."""
    app = FastAPI(title="dashboard", docs_url=None, redoc_url=None, openapi_url=None)
    _add_page(app)
    _add_arms(app, arms)
    _add_orders(app, arms)
    _add_run(app, run, links)
    answer_errors(app)
    app.add_middleware(Gate, door=Door(None), needs=lambda _method, _path: None)
    app.add_middleware(Careful)
    return app


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    async def index() -> Response:  # pyright: ignore[reportUnusedFunction]
        return FileResponse(FILES["index.html"])

    @app.get("/page/{name:path}")
    async def page(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if name not in FILES:
            raise RefusedError(404, "not_found", "there is no such page")
        return FileResponse(FILES[name])

    @app.get("/health")
    async def health() -> Mapping[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok"}


def _add_arms(app: FastAPI, arms: LinkedArms) -> None:
    @app.get("/events")
    async def events() -> Response:  # pyright: ignore[reportUnusedFunction]
        return StreamingResponse(_stream(arms), media_type="text/event-stream")

    @app.get("/frames/{arm_id}/{camera}.jpg")
    async def frame(arm_id: str, camera: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        link = arms.links.get(arm_id)
        if link is None or camera not in link.address.cameras:
            raise RefusedError(404, "not_found", "there is no such camera")
        picture = await asyncio.to_thread(link.picture, camera)
        if picture is None:
            raise RefusedError(503, "no_picture", "the arm's process gives no picture")
        return Response(picture, media_type="image/jpeg")


def _add_orders(app: FastAPI, arms: LinkedArms) -> None:
    @app.post("/stop")
    async def stop(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        wanted = (await _body(request)).get("arm")
        if wanted is not None and not arms.known(str(wanted)):
            raise RefusedError(404, "not_found", "there is no such arm")
        chosen = list(arms.links) if wanted is None else [str(wanted)]
        answers = await asyncio.to_thread(arms.stop, chosen)
        # What was never there cannot be stopped: no alarm, as long as something was.
        there = [each.status for each in answers.values() if not each.absent]
        stopped = bool(there) and max(there) < 400
        return JSONResponse({n: _said(a) for n, a in answers.items()}, 200 if stopped else 502)

    @app.post("/reset")
    async def reset(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        content = await _body(request)
        link, token = arms.links.get(str(content.get("arm"))), content.get("token")
        if link is None:
            raise RefusedError(404, "not_found", "there is no such arm")
        given = token if isinstance(token, str) and token.isascii() else None
        said = await asyncio.to_thread(link.reset, given)
        return JSONResponse(_said(said), said.status)


def _add_run(app: FastAPI, run: LiveRun, links: Mapping[str, Service]) -> None:
    @app.get("/run")
    async def newest() -> Mapping[str, object]:  # pyright: ignore[reportUnusedFunction]
        summary = await asyncio.to_thread(run.summary)
        states = await asyncio.gather(*(_link(service) for service in links.values()))
        return {
            "run": summary,
            "disk": run.disk(),
            "links": dict(zip(links, states, strict=True)),
        }

    @app.get("/episode/{episode}/{camera}/{index}.jpg")
    async def picture(episode: str, camera: str, index: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        judged = await asyncio.to_thread(run.judged)
        if judged is None or judged.episode.info.episode != episode:
            raise RefusedError(404, "not_found", "that is not the last judged episode")
        frames = judged.episode.frames.get(camera, ())
        if not 0 <= index < len(frames) or not frames[index]:
            raise RefusedError(404, "not_found", "there is no such picture")
        return Response(frames[index], media_type="image/jpeg")


async def _stream(arms: LinkedArms) -> AsyncIterator[str]:
    while True:
        yield f"data: {json.dumps({'arms': arms.snapshot()})}\n\n"
        await asyncio.sleep(PERIOD_S)


async def _link(service: Service) -> Mapping[str, object]:
    headers = {"Authorization": f"Bearer {service.token}"} if service.token else {}
    started = asyncio.get_running_loop().time()
    try:
        async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
            reply = await client.get(f"{_http(service.url)}/health", headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL):
        return {"ok": False, "ms": None, "arms": {}}
    elapsed = asyncio.get_running_loop().time() - started
    ok = reply.status_code < 400
    return {"ok": ok, "ms": round(1000 * elapsed), "arms": _queues(reply) if ok else {}}


def _http(url: str) -> str:
    """Return an address of a service that may be known by its WebSocket."""
    return f"http{url.removeprefix('ws').removeprefix('http')}".rstrip("/")


def _queues(reply: httpx.Response) -> object:
    """Return the rows that arms have left, where a policy server says so."""
    try:
        said: object = reply.json()
    except ValueError:
        said = None
    return cast("Mapping[str, object]", said).get("arms", {}) if isinstance(said, dict) else {}


async def _body(request: Request) -> Mapping[str, Any]:
    data = await json_body(request, max_bytes=MAX_BODY)
    try:
        content: object = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RefusedError(400, "not_json", 'send a JSON object, e.g. {"arm": "arm01"}')
    return content  # pyright: ignore[reportUnknownVariableType]


def _said(said: Answer) -> dict[str, object]:
    return {"ok": said.status < 400, "message": said.message, "absent": said.absent}


def addresses(arm_ids: Sequence[str], folder: Path) -> list[ArmAddress]:
    """Return where the processes of arms are asked; raise `ConfigError`."""
    configs = [ArmConfig.load(arm_id, folder=folder) for arm_id in arm_ids]
    return [
        ArmAddress(arm_id=each.arm_id, url=each.url, cameras=tuple(each.cameras))
        for each in configs
    ]


def _port(word: str) -> int:
    if not word.isdecimal() or int(word) >= 2**16:
        raise UsageError(f"port={word}; expected 0 to 65535")
    return int(word)


def main(argv: Sequence[str]) -> int:
    """Serve the dashboard until Ctrl-C; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        port = _port(words["port"])
        arm_ids = [name for name in words["arms"].split(",") if name]
        found = addresses(arm_ids, Path(words["folder"]))
        # To look with; a reset takes the token that a person types.
        token = own_token()
        links = {
            name: Service(os.environ[f"{name}_URL"], os.environ.get(f"{name}_TOKEN") or None)
            for name in LINKS
            if os.environ.get(f"{name}_URL")
        }
        listening = listen("127.0.0.1", port, guarded=False, remedy=", or port=18099")
    except (UsageError, ConfigError, TokenError) as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    arms = LinkedArms(found, token=token)
    app = create_app(arms, LiveRun(ROOT / words["runs"]), links)
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    try:
        server_of(app).run(sockets=[listening])
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        arms.close()
        listening.close()
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
