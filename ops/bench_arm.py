"""What an arm's process costs, measured on emulated servos for `make bench`.

The servos answer at once: the time of bytes on a real wire, which both sides of a comparison
share, is not in these figures.
"""

import logging
import statistics
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import structlog
from lerobot.robots.so_follower import (  # pyright: ignore[reportMissingTypeStubs]
    SO101Follower,
    SO101FollowerConfig,
)
from numpy.typing import NDArray

from ops.safety_checks.drivers import Wish, drive, swing
from ops.safety_checks.rig import RigArm, RigError, rig
from robot.arm import JOINTS, Joints
from robot.arm_config import ArmConfig
from robot.client import open_arm
from robot.clock import WallClock
from robot.guard import Guard
from robot.limits import SafetyLimits
from robot.process.arm_process import PERIOD_S, ArmProcess
from robot.process.arm_state import Mode
from robot.process.port import PortLock, resolve_port
from robot.process.so101 import So101
from robot.recording.take import Row as TakeRow
from robot.recording.take import Take
from robot.teleop.motions import home as go_home

type Row = Mapping[str, object]
type Cycle = Callable[[], None]
type Times = NDArray[np.float64]

ROUNDS, CYCLES, WARM_UP = 5, 400, 25
"""Of each side; the first cycles of a round are not counted."""
GOAL_EVERY = 2
"""Cycles of 20 ms: 25 Hz, where a policy's goals come at 20."""
AMPLITUDE = 6.0
"""Degrees to each side that a moving arm swings."""
CLIENT = "bench"
LEROBOT = "LeRobot's SO101Follower, get_observation and send_action, no cameras"

READY_S = 30.0
"""Within which a client drives."""
ARMS, WINDOWS, WINDOW_S = 4, 3, 10.0
"""An arm's process tells of its last ten seconds."""


def cycle() -> list[Row]:
    """Compare a whole cycle of ours with LeRobot's, in alternating rounds on one bus.

    Ours has in it: the reading, every fifth time with the servos' health; silence, health and
    following errors; the guarded step; the sending; a row as an episode keeps it, and in every
    second cycle a new goal and its check. The socket that goals come through and the sealing at an
    episode's end are not in it. The guard looks closer where a bound is near: at rest all are.
    """
    _log_little()
    return [*_cycle_at("the start pose", home=True), *_cycle_at("rest", home=False)]


def _cycle_at(pose: str, *, home: bool) -> list[Row]:
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    with TemporaryDirectory() as scratch, free_bus(Path(scratch), home=home) as (config, start):
        for _ in range(ROUNDS):
            with our_cycle(config, start) as one:
                ours.append(timed(one))
            with their_cycle(config, start) as one:
                theirs.append(timed(one))
    return cycle_rows(np.array(ours), np.array(theirs), pose)


def _log_little() -> None:
    """Leave out what these programs log: modes that change, links that are lost at the end."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@contextmanager
def free_bus(folder: Path, *, home: bool) -> Generator[tuple[ArmConfig, Joints]]:
    """Yield an emulated arm that nobody owns, and where it is: at rest, or at its start pose."""
    with rig(1, folder) as [arm]:
        if home:
            with closing(open_arm(arm.config, client=CLIENT, human=True)) as person:
                go_home(person, arm.config, {"dataset": ""})
        start = arm.watch().state().joint_pos
        arm.forget_watcher()
        arm.end_daemon()
        yield arm.config, start


@contextmanager
def our_cycle(config: ArmConfig, start: Joints) -> Generator[Cycle]:
    """Yield a cycle of the arm's process while a client drives; raise `RigError` if that ends."""
    lock = config.runtime("lock")
    arm = So101(arm_id=config.arm_id, port=config.port, calibration=config.calibration, lock=lock)
    with closing(arm):
        guard = Guard(SafetyLimits.load(config.safety))
        process = ArmProcess(arm, guard, WallClock(), park_pose=config.park_pose)
        process.tick()
        process.request(Mode.RUN, client=CLIENT)
        take = Take(period_s=PERIOD_S, cameras=())
        yield lambda: _drive_once(process, take, start)
        if process.mode is not Mode.RUN:
            raise RigError(f"the arm left RUN: {process.state().reason}")


def _drive_once(process: ArmProcess, take: Take, start: Joints) -> None:
    """Answer the last observation, keep a row of it, and let the process do one cycle."""
    process.beat(CLIENT)
    seen, events = process.observation(), ()
    goal = swing(start, seen.stamp, AMPLITUDE)
    if len(take.rows) % GOAL_EVERY == 0:
        events = process.propose(goal, stamp=seen.stamp, client=CLIENT).events
    take.rows.append(
        TakeRow(
            stamp=seen.stamp,
            joint_pos=seen.joint_pos,
            joint_target=seen.joint_target,
            wanted=goal,
            source="policy",
            events=tuple(str(event) for event in events),
        )
    )
    process.tick()


@contextmanager
def their_cycle(config: ArmConfig, start: Joints) -> Generator[Cycle]:
    """Yield a cycle of LeRobot's own."""
    settings = SO101FollowerConfig(
        port=resolve_port(config.port),
        id=config.calibration.stem,
        calibration_dir=config.calibration.parent,
        disable_torque_on_disconnect=False,
    )
    robot: Any = SO101Follower(settings)

    def once() -> None:
        robot.get_observation()
        goal = swing(start, time.monotonic(), AMPLITUDE)
        robot.send_action({f"{joint}.pos": goal[i] for i, joint in enumerate(JOINTS)})

    with ExitStack() as stack:
        stack.callback(PortLock(config.runtime("lock")).release)
        robot.connect(calibrate=False)
        stack.callback(robot.disconnect)
        yield once


def timed(once: Cycle) -> list[float]:
    """Return how long each cycle took, seconds; they begin at the rate of an arm's process."""
    clock, times = WallClock(), list[float]()
    due = clock.now()
    for _ in range(WARM_UP + CYCLES):
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
        due = max(due + PERIOD_S, clock.now())
        clock.sleep_until(due)
    return times[WARM_UP:]


def cycle_rows(ours: Times, theirs: Times, pose: str) -> list[Row]:
    """Return figures of all cycles; a ratio is the median of the rounds' ratios."""
    mine, other = figures(ours), figures(theirs)
    rounds = [(figures(a), figures(b)) for a, b in zip(ours, theirs, strict=True)]
    return [
        {
            "what": f"an arm's cycle at {pose}, ms, {name}",
            "ours": round(mine[name], 2),
            "other": round(other[name], 2),
            "than": LEROBOT,
            "ratio": round(statistics.median(a[name] / b[name] for a, b in rounds), 2),
            "asked": "ratio at most 1.2",
            "cycles": ours.size,
        }
        for name in mine
    ]


def figures(times: Times) -> dict[str, float]:
    """Return what is said of times in seconds, in ms."""
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    return {"p50": 1e3 * p50, "mean": 1e3 * float(times.mean()), "p99": 1e3 * p99}


def jitter() -> list[Row]:
    """Ask four arms, each driven by a client at 20 Hz, how late their cycles at 50 Hz began."""
    _log_little()
    with TemporaryDirectory() as scratch, rig(ARMS, Path(scratch)) as arms:
        for arm in arms:
            _let_drive(arm)
        pages: list[str] = []
        for _ in range(WINDOWS):
            time.sleep(WINDOW_S)
            pages += [metrics(arm.config.url) for arm in arms]
    return jitter_rows(pages)


def _let_drive(arm: RigArm) -> None:
    """Swing an arm from a thread of this process until the arm's own process ends."""
    ours, theirs = Pipe(duplex=False)
    wish = Wish(url=arm.config.url, client=CLIENT, amplitude=AMPLITUDE)
    threading.Thread(target=drive, args=(theirs, wish), daemon=True).start()
    if not ours.poll(READY_S) or ours.recv() != "ready":
        raise RigError(f"{arm.arm_id} was not driven within {READY_S:g} s")


def metrics(url: str) -> str:
    """Return what an arm's process tells Prometheus."""
    answer = httpx.get(f"{url}/metrics", timeout=5.0, trust_env=False)
    return answer.raise_for_status().text


def jitter_rows(pages: Sequence[str]) -> list[Row]:
    """Return figures of the worst ten seconds of any arm."""
    windows = [gauges(page) for page in pages]
    names = (
        ("p50", 'arm_late_quantile_seconds{quantile="0.5"}', None),
        ("p99", 'arm_late_quantile_seconds{quantile="0.99"}', "at most 5"),
        ("greatest", "arm_late_seconds", None),
    )
    return [
        {
            "what": f"lateness of a cycle, {ARMS} arms at 50 Hz, ms, {name} of the worst 10 s",
            "ours": round(1e3 * max(window[gauge] for window in windows), 2),
            "asked": asked,
            "windows": len(windows),
            "driven": sum(window['arm_mode{mode="RUN"}'] == 1 for window in windows),
        }
        for name, gauge, asked in names
    ]


def gauges(page: str) -> dict[str, float]:
    """Return the figures of a page for Prometheus by name and labels."""
    parts = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in parts}
