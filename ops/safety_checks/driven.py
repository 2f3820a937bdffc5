"""What checks with real processes share: arms of a rig, clients that drive them, busy cores."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from ops.safety_checks.drivers import Wish, drive, hog
from ops.safety_checks.effort import Effort, say
from ops.safety_checks.rig import RigArm, RigError, back_to_hold, rig
from ops.safety_checks.row import Row, not_measured
from ops.safety_checks.victims import context
from robot.link import ArmUnavailable

READY_S, TRIES = 30.0, 3
FRAMES = 100_000
"""Frames that an emulator's judge shall have seen."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Times of many trials, what broke, and how finely one could look."""

    times: list[float] = field(default_factory=list[float])
    wrong: list[str] = field(default_factory=list[str])
    gaps: list[float] = field(default_factory=list[float])


def on_rig(
    effort: Effort,
    arms: int,
    check: Callable[[Sequence[RigArm]], Sequence[Row]],
    *,
    promise: tuple[str, str],
    meanwhile: str,
) -> list[Row]:
    """Return the rows of a check on emulated arms, and what their judges saw meanwhile.

    `promise`, its id and sentence, is said not to be measured where the arms cannot be had.
    """
    try:
        with rig(arms, effort.folder / "rig") as running:
            return [*check(running), _judged(running, meanwhile)]
    except (RigError, ArmUnavailable) as error:
        return [not_measured(*promise, "-", why=str(error))]


@contextmanager
def driven(arm: RigArm, url: str | None = None) -> Generator[ForkServerProcess]:
    """Yield a process that drives an arm from HOLD, once it does; raise `RigError` if none can.

    An arm that stopped itself before its driver began is reset: on a machine without an idle core
    the emulated servos are late now and then.
    """
    wish = Wish(url=url or arm.config.url, client="victim", amplitude=6.0)
    for _ in range(TRIES):
        back_to_hold(arm)
        with _driver(wish) as (process, answer):
            if answer == "ready":
                yield process
                return
        say(f"  the arm refused its driver: {answer}")
    raise RigError(f"{arm.arm_id} refused its driver {TRIES} times")


@contextmanager
def _driver(wish: Wish) -> Generator[tuple[ForkServerProcess, str]]:
    """Yield a process that drives, and what it said when it began."""
    forking = context()
    ours, theirs = forking.Pipe(duplex=False)
    process = forking.Process(target=drive, args=(theirs, wish), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, _first_word(ours)
    finally:
        process.kill()
        process.join()
        ours.close()


def _first_word(said: Connection) -> str:
    try:
        return said.recv() if said.poll(READY_S) else "it took too long"
    except EOFError:
        return "it died"


@contextmanager
def busy(effort: Effort, cores: int) -> Generator[None]:
    """Keep cores busy meanwhile."""
    forking = context()
    flag = effort.folder / "busy"
    flag.touch()
    ours, theirs = forking.Pipe(duplex=False)
    hogs = [forking.Process(target=hog, args=(theirs, flag), daemon=True) for _ in range(cores)]
    for process in hogs:
        process.start()
    try:
        yield
    finally:
        flag.unlink()
        for process in hogs:
            process.kill()
            process.join()
        ours.close()
        theirs.close()


def _judged(arms: Sequence[RigArm], meanwhile: str) -> Row:
    """S1 on the wire: what the emulators' judges have seen."""
    verdicts = [arm.judged() for arm in arms]
    frames = sum(verdict.frames for verdict in verdicts)
    worst = tuple(
        f"{arm.arm_id}: {v.worst}" for arm, v in zip(arms, verdicts, strict=True) if v.worst
    )
    broken = sum(verdict.broken for verdict in verdicts)
    return Row(
        id="S1",
        promise=f"nothing written to the servos breaks a limit while {meanwhile}",
        asked="0",
        measured=f"{broken} of {frames:,} frames, {', '.join(worst) or 'none'}",
        trials=frames,
        full=FRAMES,
        broken=broken,
        how="The emulator decodes what is written to its servos and judges it by its own copy of "
        "the limits, all through the check.",
        noise="a tick is 0.09 deg; 1 mm in space; 50 ms of speed",
        examples=worst,
    )
