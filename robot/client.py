"""An arm on the other side of a socket: its process guards it, this asks."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot.arm import Joints, Observation
from robot.arm_config import ArmConfig
from robot.camera import Frame, decode_jpeg
from robot.clock import Clock, WallClock
from robot.guard import Command, GuardEvent
from robot.limits import SafetyLimits
from robot.link import ArmRefused, ArmUnavailable, Link, LinkLost
from robot.process.arm_messages import (
    VERSION,
    MessageError,
    command_of,
    joints,
    limits_of,
    mapping,
    mode_of,
    number,
    state_of,
    text,
)
from robot.process.arm_state import ArmState, Mode
from robot.process.camera_feed import Picture
from robot.tokens import own_token
from robot.wire import WireError

__all__ = ["ArmRefused", "ArmUnavailable", "Hello", "LinkLost", "RemoteArm", "open_arm"]

PATIENCE_S = 60.0
SAME_CLOCK_S = 1.0
"""Clocks of two machines count from different moments: they differ by more, but for chance."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hello:
    """What an arm's process says of itself at first."""

    arm_id: str
    limits: SafetyLimits
    cameras: Mapping[str, tuple[int, int]]
    """Height and width."""
    calibration: str
    period_s: float
    clock_offset_s: float
    """The arm's clock minus this machine's; 0 on one machine."""


class ArmClock:
    """The clock of an arm's process, as far as a client can know it."""

    def __init__(self) -> None:
        """Go as this machine's clock does."""
        self.offset_s = 0.0
        self._wall = WallClock()

    def now(self) -> float:
        """Return the arm's time."""
        return self._wall.now() + self.offset_s

    def sleep_until(self, moment: float) -> None:
        """Sleep until a moment of the arm's time."""
        self._wall.sleep_until(moment - self.offset_s)


class RemoteArm:
    """A `SafeArm` over a WebSocket; a thread of its own says 20 times a second that it lives.

    A call that gets no answer in time raises `LinkLost`, and so does every call after it until
    `latch` begins another episode: that connects again, waiting longer after each vain attempt.
    """

    def __init__(
        self,
        url: str,
        *,
        client: str,
        token: str | None = None,
        human: bool = False,
        timeout_s: float = 1.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Connect to the process at `url`, e.g. `http://127.0.0.1:18101`; raise `ArmUnavailable`.

        `client` is the name that its log and its state show; `human` says that a person's goals
        come from here; `latch` waits `patience_s` at most for a lost process to come back.
        """
        self._greeting = {"op": "hello", "version": VERSION, "client": client, "human": human}
        self._greeting |= {"token": token}
        self._human, self._patience_s = human, patience_s
        self._arm_clock = ArmClock()
        self.clock: Clock = self._arm_clock
        self._frames: dict[str, Frame] = {}
        self._target: Joints | None = None
        self._link = Link(url, timeout_s=timeout_s)
        self.hello = self._greet(self._link.open(self._greeting))

    @property
    def limits(self) -> SafetyLimits:
        """Return what the arm's guard allows."""
        return self.hello.limits

    def observe(self, *, frames: bool = True) -> Observation:
        """Return what the arm senses; a camera that shows nothing recent has no frame."""
        reply = self._link.ask({"op": "observe", "frames": frames})
        try:
            self._target = joints(reply, "joint_target")
            return Observation(
                stamp=number(reply, "stamp"),
                joint_pos=joints(reply, "joint_pos"),
                joint_target=self._target,
                frames=self._decoded(reply) if frames else {},
            )
        except MessageError as error:
            raise self._nonsense(error) from error

    def pictures(self) -> Mapping[str, Picture]:
        """Return the newest picture of each camera as it comes: JPEG, for a recorder."""
        reply = self._link.ask({"op": "observe", "frames": True})
        try:
            return _pictures_of(reply)
        except MessageError as error:
            raise self._nonsense(error) from error

    def command(self, joint_target: object, *, stamp: float) -> Command:
        """Propose a goal, which the arm's guard checks; return what became of it."""
        message = {"op": "command", "joint_target": joint_target, "stamp": stamp}
        try:
            command = command_of(self._link.ask(message))
        except WireError:
            events = (GuardEvent("refused", "not_an_array"),)
            return Command(joint_target=self._last_target(), events=events)
        except MessageError as error:
            raise self._nonsense(error) from error
        self._target = command.joint_target
        return command

    def hold(self) -> None:
        """Propose the arm's last goal again: it stays where it was told to be."""
        observation = self.observe(frames=False)
        self.command(observation.joint_target, stamp=observation.stamp)

    def latch(self) -> None:
        """Begin an episode: connect if need be, ask for RUN, take the measured pose as goal.

        A person's arm asks for TAKEOVER. Raise `ArmUnavailable` if the arm may not move.
        """
        if not self._link.is_open:
            reply = self._link.reopen(self._greeting, patience_s=self._patience_s)
            self.hello = self._greet(reply)
        self.mode(Mode.TAKEOVER if self._human else Mode.RUN)
        self._link.ask({"op": "latch"})

    def mode(self, mode: Mode) -> Mode:
        """Ask for a mode and return the one that came of it; raise `ArmRefused`."""
        return self._mode_in(self._link.ask({"op": "mode", "mode": mode.value}))

    def stop(self, reason: str) -> None:
        """Stop the arm, which needs no token; only `reset` lets it move again."""
        self._link.ask({"op": "stop", "reason": reason})

    def reset(self) -> Mode:
        """Leave the stop, for HOLD; raise `ArmRefused` while its cause remains."""
        return self._mode_in(self._link.ask({"op": "reset"}))

    def state(self) -> ArmState:
        """Return what the arm's process says of itself."""
        reply = self._link.ask({"op": "state"})
        try:
            return state_of(reply)
        except MessageError as error:
            raise self._nonsense(error) from error

    def close(self) -> None:
        """Hang up; an arm that this client drove holds, and then parks."""
        self._link.close()

    def _greet(self, reply: Mapping[str, object]) -> Hello:
        heard_at = time.monotonic()
        try:
            hello = _hello_of(reply, heard_at=heard_at)
        except MessageError as error:
            raise self._nonsense(error) from error
        self._arm_clock.offset_s = hello.clock_offset_s
        return hello

    def _decoded(self, reply: Mapping[str, object]) -> dict[str, Frame]:
        """Return the frames of an answer."""
        pictures = _pictures_of(reply)
        for name, picture in pictures.items():
            known = self._frames.get(name)
            # What was decoded once is not decoded again.
            if known is None or known.stamp != picture.stamp:
                self._frames[name] = Frame(image=_image(name, picture), stamp=picture.stamp)
        return {name: self._frames[name] for name in pictures}

    def _last_target(self) -> Joints:
        if self._target is None:
            self._target = self.observe(frames=False).joint_target
        return self._target

    def _mode_in(self, reply: Mapping[str, object]) -> Mode:
        try:
            return mode_of(reply.get("mode"))
        except MessageError as error:
            raise self._nonsense(error) from error

    def _nonsense(self, error: MessageError) -> LinkLost:
        return self._link.lost(f"answered nonsense: {error}")


def open_arm(config: ArmConfig, *, client: str, human: bool = False) -> RemoteArm:
    """Return an arm by its file, with the token of this machine; raise `ArmUnavailable`."""
    return RemoteArm(config.url, client=client, token=own_token(), human=human)


def _hello_of(reply: Mapping[str, object], *, heard_at: float) -> Hello:
    """Return the answer to a hello; raise `MessageError` if it is none."""
    offset = number(reply, "now") - heard_at
    cameras: dict[str, tuple[int, int]] = {}
    for name, size in mapping(reply.get("cameras"), "cameras").items():
        match size:
            case [int(height), int(width)]:
                cameras[name] = (height, width)
            case _:
                raise MessageError(f"cameras.{name} is no height and width")
    return Hello(
        arm_id=text(reply, "arm_id"),
        limits=limits_of(reply.get("limits")),
        cameras=cameras,
        calibration=text(reply, "calibration"),
        period_s=number(reply, "period_s"),
        # Programs of one machine share its clock.
        clock_offset_s=0.0 if abs(offset) < SAME_CLOCK_S else offset,
    )


def _pictures_of(reply: Mapping[str, object]) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    for name, frame in mapping(reply.get("frames"), "frames").items():
        parts = mapping(frame, name)
        jpeg = parts.get("jpeg")
        if not isinstance(jpeg, bytes):
            raise MessageError(f"{name} has no jpeg")
        pictures[name] = Picture(jpeg=jpeg, stamp=number(parts, "stamp"))
    return pictures


def _image(name: str, picture: Picture) -> NDArray[np.uint8]:
    try:
        image = decode_jpeg(picture.jpeg)
    except ValueError as error:
        raise MessageError(f"{name}: {error}") from error
    image.setflags(write=False)
    return image
