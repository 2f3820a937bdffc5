"""Emulate one arm: `python -m robot.emulator.process arm_id=arm01 preset=stiff`, or `make emulate`.

Six servos on a pseudo-terminal, `run/<arm_id>.bus`, moved by the twin in real time; requests and
faults through `run/<arm_id>.admin`; what cameras draw in `run/<arm_id>.state`.
"""

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, cast

import structlog
import yaml

from robot.arm_config import ARM_ID, ROOT
from robot.emulator.bus_judge import BusJudge
from robot.emulator.desk import Desk, EmulatorError, listen
from robot.emulator.emulated_arm import EmulatedArm, read_calibration
from robot.emulator.ops import EmulatorOps, Reply
from robot.emulator.port import EmulatorPort
from robot.emulator.twin_body import TwinBody
from robot.emulator.twin_state import TwinState, TwinStateWriter
from robot.scene import Item, Layout
from robot.twin_model import PRESETS, TIMESTEP_S
from robot.words import UsageError, parse_words

log = structlog.get_logger(__name__)

WORDS: Final = {
    "arm_id": "arm01",
    "preset": "stiff",
    "thing": "red cube",
    "place": "",
    "seed": "0",
    "calibration": "conf/calibration/emulated.json",
    "safety": "conf/safety/default.yaml",
    "judge": "on",
    "faults": "",
    "folder": "run",
    "dev": "/dev",
}
"""`calibration=` with nothing: servos as from the factory; `dev=` with nothing: no link there."""
JUDGES: Final = ("on", "joints", "off")
"""`joints` judges ranges and speeds only, at a tenth of the cost."""
FAILED, USAGE = 1, 2
_PRIORITY: Final = -10
FORGIVEN_S: Final = 0.25
"""A process that was stopped for longer makes up for this much of it; before, the twin stood still.

It has to make up for some: goals go on, and joints that stood still through every pause would be
shown to pull at them with all they have.
"""
_STATE_STEPS: Final = 2


class Emulator:
    """One process's loop: step the physics up to now, answer bytes at once, serve requests."""

    def __init__(
        self,
        arm: EmulatedArm,
        port: EmulatorPort,
        state: TwinStateWriter,
        *,
        admin: socket.socket,
        preset: str,
        witness: BusJudge | None,
    ) -> None:
        self.arm, self.port, self.state = arm, port, state
        self.ops = EmulatorOps(arm, self, preset=preset, witness=witness)
        self.desk = Desk(admin, self._answer)
        self.schedule: list[tuple[float, dict[str, object]]] = []
        """Faults by the seconds after the start at which they come, in order."""
        # epoll rounds its wait up to milliseconds.
        self._selector = selectors.SelectSelector()
        self._selector.register(self.desk.listening, selectors.EVENT_READ, self._welcome)
        self._building: list[tuple[socket.socket, Future[TwinBody]]] = []
        self._late: list[tuple[float, int, bytes]] = []
        self._order = itertools.count()
        self._started = time.monotonic()
        self._steps, self._slipped_s, self._behind_s = 0, 0.0, 0.0
        self._watch()

    def run(self, *, stopped: Callable[[], bool]) -> None:
        """Emulate until told to stop."""
        self._started = time.monotonic()
        while not stopped():
            self._turn()

    def close(self) -> None:
        """Remove port, socket and state file."""
        self.ops.close()
        self.unplug()
        self.desk.close()
        self.state.close()
        self._selector.close()

    def _turn(self) -> None:
        due = self._due()
        if self._late:
            due = min(due, self._late[0][0])
        ready = self._selector.select(max(0.0, due - time.monotonic()))
        # What has come is answered by the arm of this moment, not by that of a while ago.
        self._catch_up(time.monotonic())
        for key, _ in ready:
            key.data()
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            self.port.write(heapq.heappop(self._late)[2])

    def _due(self) -> float:
        return self._started + self._slipped_s + (self._steps + 1) * TIMESTEP_S

    def _catch_up(self, now: float) -> None:
        """Run the physics up to `now`; of a longer pause, its last `FORGIVEN_S`."""
        late = now - self._due()
        if late < 0.0:
            return
        self._behind_s = max(self._behind_s, late)
        self._slipped_s += max(0.0, late - FORGIVEN_S)
        before = self._steps
        while self._due() <= now:
            self.arm.step()
            self._steps += 1
        if self._steps // _STATE_STEPS > before // _STATE_STEPS:
            self._write_state(now)
            self._housekeeping(now)

    def _housekeeping(self, now: float) -> None:
        while self.schedule and self.schedule[0][0] <= now - self._started:
            fields = self.schedule.pop(0)[1]
            try:
                self.ops.faults.strike(fields)
            except ValueError as error:
                log.warning("scheduled_fault_refused", fault=fields, reason=str(error))
        for client, building in tuple(self._building):
            if building.done():
                self._building.remove((client, building))
                self.desk.reply(client, self.ops.complete(building.result()))

    def _write_state(self, now: float) -> None:
        qpos, place = self.arm.twin.picture()
        self.state.write(
            TwinState(
                stamp=now,
                time=self.arm.twin.time,
                qpos=qpos,
                flat_place=place,
                layout=self.arm.twin.layout,
                camera_faults=self.ops.faults.cameras,
            )
        )

    # The bus

    def _serve_bus(self) -> None:
        data = self.port.read()
        self.arm.now = now = time.monotonic()
        self.arm.bus.baud = self.port.baud()
        replies = self.arm.feed(data)
        prompt = b"".join(reply for delay_s, reply in replies if not delay_s)
        if prompt:
            self.port.write(prompt)
        for delay_s, reply in replies:
            if delay_s:
                heapq.heappush(self._late, (now + delay_s, next(self._order), reply))

    def unplug(self) -> None:
        """Take the port away."""
        if self.port.master is not None:
            self._selector.unregister(self.port.master)
            self._late.clear()
            self.port.unplug()

    def replug(self) -> str:
        """Bring the port back under another name and return that."""
        if self.port.master is None:
            self.port.replug()
            self._watch()
        return self.port.name

    def _watch(self) -> None:
        if self.port.master is not None:
            self._selector.register(self.port.master, selectors.EVENT_READ, self._serve_bus)

    # The admin socket

    def _welcome(self) -> None:
        client = self.desk.accept()

        def serve() -> None:
            if not self.desk.serve(client):
                self._selector.unregister(client)

        self._selector.register(client, selectors.EVENT_READ, serve)

    def _answer(self, request: dict[str, object]) -> Reply | None:
        if request.get("op") == "status":
            return self._status()
        answer = self.ops.answer(request)
        if not isinstance(answer, Future):
            return answer
        if self.desk.asking is not None:
            self._building.append((self.desk.asking, answer))
        return None

    def _status(self) -> Reply:
        behind, self._behind_s = self._behind_s, 0.0
        return {
            "pid": os.getpid(),
            "port": self.port.name,
            "time": self.arm.twin.time,
            "requests": self.arm.bus.requests,
            "struck": self.arm.bus.faults.struck,
            "behind_s": behind,
            "slipped_s": self._slipped_s,
            "cpu_s": time.process_time(),
            "for_s": time.monotonic() - self._started,
        }


def read_schedule(path: Path) -> list[tuple[float, dict[str, object]]]:
    """Return the faults of a YAML list of `{at_s, kind, …}`, in the order in which they come."""
    content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise EmulatorError(f"{path} holds no list; expected - {{at_s: 5, kind: lost, count: 1}}")
    found: list[tuple[float, dict[str, object]]] = []
    for entry in cast("list[object]", content):
        fields = dict(cast("dict[str, object]", entry)) if isinstance(entry, dict) else {}
        at_s = fields.pop("at_s", None)
        if not isinstance(at_s, int | float) or "kind" not in fields:
            raise EmulatorError(f"{path}: {entry!r}; expected {{at_s: 5, kind: lost, count: 1}}")
        found.append((float(at_s), fields))
    return sorted(found, key=lambda fault: fault[0])


def parse_item(words: str) -> Item | None:
    """Return the item that `blue bowl` names; None of an empty text."""
    colour, _, kind = words.partition(" ")
    if not words:
        return None
    if kind not in ("cube", "bowl", "marker"):
        raise UsageError(f"{words!r} is no item; expected a colour and cube, bowl or marker")
    return Item(kind, colour)


def build(words: dict[str, str]) -> Emulator:
    """Return the emulator that the words of the command line describe."""
    arm_id, preset = words["arm_id"], words["preset"]
    thing = parse_item(words["thing"])
    if not ARM_ID.fullmatch(arm_id):
        raise UsageError(f"arm_id={arm_id!r}; expected letters, digits and -, e.g. arm01")
    if preset not in PRESETS or thing is None:
        raise UsageError(f"preset={preset}; known: {', '.join(PRESETS)}; thing=red cube")
    schedule = read_schedule(Path(words["faults"])) if words["faults"] else []
    folder = ROOT / words["folder"]
    folder.mkdir(parents=True, exist_ok=True)
    twin = TwinBody(Layout(thing=thing, place=parse_item(words["place"])), preset=preset)
    twin.reset_scene(int(words["seed"]))
    if words["judge"] not in JUDGES:
        raise UsageError(f"judge={words['judge']}; known: {', '.join(JUDGES)}")
    witness = None
    if words["judge"] != "off":
        witness = BusJudge(ROOT / words["safety"], space=words["judge"] == "on")
    calibration = read_calibration(ROOT / words["calibration"]) if words["calibration"] else None
    arm = EmulatedArm(twin, calibration=calibration, judge=witness, seed=int(words["seed"]))
    # First of all: who emulates this arm already must not lose its links.
    admin = listen(folder / f"{arm_id}.admin")
    links = [folder / f"{arm_id}.bus"]
    if words["dev"] and os.access(words["dev"], os.W_OK):
        links.append(Path(words["dev"]) / f"ttyEMU_{arm_id}")
    emulator = Emulator(
        arm,
        EmulatorPort(links),
        TwinStateWriter(folder / f"{arm_id}.state"),
        admin=admin,
        preset=preset,
        witness=witness,
    )
    emulator.schedule = schedule
    return emulator


def main(argv: Sequence[str]) -> int:
    """Emulate until SIGTERM or Ctrl-C; return the exit code."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        emulator = build(parse_words(argv, known=WORDS))
    except (UsageError, EmulatorError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return USAGE if isinstance(error, UsageError) else FAILED
    # Servos do not wait for a busy host.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    sys.stdout.write(f"{emulator.port.links[0]} is {emulator.port.name}\n")
    sys.stdout.flush()
    try:
        emulator.run(stopped=lambda: bool(signals))
    finally:
        emulator.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
