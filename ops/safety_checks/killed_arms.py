"""S12 and R4: the process of an emulated arm is killed, and comes back by itself."""

import time
from collections.abc import Sequence
from functools import partial

from ops.safety_checks.driven import Tally, driven, on_rig
from ops.safety_checks.effort import Effort
from ops.safety_checks.rig import START_S, RigArm, RigError, tail
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from robot.process.arm_state import Mode

BACK_S = 2.0
LATCHED_DEG = 10.0
"""How far a latched pose may be from the goal of a compliant arm: it sags."""
HOLDS = "the arm's process killed: the servos hold; started again it is stopped, no jump"
APART = "one arm's death never disturbs the others"


def killed_arms(effort: Effort) -> list[Row]:
    """S12: kill the arm's process while it drives; the servos hold, and it comes back stopped."""
    check = partial(_killed, effort)
    return on_rig(effort, 1, check, promise=("S12", HOLDS), meanwhile="its writer dies")


def killed_neighbours(effort: Effort) -> list[Row]:
    """R4: kill the process of one arm while another is driven."""
    check = partial(_neighbours, effort)
    return on_rig(effort, 2, check, promise=("R4", APART), meanwhile="a neighbour dies")


def _killed(effort: Effort, arms: Sequence[RigArm]) -> list[Row]:
    count = effort.count(quick=2, full=200)
    tally = Tally()
    for trial in effort.progress(range(count), "S12 kills"):
        seconds, fault = _one_killed(arms[0])
        tally.times.append(seconds)
        if fault:
            tally.wrong.append(f"kill {trial}: {fault}")
    slow = [f"back after {seconds:.1f} s" for seconds in tally.times if seconds > BACK_S]
    holds = Row(
        id="S12",
        promise=HOLDS,
        asked="0 falls, 0 jumps",
        measured=f"{len(tally.wrong)} of {count}",
        trials=count,
        full=200,
        broken=len(tally.wrong),
        how="The arm's process, the child of what `make arm` starts, is killed while a client "
        "drives, once it is 5 s old; goals and torque are read from the servos' registers until it "
        "has come back by itself, and it must be stopped, within what the judge allows.",
        examples=tuple(tally.wrong[:MOST_EXAMPLES]),
    )
    back = Row(
        id="S12",
        promise="the arm's process is back soon after its death",
        asked=f"≤{BACK_S:g} s",
        measured=spread(tally.times, scale=1, unit="s"),
        trials=count,
        full=200,
        broken=len(slow),
        how="From its kill -9 to the first answer of the process that is forked in its place, by a "
        "parent that has loaded the driver, and shown that the limits hold, once.",
        noise="looked every 20 ms",
        examples=tuple(slow[:MOST_EXAMPLES]),
    )
    return [holds, back]


def _one_killed(arm: RigArm) -> tuple[float, str]:
    """Return how long the arm's process was away, and what went wrong, if anything did."""
    arm.wait_mature()
    before = arm.judged().broken
    with driven(arm):
        time.sleep(0.3)
        killed_at, held = arm.kill_process(), arm.goals()
        dropped = _drops(arm)
        seconds = time.monotonic() - killed_at
    arm.forget_watcher()
    arm.wait_ready()
    mode, goals = arm.watch().state().mode, arm.goals()
    moved = max(abs(a - b) for a, b in zip(goals, held, strict=True)) * 360 / 4095
    broken = arm.judged().broken - before
    well = not dropped and mode is Mode.STOP and moved <= LATCHED_DEG and not broken
    if well:
        return seconds, ""
    return seconds, f"dropped {dropped}, {mode}, goals moved {moved:.1f} deg, judge {broken}"


def _drops(arm: RigArm) -> bool:
    """Wait until an arm's process answers; return whether a servo lost its torque meanwhile."""
    dropped, deadline = False, time.monotonic() + START_S
    while not arm.is_ready():
        dropped |= not arm.holds()
        if time.monotonic() > deadline:
            raise RigError(f"the process of {arm.arm_id} does not come back: {tail(arm.log)}")
        time.sleep(0.02)
    return dropped


def _neighbours(effort: Effort, arms: Sequence[RigArm]) -> list[Row]:
    count = effort.count(quick=2, full=100)
    first, second = arms[0], arms[1]
    tally = Tally()
    calm = second.watch().state().late_s
    for trial in effort.progress(range(count), "R4 kills"):
        first.forget_watcher()
        first.wait_mature()
        with driven(second):
            first.kill_process()
            late = _late(second, 2.0)
            state = second.watch().state()
        if state.mode is not Mode.RUN:
            tally.wrong.append(f"seed={effort.seed} kill {trial}: {state.mode}, {state.reason}")
        tally.times.append(late)
        first.wait_ready()
    row = Row(
        id="R4",
        promise=APART,
        asked="0 arms that leave RUN",
        measured=f"{len(tally.wrong)} of {count}; its cycles were late by {spread(tally.times)}",
        trials=count,
        full=100,
        broken=len(tally.wrong),
        how="Two arms; the process of one is killed and comes back while the other is driven; "
        "two seconds later its mode, and its greatest lateness of a cycle within ten seconds.",
        noise=f"before the first kill late by {1e3 * calm:.1f} ms",
        examples=tuple(tally.wrong[:MOST_EXAMPLES]),
    )
    return [row]


def _late(arm: RigArm, seconds: float) -> float:
    """Return the greatest lateness of an arm's cycles while `seconds` pass."""
    worst, deadline = 0.0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        worst = max(worst, arm.watch().state().late_s)
        time.sleep(0.1)
    return worst
