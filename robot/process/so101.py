"""The real arm: LeRobot's SO-101 follower as six servos that are watched reply by reply."""

import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
from lerobot.robots.so_follower import (  # pyright: ignore[reportMissingTypeStubs]
    SO101Follower,
    SO101FollowerConfig,
)
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints
from robot.camera import Frame
from robot.process.encoders import (
    Encoders,
    Replies,
    positions,
    servo_health,
    stored_calibration,
)
from robot.process.port import PortLock, resolve_port
from robot.process.servos import ArmUnusable, LostReply, ServoHealth

__all__ = ["LostReply", "So101"]

log = structlog.get_logger(__name__)

REPLY_S, PATIENT_S = 0.04, 0.25
"""Time that six servos have for their replies: in the cycle, and while the port is opened."""
HEALTH_EVERY: Final = 5
"""Reads of the position of which one brings everything else along: 10 Hz at 50 Hz."""
REOPEN_S: Final = 1.0
FASTEST, SLACK = 500.0, 8.0
"""Degrees a second that no joint exceeds, and degrees that it may differ besides."""
_POSITION, _STATE = (56, 2), (40, 31)  # address and length of what is read
_EEPROM, _TORQUE, _MAX_ACCELERATION = (0, 40), (40, 1), (85, 1)
_FRAME: Final = 6
"""Bytes of a reply besides what was asked for."""
_IDS = tuple(range(1, len(JOINTS) + 1))
_MODEL: Final = 777
_GRIPPER = JOINTS.index("gripper")
_ANGLE_FEEDBACK = 0x10
_BROKEN = (OSError, termios.error)
_CONFIGURED = {7: 0, 21: 16, 22: 32, 23: 0, 33: 0}
_CONFIGURED_GRIPPER = {16: 500 & 0xFF, 17: 500 >> 8, 28: 250, 29: 0, 36: 25}


class So101:
    """Six servos behind LeRobot's driver; every read is checked, and no read is tried twice.

    A port that has gone is looked for once a second, under whatever name it comes back.
    """

    def __init__(
        self,
        *,
        arm_id: str,
        port: str,
        calibration: Path,
        lock: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the port for this process alone; the torque stays as it is, if that can be.

        Servos that lack LeRobot's settings get them, for which torque goes off for a moment. Raise
        `ArmUnusable`.
        """
        self._arm_id, self._port, self._clock = arm_id, port, clock
        self._file, self._encoders = calibration, Encoders.load(calibration, arm_id)
        self._last: tuple[float, Joints] | None = None
        self._health: ServoHealth | None = None
        self._count = 0
        self._robot: Any = None  # kept, since its destructor closes the port
        self._bus: Any = None
        self._early = b""  # what came and was not looked at yet
        self._reopen_at, self._patience_s = -np.inf, PATIENT_S
        self._lock = PortLock(lock)
        try:
            self._open()
        except ArmUnusable:
            self.close()
            raise

    @property
    def calibration(self) -> str:
        """Return the first 12 hex digits of the calibration file's SHA-256."""
        return self._encoders.fingerprint

    # As an arm

    def joint_pos(self) -> Joints:
        """Return the measured joint positions, shape (6,); raise `LostReply`."""
        if self._bus is None:
            self._reopen()
        self._count += 1
        if self._count % HEALTH_EVERY:
            return self._plausible(positions(self._ask(*_POSITION)[0]))
        state, errors = self._ask(*_STATE)
        pose = self._plausible(positions(state[:, 16:18]))
        self._health = servo_health(state, errors)
        return pose

    def frames(self) -> Mapping[str, Frame]:
        """Return nothing: cameras are not on the servo bus."""
        return {}

    def command(self, joint_target: Joints) -> None:
        """Send one goal to all servos, shape (6,); raise `LostReply` where the port is gone."""
        self._write("Goal_Position", self._encoders.ticks(joint_target))

    def health(self) -> ServoHealth | None:
        """Return what the servos last said of themselves."""
        return self._health

    def torque(self, *, on: bool) -> None:
        """Switch the torque of all servos, and look whether they obeyed; raise `LostReply`."""
        self._write("Torque_Enable", [int(on)] * len(JOINTS))
        replies, _ = self._ask(*_TORQUE)
        wrong = np.flatnonzero(replies[:, 0] != on).tolist()
        if wrong:
            names = ", ".join(_name(i) for i in wrong)
            raise LostReply(f"{names} did not switch torque {'on' if on else 'off'}")

    def close(self) -> None:
        """Release the port; the servos keep their torque and their goal."""
        self._close_port()
        self._lock.release()

    # On the bus

    def _ask(self, address: int, length: int) -> tuple[Replies, tuple[int, ...]]:
        """Return the bytes of each servo, shape (6, length), and the error bytes."""
        if self._bus is None:
            raise LostReply(f"{self._port} is gone: plug it in again")
        port, packets = self._bus.port_handler, self._bus.packet_handler
        replies, errors = np.empty((len(_IDS), length), np.uint8), [0] * len(_IDS)
        try:
            # What came too late for the question before this is no answer to this one.
            port.ser.reset_input_buffer()
            self._early = b""
            port.is_using = False
            result = packets.syncReadTx(port, address, length, list(_IDS), len(_IDS))
            # All replies in one read: the SDK asks for each in two.
            self._early = port.ser.read(len(_IDS) * (length + _FRAME))
            for index, servo_id in enumerate(_IDS):
                status: list[int] = []
                while result == 0 and status[2:3] != [servo_id]:
                    status, result = packets.rxPacket(port)
                if result != 0 or len(status) != length + _FRAME:
                    raise LostReply(_loss(index, damaged=bool(status)))
                errors[index] = status[4]
                replies[index] = status[5:-1]
        except _BROKEN as error:
            raise self._gone(error) from error
        return replies, tuple(errors)

    def _received(self, length: int) -> bytes:
        """Return `length` bytes: first of what came early, then of what the port has yet."""
        # Of a damaged reply the SDK asks for fewer than none.
        taken = self._early[: max(0, length)]
        self._early = self._early[len(taken) :]
        missing = length - len(taken)
        return taken + self._bus.port_handler.ser.read(missing) if missing > 0 else taken

    def _write(self, register: str, values: Sequence[int]) -> None:
        if self._bus is None:
            raise LostReply(f"{self._port} is gone: plug it in again")
        try:
            self._bus.port_handler.is_using = False
            by_name = dict(zip(JOINTS, values, strict=True))
            self._bus.sync_write(register, by_name, normalize=False)
        except _BROKEN as error:
            raise self._gone(error) from error

    def _plausible(self, ticks: NDArray[np.int64]) -> Joints:
        """Return the pose of what was read; raise `LostReply` where no arm can be there."""
        empty = np.flatnonzero(ticks == 0)
        if len(empty):
            raise LostReply(f"{_name(int(empty[0]))} answered without a position")
        pose, now = self._encoders.joints(ticks.astype(np.float64)), self._clock()
        if self._last is not None:
            then, before = self._last
            jump = np.abs(pose - before) - (FASTEST * (now - then) + SLACK)
            if jump.max() > 0:
                i = int(jump.argmax())
                raise LostReply(f"{_name(i)} jumped from {before[i]:.0f} to {pose[i]:.0f}")
        self._last = (now, pose)
        return pose

    def _gone(self, error: Exception) -> LostReply:
        self._close_port()
        return LostReply(f"{self._port} is gone ({error}): plug it in again")

    # The port

    def _reopen(self) -> None:
        """Look for the port again, once a second; raise `LostReply` until it is back."""
        if self._clock() < self._reopen_at:
            raise LostReply(f"{self._port} is gone: plug it in again")
        self._reopen_at = self._clock() + REOPEN_S
        try:
            self._open()
        except ArmUnusable as error:
            raise LostReply(str(error)) from error
        log.info("port is back", port=self._port)

    def _open(self) -> None:
        device = resolve_port(self._port)
        config = SO101FollowerConfig(
            port=device,
            id=self._file.stem,
            calibration_dir=self._file.parent,
            # Its destructor disconnects: an arm must not fall because an object was collected.
            disable_torque_on_disconnect=False,
        )
        robot = SO101Follower(config)
        self._robot, self._bus = robot, robot.bus
        self._patience_s = PATIENT_S
        try:
            self._bus.connect(handshake=False)
            self._take_over_port()
            self._meet_servos()
            self._require_calibration()
            if not self._is_configured():
                held = bool(self._ask(*_TORQUE)[0].any())
                # A servo that gets its torque back goes to its goal.
                self.command(self.joint_pos())
                robot.configure()
                if not held:
                    self.torque(on=False)
            self._patience_s = REPLY_S
        except (*_BROKEN, RuntimeError, LostReply) as error:
            sentence = self._diagnosis(device, error)
            self._close_port()
            raise ArmUnusable(sentence) from error
        except ArmUnusable:
            self._close_port()
            raise

    def _meet_servos(self) -> None:
        """Do LeRobot's handshake; a servo that answers with a fault is there all the same.

        It keeps its torque: an arm that holds something must be watched and stopped, not left.
        """
        try:
            self._bus._handshake()
        except RuntimeError:
            answers = self._pings()
            if any(result != 0 or model != _MODEL for model, result, _ in answers):
                raise
            faulty = [_name(i) for i, (_, _, fault) in enumerate(answers) if fault]
            if not faulty:
                raise
            log.warning("servos report a fault", servos=faulty)

    def _pings(self) -> list[tuple[int, int, int]]:
        """Return model, result of the call and error byte of each servo."""
        port, packets = self._bus.port_handler, self._bus.packet_handler
        return [packets.ping(port, servo_id) for servo_id in _IDS]

    def _take_over_port(self) -> None:
        """Keep others off the port; wait for replies without spinning."""
        port = self._bus.port_handler
        port.ser.exclusive = True
        port.ser.timeout = REPLY_S / 8
        # LeRobot's own timeouts follow the wall clock, which may be set.
        port.getCurrentTime = lambda: 1e3 * time.monotonic()

        port.readPort = self._received

        def set_timeout(length: int) -> None:
            port.packet_start_time = port.getCurrentTime()
            port.packet_timeout = port.tx_time_per_byte * length + 1e3 * self._patience_s

        port.setPacketTimeout = set_timeout

    def _require_calibration(self) -> None:
        known = [self._bus.calibration[joint] for joint in JOINTS]
        wanted = [(each.homing_offset, each.range_min, each.range_max) for each in known]
        # LeRobot's own reading gives up on a servo that reports a fault.
        if not np.array_equal(stored_calibration(self._ask(*_EEPROM)[0]), wanted):
            raise ArmUnusable(
                f"the servos hold another calibration than {self._file}: is this {self._arm_id}? "
                f"`make calibrate ARM_ID={self._arm_id}` measures it anew, or writes the file's"
            )

    def _is_configured(self) -> bool:
        """Return whether the servos have all that LeRobot would write to them."""
        eeprom, _ = self._ask(*_EEPROM)
        acceleration, _ = self._ask(41, 1)
        most, _ = self._ask(*_MAX_ACCELERATION)
        return (
            all((eeprom[:, address] == value).all() for address, value in _CONFIGURED.items())
            and all(eeprom[_GRIPPER, at] == value for at, value in _CONFIGURED_GRIPPER.items())
            and not (eeprom[:, 18] & _ANGLE_FEEDBACK).any()
            and bool((acceleration == 254).all() and (most == 254).all())
        )

    def _diagnosis(self, device: str, error: Exception) -> str:
        """Return why the arm could not be opened, in one line."""
        mend = f"`make doctor ARM_ID={self._arm_id}`"
        if self._bus.is_connected and not isinstance(error, OSError):
            answers = self._pings()
            missing = [i for i, (_, result, _) in enumerate(answers) if result != 0]
            if missing:
                names = ", ".join(_name(i) for i in missing)
                return f"{names} not found on {device}: check {_cable(missing[0])}; {mend}"
        text = " ".join(str(error.__cause__ or error).split())
        return f"{device} cannot be used: {text}; {mend}"

    def _close_port(self) -> None:
        bus, self._bus = self._bus, None
        self._last = None
        if bus is not None and bus.is_connected:
            try:
                bus.disconnect(disable_torque=False)
            except _BROKEN as error:
                log.warning("port did not close", port=self._port, error=str(error))


def _name(index: int) -> str:
    return f"{JOINTS[index]} (id {_IDS[index]})"


def _cable(index: int) -> str:
    start = _name(index - 1) if index else "the board"
    return f"the cable from {start} to {_name(index)}"


def _loss(index: int, *, damaged: bool) -> str:
    what = "answered something damaged" if damaged else "did not answer"
    return f"{_name(index)} {what}: check {_cable(index)}"
