"""Take an arm over by hand: `python -m robot.teleop.takeover arm_id=arm01 device=keyboard`.

Devices: keyboard, gamepad, leader. `dead_man=d` makes gamepad and leader move only while that key
is held; a keyboard moves only while its keys are.
"""

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

from robot.arm import Observation
from robot.arm_config import ROOT, ArmConfig, ConfigError
from robot.client import ArmRefused, ArmUnavailable, open_arm
from robot.guard import SafeArm
from robot.limits import SafetyLimits
from robot.process.arm_state import ArmState, Mode
from robot.teleop.devices import (
    KEYS_HELP,
    Approach,
    DeviceMissing,
    Keyboard,
    Request,
    Teleop,
    WithKeys,
)
from robot.teleop.keys import Keys, NoTerminal, TerminalKeys
from robot.tokens import TokenError
from robot.words import UsageError, parse_words

PERIOD_S = 1 / 30
DEVICES = ("keyboard", "gamepad", "leader")
WORDS = {
    "arm_id": "arm01",
    "device": "keyboard",
    "dead_man": "",
    "leader": "run/leader01.bus",
    "leader_calibration": "conf/calibration/emulated.json",
    "folder": str(ROOT / "conf" / "arm"),
}
"""What `open_device` and `main` understand."""


class HumanArm(SafeArm, Protocol):
    """An arm in its own process, reached as a person."""

    def state(self) -> ArmState:
        """Return what the arm's process says of itself."""
        ...

    def mode(self, mode: Mode) -> Mode:
        """Ask for a mode and return the one that came of it; raise `ArmRefused`."""
        ...

    def stop(self, reason: str) -> None:
        """Stop the arm, latched."""
        ...


class Takeover:
    """A person beside an arm: takes it over, moves it, hands it back, stops it."""

    def __init__(self, arm: HumanArm, teleop: Teleop, *, say: Callable[[str], object]) -> None:
        """Watch `arm`; whatever changes is said."""
        self._arm, self._teleop, self._say = arm, teleop, say
        self._before = Mode.HOLD
        self._shown = ""

    def run(self, *, period_s: float = PERIOD_S) -> None:
        """Follow the device until it asks to quit; then the arm is handed back."""
        clock = self._arm.clock
        try:
            while self.tick():
                clock.sleep_until(clock.now() + period_s)
        finally:
            self._hand_back()

    def tick(self) -> bool:
        """Do what was asked for and move one step; return False once asked to quit."""
        for request in self._teleop.poll():
            if request == "quit":
                return False
            self._obey(request)
        state = self._arm.state()
        wanted = self._teleop.read(observation_of(state))
        shown = f"{state.mode}: {state.reason}"
        if wanted is not None and state.mode is Mode.TAKEOVER:
            command = self._arm.command(wanted, stamp=state.stamp)
            # Being no faster than allowed is nothing to speak of.
            rules = sorted({str(event) for event in command.events if event.rule != "step"})
            shown += f"; held back by {', '.join(rules)}" if rules else ""
        if shown != self._shown:
            self._say(shown)
        self._shown = shown
        return True

    def _obey(self, request: Request) -> None:
        if request == "stop":
            self._arm.stop("a person at the arm")
        elif request == "takeover":
            before = self._arm.state().mode
            if before is not Mode.TAKEOVER and self._ask(Mode.TAKEOVER):
                self._before = before
        elif request == "hand_back":
            self._hand_back()
        elif request == "state":
            self._shown = ""

    def _hand_back(self) -> None:
        """Give the arm back to a policy that drove it, else let it hold."""
        if self._arm.state().mode is not Mode.TAKEOVER:
            return
        if self._before is not Mode.RUN or not self._ask(Mode.RUN):
            self._ask(Mode.HOLD)

    def _ask(self, mode: Mode) -> bool:
        """Ask for a mode; say why it was refused."""
        try:
            self._arm.mode(mode)
        except ArmRefused as error:
            self._say(f"not {mode}: {error}")
            return False
        return True


def take_free_arm(arm: HumanArm) -> None:
    """Take an arm over that no policy drives; raise `ArmUnavailable`."""
    if arm.state().mode is Mode.RUN:
        raise ArmUnavailable("a policy drives the arm; end it, or take over with make takeover")
    arm.mode(Mode.TAKEOVER)


def observation_of(state: ArmState) -> Observation:
    """Return what an arm senses, from what its process says."""
    return Observation(
        stamp=state.stamp,
        joint_pos=state.joint_pos,
        joint_target=state.joint_target,
        frames={},
    )


@contextmanager
def open_device(
    words: Mapping[str, str], limits: SafetyLimits, keys: Keys | None = None
) -> Generator[Teleop]:
    """Yield the device that `words` name, with a keyboard for what is asked for beside it.

    Raise `DeviceMissing`, `NoTerminal` or `UsageError`.
    """
    name, dead_man = words["device"], words["dead_man"] or None
    if name not in DEVICES:
        raise UsageError(f"device={name!r} is none of {', '.join(DEVICES)}")
    if dead_man and name == "keyboard":
        raise UsageError(
            f"dead_man={dead_man} is for gamepad and leader: with device=keyboard nothing moves "
            "but while its own keys are pressed; leave dead_man= out"
        )
    with ExitStack() as stack:
        pressed = keys or stack.enter_context(TerminalKeys())
        if name == "keyboard":
            yield Keyboard(pressed, limits)
            return
        try:
            device = WithKeys(_device(words, limits), pressed, time.monotonic, dead_man=dead_man)
        except ValueError as error:
            raise UsageError(str(error)) from None
        stack.callback(device.close)
        yield Approach(device) if name == "leader" else device


def _device(words: Mapping[str, str], limits: SafetyLimits) -> Teleop:
    if words["device"] == "gamepad":
        from robot.teleop.gamepad import open_gamepad  # noqa: PLC0415 - so that pygame stays optional

        return open_gamepad(limits)
    # LeRobot takes seconds to load.
    from robot.teleop.leader import open_leader  # noqa: PLC0415

    return open_leader(_port(words["leader"]), ROOT / words["leader_calibration"])


def _port(name: str) -> str:
    """Return a device's path; those of emulated arms are relative to the project."""
    path = Path(name)
    return str(path if path.is_absolute() else ROOT / path)


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(argv: list[str]) -> int:
    """Take an arm over; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        config = ArmConfig.load(words["arm_id"], folder=Path(words["folder"]))
        with ExitStack() as stack:
            arm = stack.enter_context(closing(open_arm(config, client="takeover", human=True)))
            device = stack.enter_context(open_device(words, arm.limits))
            say(KEYS_HELP)
            Takeover(arm, device, say=say).run()
    except KeyboardInterrupt:
        return 130
    except FAILURES as error:
        return fail(error)
    return 0


FAILURES = (UsageError, ConfigError, TokenError, DeviceMissing, NoTerminal, ArmUnavailable)
"""What programs of a person at an arm say in one line."""


def fail(error: Exception) -> int:
    """Write what went wrong in one line and return the exit code."""
    sys.stderr.write(" ".join(str(error).split()) + "\n")
    if isinstance(error, UsageError | ConfigError | TokenError):
        return 2
    return 3 if isinstance(error, DeviceMissing | NoTerminal) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
