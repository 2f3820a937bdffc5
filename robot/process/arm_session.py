"""One client's conversation with an arm's process: a message in, at most one out."""

import itertools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from robot.access import Asked, Door, RefusedError
from robot.process.arm_messages import (
    VERSION,
    MessageError,
    command_message,
    limits_message,
    mode_of,
    number,
    state_message,
    text,
)
from robot.process.arm_process import PERIOD_S, ArmProcess, ModeRefused
from robot.process.arm_state import Mode
from robot.process.camera_feed import Picture
from robot.tokens import Caller, Role
from robot.wire import WireError, decode_map, encode

log = structlog.get_logger(__name__)

MAX_NAME = 40
_numbers = itertools.count(1)

type Reply = Mapping[str, object] | None


class Pictures(Protocol):
    """The newest pictures of an arm's cameras."""

    def newest(self) -> Mapping[str, Picture]:
        """Return the newest picture of each camera that has a recent one."""
        ...

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Return height and width of each camera's pictures."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What every conversation is about."""

    arm_id: str
    process: ArmProcess
    pictures: Pictures
    door: Door
    clock: Callable[[], float]


class Session:
    """Answers one client; before its hello it may only stop the arm."""

    def __init__(self, desk: Desk, asked: Asked) -> None:
        """Begin with whoever has connected."""
        self._desk, self._asked = desk, asked
        self._caller: Caller | None = None
        self._client, self._human = "", False
        self._answers: Mapping[str, tuple[Role, Callable[[Mapping[str, object]], Reply]]] = {
            "beat": (Role.OPERATE, self._beat),
            "observe": (Role.VIEW, self._observe),
            "command": (Role.OPERATE, self._command),
            "mode": (Role.OPERATE, self._mode),
            "latch": (Role.OPERATE, self._latch),
            "reset": (Role.OPERATE, self._reset),
            "state": (Role.VIEW, self._state),
        }

    @property
    def known(self) -> bool:
        """Return whether the client has said hello."""
        return self._caller is not None

    def close(self) -> None:
        """Say that the client has gone."""
        if self.known:
            self._desk.process.leave(self._client)

    def answer(self, data: bytes) -> bytes | None:
        """Return the answer to a message; a beat has none."""
        try:
            message = decode_map(data)
            reply = self._reply(message)
        except RefusedError as refused:
            reply = self._error(refused.code, refused.message)
        except (WireError, MessageError) as error:
            reply = self._error("invalid", str(error))
        except ModeRefused as error:
            reply = self._error("mode_refused", str(error))
        return None if reply is None else encode(reply)

    def _reply(self, message: Mapping[str, object]) -> Reply:
        op = message.get("op")
        if not isinstance(op, str):
            raise MessageError(f"op is a {type(op).__name__}; expected text")
        if op == "stop":
            return self._stop(message)
        if op == "hello":
            return self._hello(message)
        needed, answer = self._answers.get(op, (None, None))
        if needed is None or answer is None:
            raise MessageError(f"op is {str(op)[:40]!r}; expected {', '.join(self._answers)}")
        if self._caller is None:
            raise RefusedError(401, "unauthorised", "say hello first")
        if self._caller.role < needed:
            if op == "beat":
                return None
            raise RefusedError(403, "wrong_role", f"this token may not {op}")
        return answer(message)

    def _hello(self, message: Mapping[str, object]) -> Reply:
        version = message.get("version")
        if not isinstance(version, int) or version != VERSION:
            given = str(version)[:20]
            raise MessageError(f"version is {given}; expected {VERSION}: update the client")
        name = text(message, "client")[:MAX_NAME] or "nameless"
        token = message.get("token")
        self._caller = self._desk.door.admit_token(
            token if isinstance(token, str) else self._asked.authorization.partition(" ")[2],
            Role.VIEW,
            self._asked.peer,
        )
        # A client that comes again is another one: its earlier connection may still be open.
        self._client, self._human = f"{name}#{next(_numbers)}", message.get("human") is True
        log.info(
            "hello", client=self._client, peer=self._asked.peer, token=self._caller.token,
            human=self._human,
        )  # fmt: skip
        process = self._desk.process
        state = process.state()
        return {
            "arm_id": self._desk.arm_id,
            "limits": limits_message(process.limits),
            "cameras": {name: list(size) for name, size in self._desk.pictures.sizes().items()},
            "calibration": state.calibration,
            "period_s": PERIOD_S,
            "mode": state.mode.value,
            "now": self._desk.clock(),
        }

    def _beat(self, _: Mapping[str, object]) -> Reply:
        self._desk.process.beat(self._client)
        return None

    def _observe(self, message: Mapping[str, object]) -> Reply:
        process = self._desk.process
        observation, mode = process.observation(), process.mode
        frames: dict[str, object] = {}
        if message.get("frames") is True:
            for name, picture in self._desk.pictures.newest().items():
                frames[name] = {"jpeg": picture.jpeg, "stamp": picture.stamp}
        return {
            "stamp": observation.stamp,
            "joint_pos": observation.joint_pos,
            "joint_target": observation.joint_target,
            "frames": frames,
            "mode": mode.value,
            "human": mode is Mode.TAKEOVER,
        }

    def _command(self, message: Mapping[str, object]) -> Reply:
        command = self._desk.process.propose(
            message.get("joint_target"),
            stamp=number(message, "stamp"),
            client=self._client,
            human=self._human,
        )
        return command_message(command)

    def _mode(self, message: Mapping[str, object]) -> Reply:
        mode = mode_of(message.get("mode"))
        reached = self._desk.process.request(mode, client=self._client, human=self._human)
        return {"mode": reached.value}

    def _latch(self, _: Mapping[str, object]) -> Reply:
        try:
            self._desk.process.latch(human=self._human)
        except ValueError as error:
            raise RefusedError(503, "unknown_pose", str(error)) from error
        return {"mode": self._desk.process.mode.value}

    def _stop(self, message: Mapping[str, object]) -> Reply:
        reason = message.get("reason")
        who = self._client or self._asked.peer
        self._desk.process.stop(stop_reason(who, reason))
        return {"mode": self._desk.process.mode.value}

    def _reset(self, _: Mapping[str, object]) -> Reply:
        self._desk.process.reset()
        return {"mode": self._desk.process.mode.value}

    def _state(self, _: Mapping[str, object]) -> Reply:
        return state_message(self._desk.process.state())

    def _error(self, code: str, message: str) -> Reply:
        name = uuid.uuid4().hex
        log.info(
            "refused", client=self._client, peer=self._asked.peer, code=code, message=message,
            request_id=name,
        )  # fmt: skip
        return {"error": code, "message": message, "request_id": name}


def stop_reason(who: str, reason: object) -> str:
    """Return why somebody stopped an arm, in one line that a log can hold."""
    given = "".join(c for c in reason if c.isprintable())[:200] if isinstance(reason, str) else ""
    return f"{who} stopped it: {given}" if given else f"{who} stopped it"
