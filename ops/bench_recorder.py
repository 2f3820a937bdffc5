"""What a recording costs and loses, measured on an emulated arm for `make bench`."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from ops.safety_checks.drivers import swing
from ops.safety_checks.rig import START_S, RigArm, RigError, back_to_hold, rig, wait_for
from ops.slideshow import SLIDES, slides, taken_by
from rl.own_arms import is_ready
from robot.arm import Joints, Observation
from robot.camera import encode_jpeg
from robot.client import open_arm
from robot.journal import Episode, Journal, read_episode
from robot.process.arm_state import Mode
from robot.recording.record import session_of
from robot.recording.recorder import Recorder
from robot.teleop.devices import Request

type Row = Mapping[str, object]

FPS, HEIGHT, WIDTH = 30, 480, 640
CAMERAS = ("front", "side")
AMPLITUDE = 6.0
"""Degrees to each side that the arm swings."""
TAKE_S = 60.0
"""Longer takes would not fit into one file."""
LOOK_FIRST_S, OVERTIME_S = 0.5, 60.0
"""Before each take, and for all that is not recording: looking and sealing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU seconds that were used in `wall_s` seconds."""

    wall_s: float
    recorder_s: float
    """Of this process, which records."""
    cameras_s: float
    arm_s: float
    """Of the arm's process, which would run without a recording as well."""

    def percent(self, used_s: float) -> float:
        """Return a share of one core."""
        return round(100 * used_s / self.wall_s, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What an episode lacks, counted in pictures."""

    pictures: int
    """As many as all rows of all cameras should have."""
    missing: int
    """Of rows that never came."""
    stale: int
    """Of rows that show an older picture than their camera had taken by then."""
    between: int
    """Taken between two rows, so that none shows it: rows come when joints were read, at 50 Hz."""


def recorder(seconds: float) -> list[Row]:
    """Record two webcams' pictures at 30 Hz as a person's episodes are, sealing included.

    Takes are of a minute at most. A picture is ready in memory when it is due: what receiving and
    decoding cost with a real webcam is not in it. `ps` counts whole seconds.
    """
    takes = max(1, math.ceil(seconds / TAKE_S))
    with TemporaryDirectory() as scratch, rig(1, Path(scratch)) as [arm]:
        _give_cameras(arm, Path(scratch))
        journal = Journal(Path(scratch))
        cost = record(arm, journal, takes=takes, take_s=seconds / takes)
        numbers = {encode_jpeg(slide): n for n, slide in enumerate(slides(HEIGHT, WIDTH))}
        losses = [losses_of(read_episode(path), numbers) for path in journal.episodes()]
    return recorder_rows(cost, losses)


def _give_cameras(arm: RigArm, folder: Path) -> None:
    """Start an arm's process anew, with cameras."""
    camera = {"type": "slideshow", "package": "ops.slideshow"}
    size = {"width": WIDTH, "height": HEIGHT, "fps": FPS}
    path = folder / f"{arm.arm_id}.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["cameras"] = {name: {**camera, **size} for name in CAMERAS}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    arm.end_daemon()
    arm.start_daemon()
    # What ended without parking starts stopped.
    back_to_hold(arm)
    arm.forget_watcher()
    wait_for(lambda: is_ready(arm.config), START_S, f"a camera of {arm.arm_id}", arm.log)


class Swinging:
    """A device in a person's place that swings the arm about where it was."""

    def __init__(self, start: Joints, *, until: float) -> None:
        """Ask to quit at `until`, `time.monotonic()`, should the recording not be over."""
        self._start, self._until = start, until

    def poll(self) -> Sequence[Request]:
        """Return what was asked for."""
        return ["quit"] if time.monotonic() > self._until else []

    def read(self, observation: Observation) -> Joints:
        """Return where the joints shall be."""
        return swing(self._start, observation.stamp, AMPLITUDE)

    def close(self) -> None:
        """Do nothing: there is no device."""


def record(arm: RigArm, journal: Journal, *, takes: int, take_s: float) -> Cost:
    """Record as `make record` does, keeping every take; raise `RigError` if it does not end."""
    with ExitStack() as stack:
        driver = stack.enter_context(closing(open_arm(arm.config, client="bench", human=True)))
        watcher = stack.enter_context(closing(open_arm(arm.config, client="bench-cameras")))
        start = driver.observe(frames=False).joint_pos
        until = time.monotonic() + takes * take_s + OVERTIME_S
        words = {"goal": "Swing.", "device": "scripted", "fps": str(FPS)}
        recording = Recorder(
            driver,
            Swinging(start, until=until),
            journal=journal,
            session=session_of(words, driver, arm.config),
            eyes=watcher.pictures,
            episode_s=take_s,
            hands_free=True,
            max_late=1.0,
            # A take begins with pictures that are there.
            prepare=lambda _: time.sleep(LOOK_FIRST_S),
            say=lambda sentence: print(f"  {sentence}", file=sys.stderr),
        )
        driver.mode(Mode.TAKEOVER)
        cost = measured(arm.pid, lambda: recording.run(takes))
    if len(journal.episodes()) < takes:
        raise RigError(f"not all was recorded: {recording.state()}")
    return cost


def measured(arm_pid: int, work: Callable[[], object]) -> Cost:
    """Do something and return what it cost; `arm_pid` is the process id of the arm's process."""
    began, own, (arm, cameras) = time.monotonic(), time.process_time(), arm_cpu_s(arm_pid, ps())
    work()
    arm_after, cameras_after = arm_cpu_s(arm_pid, ps())
    return Cost(
        wall_s=time.monotonic() - began,
        recorder_s=time.process_time() - own,
        cameras_s=cameras_after - cameras,
        arm_s=arm_after - arm,
    )


def ps() -> str:
    """Return a line for each process: its id, its parent's, and the CPU time it has used."""
    command = ["ps", "-A", "-o", "pid=,ppid=,time="]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def arm_cpu_s(arm_pid: int, processes: str) -> tuple[float, float]:
    """Return the CPU seconds of an arm's process and of the cameras' process that it started."""
    lines = [line.split() for line in processes.splitlines()]
    own = sum(cpu_s(used) for pid, _, used in lines if int(pid) == arm_pid)
    return own, sum(cpu_s(used) for _, parent, used in lines if int(parent) == arm_pid)


def cpu_s(text: str) -> float:
    """Return the seconds of a time as `ps` writes it: `00:01:02`, `1-00:00:02` or `1:02.50`."""
    days, _, clock = text.rpartition("-")
    seconds = 86400.0 * int(days or 0)
    return seconds + sum(
        float(part) * 60**power for power, part in enumerate(reversed(clock.split(":")))
    )


def losses_of(episode: Episode, numbers: Mapping[bytes, int]) -> Losses:
    """Return what a sealed episode lacks; `numbers` are those of the slides by their JPEG."""
    cameras, rows = len(episode.frames), len(episode.stamps)
    wanted = round((episode.stamps[-1] - episode.stamps[0]) * FPS) + 1
    due = [taken_by(stamp, FPS) for stamp in episode.stamps.tolist()]
    stale = sum(
        numbers.get(jpeg) != number % SLIDES
        for pictures in episode.frames.values()
        for jpeg, number in zip(pictures, due, strict=True)
    )
    return Losses(
        pictures=cameras * wanted,
        missing=cameras * max(0, wanted - rows),
        stale=stale,
        between=cameras * (due[-1] - due[0] + 1 - len(set(due))),
    )


def recorder_rows(cost: Cost, losses: Sequence[Losses]) -> list[Row]:
    """Return what was lost and what it cost."""
    pictures = sum(one.pictures for one in losses)
    missing, stale = sum(one.missing for one in losses), sum(one.stale for one in losses)
    of = f"{pictures} pictures, {len(CAMERAS)} cameras of {WIDTH}x{HEIGHT} at {FPS} Hz"
    return [
        {
            "what": f"dropped of {of}",
            "ours": missing + stale,
            "asked": "none",
            "missing": missing,
            "stale": stale,
            "episodes": len(losses),
        },
        {
            "what": f"taken between two rows, of {of}",
            "ours": sum(one.between for one in losses),
        },
        {
            "what": "CPU of recorder and cameras, percent of one core",
            "ours": cost.percent(cost.recorder_s + cost.cameras_s),
            "asked": "at most 60",
            "recorder": cost.percent(cost.recorder_s),
            "cameras": cost.percent(cost.cameras_s),
            "arm_process": cost.percent(cost.arm_s),
            "seconds": round(cost.wall_s, 1),
        },
    ]
