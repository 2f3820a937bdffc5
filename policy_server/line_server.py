"""One JSON a line over TCP, for the simplest of clients: an observation in, one action out.

`{image: base64, state: […]}` is answered by `{action: […]}`, `{ping: t}` by `{pong: t}`; the server
pings as well. Where a token is asked for, the first line is `{token: …}`.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Coroutine, Generator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import cast

import structlog

from policy_server import json_forms
from policy_server.host import Host
from policy_server.messages import BadRequest, question
from policy_server.scheduler import NotAnswered
from robot.access import Door, RefusedError
from robot.http_server import ServiceError
from robot.tokens import OneToken, Role
from robot.wire import MAX_BYTES

log = structlog.get_logger(__name__)

PING_S = 5.0
SILENT_S = 30.0
"""Without a line for so long a client is hung up on."""
START_S = 5.0


class LineServer:
    """Serves clients on an event loop in a thread of its own."""

    def __init__(self, host: Host, *, token: str | None) -> None:
        """Answer with a host's policy."""
        self._host = host
        self._door = Door(None if token is None else OneToken(token))
        self._writers: set[asyncio.StreamWriter] = set()
        self.ended = asyncio.Event()
        """Set, on the loop, to end the service."""

    @classmethod
    @contextmanager
    def maybe(
        cls, host: Host, address: str, port: int | None, *, token: str | None
    ) -> Generator[int | None]:
        """Serve while the block runs, if there is a port; yield the one that it listens on."""
        if port is None:
            yield None
            return
        bound, loop = Future[int](), asyncio.new_event_loop()
        lines = cls(host, token=token)
        serving = lines.serve(address, port, bound)
        thread = threading.Thread(target=_run, args=(loop, serving), name="lines", daemon=True)
        thread.start()
        try:
            yield bound.result(START_S)
        except OSError as error:
            raise ServiceError(f"cannot listen on {address}:{port}: {error.strerror}") from error
        finally:
            loop.call_soon_threadsafe(lines.ended.set)
            thread.join(timeout=START_S)

    async def serve(self, address: str, port: int, bound: Future[int]) -> None:
        """Listen until `ended` is set; `bound` gets the port, or why there is none."""
        try:
            server = await asyncio.start_server(self.talk, address, port, limit=MAX_BYTES)
        except OSError as error:
            bound.set_exception(error)
            return
        bound.set_result(server.sockets[0].getsockname()[1])
        await self.ended.wait()
        server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in self._writers), return_exceptions=True)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk with one client until it hangs up, falls silent or is wrong twice over."""
        session, pings = uuid.uuid4().hex, asyncio.create_task(_ping(writer))
        self._writers.add(writer)
        peer = str(writer.get_extra_info("peername", ("",))[0])
        try:
            admitted = self._door.tokens is None
            while line := await asyncio.wait_for(reader.readline(), SILENT_S):
                if not admitted:
                    self._admit(line, peer)
                    admitted = True
                    continue
                await _say(writer, await self._answer(line, session))
        except (TimeoutError, ValueError, OSError) as error:
            log.info("line client gone", peer=peer, why=str(error)[:200])
        except RefusedError as refused:
            await _say(writer, {"error": refused.code, "message": refused.message})
        finally:
            pings.cancel()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._writers.discard(writer)

    def _admit(self, line: bytes, peer: str) -> None:
        facts = json_forms.any_map(line)
        self._door.admit_token(str(facts.get("token", "")), Role.VIEW, peer)

    async def _answer(self, line: bytes, session: str) -> Mapping[str, object]:
        try:
            facts = json_forms.any_map(line)
            if "ping" in facts:
                return {"pong": facts["ping"]}
            if "pong" in facts:
                return {}
            spec = self._host.serving.spec
            message = json_forms.line_message(facts, spec)
            now = asyncio.get_running_loop().time()
            asked = await asyncio.to_thread(question, message, spec, now=now)
            future = self._host.submit(session, asked.request, slack_s=asked.slack_s)
            done = await asyncio.wrap_future(future)
        except BadRequest as error:
            return {"error": "invalid", "message": str(error)}
        except NotAnswered as error:
            return {"error": error.code, "message": str(error)}
        return {"action": cast("list[float]", done.chunk.actions[0].tolist())}


def _run(loop: asyncio.AbstractEventLoop, serving: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serving)


async def _ping(writer: asyncio.StreamWriter) -> None:
    while True:
        await asyncio.sleep(PING_S)
        await _say(writer, {"ping": asyncio.get_running_loop().time()})


async def _say(writer: asyncio.StreamWriter, message: Mapping[str, object]) -> None:
    if message:
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()
