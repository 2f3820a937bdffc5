"""Show, before an arm may run, that its guard stops it at every limit; no servo moves.

On the model, a perfectly following arm is driven past every joint stop, every face of both boxes,
and the table. What the guard sends is judged by the limits themselves and every point of every
link, not by the guard's own arithmetic.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints
from robot.guard import Guard
from robot.kinematics import LINKS, TOOL_SITE, forward, frames
from robot.limits import Box, SafetyLimits
from robot.own_links import OwnLinks, link_boxes
from robot.volumes import FINGERS, MOVING_LINKS, link_points

DT = 0.05
REACHED_M, REACHED_DEG = 0.005, 0.5
"""A limit was reached when the arm came this near to it."""
BOX_REACHED_M = 0.02
"""At the arm box the guard takes a link for the box around it."""
_TOLERANCE = 1e-6
_STEPS, _STOP_STEPS, _WILD_STEPS = 40, 10, 200
_STARTS, _SAMPLES = 1, 512
_RUN_UP, _PUSH, _RUN_UP_M = 10.0, 60.0, 0.025
_GRIPPER, _JAW = LINKS.index("gripper"), JOINTS.index("gripper")
_BOXES = ("tool_box", "arm_box")
FACES = (
    *(f"{box} {axis} {end}" for box in _BOXES for end in ("lower", "upper") for axis in "xyz"),
    "table",
)
_CORNERS = np.array(list(np.ndindex(2, 2, 2)), bool)
_SMOOTH_M = 0.02
_NUDGE = 0.5  # degrees, to find out which way leads past a face

type Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """One attempt to get past a limit."""

    limit: str
    unit: str
    steps: int
    nearest: float
    """How near the limit the arm came; what is left, in its unit."""
    excess: float
    """By how much anything that was sent broke any limit, metres or degrees; 0 where nothing."""

    @property
    def reached(self) -> bool:
        """Return whether it came so near that the guard must have acted."""
        if self.unit != "m":
            return self.nearest <= REACHED_DEG
        return self.nearest <= (BOX_REACHED_M if self.limit.startswith("arm_box") else REACHED_M)

    def __str__(self) -> str:
        """Return one line of a table."""
        verdict = "BROKEN" if self.excess > 0 else "held" if self.reached else "not reachable"
        scale, unit = (1e3, "mm") if self.unit == "m" else (1.0, self.unit)
        left = f"{scale * self.nearest:.1f} {unit}"
        return f"{self.limit:<24} {self.steps:>5} steps  nearest {left:>10}  {verdict}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitProof:
    """All attempts."""

    drives: tuple[Drive, ...]

    @property
    def holds(self) -> bool:
        """Return whether nothing got past a limit, and a stop was reached: the arm did move."""
        stops = (drive for drive in self.drives if drive.unit != "m")
        return all(drive.excess <= 0 for drive in self.drives) and any(
            drive.reached for drive in stops
        )

    def __str__(self) -> str:
        """Return the table."""
        return "\n".join(map(str, self.drives))


def prove_limits(guard: Guard, *, start: Joints, seed: int = 0) -> LimitProof:
    """Return what came of driving past every limit, from `start` and from random legal poses."""
    limits = guard.limits
    # The tool box keeps an arm from table and arm box, which have to hold without its help.
    nowhere = Box(lower=limits.arm_box.lower - 1.0, upper=limits.arm_box.upper + 1.0)
    wide = type(guard)(replace(limits, tool_box=nowhere))
    inner, outer = _Prover(guard, start, seed), _Prover(wide, start, seed)
    drives = (
        *(inner.to_stop(joint, upper=upper) for joint in range(6) for upper in (False, True)),
        *(inner.to_face(face) for face in range(6)),
        *(outer.to_face(face) for face in range(6, len(FACES))),
        inner.wildly(),
    )
    return LimitProof(drives=drives)


class _Judge:
    """The limits, read in the plainest way."""

    def __init__(self, limits: SafetyLimits) -> None:
        self.limits = limits
        self._points = {link: points for link, (points, _) in link_points().items()}
        self._corners = np.array(
            [np.where(_CORNERS, at.max(0), at.min(0)) for at in self._points.values()]
        )  # (6, 8, 3)
        self._own_links = OwnLinks(link_boxes())

    def outside(self, poses: Joints) -> Floats:
        """Return by how many metres each face is passed, shape (n, 13), by poses (n, 6)."""
        limits, links = self.limits, forward(poses)
        tool = links.rot[:, _GRIPPER] @ TOOL_SITE + links.pos[:, _GRIPPER]
        low, high = np.full((len(poses), 3), np.inf), np.full((len(poses), 3), -np.inf)
        sunk = np.full(len(poses), -np.inf)
        for index, link in enumerate(MOVING_LINKS, 1):
            rot, pos = links.rot[:, index], links.pos[:, index]
            placed = self._points[link] @ rot.transpose(0, 2, 1) + pos[:, None]
            low = np.minimum(low, placed.min(1))
            high = np.maximum(high, placed.max(1))
            clearance = limits.finger_clearance if link in FINGERS else limits.link_clearance
            sunk = np.maximum(sunk, limits.table_z + clearance - placed[..., 2].min(1))
        boxes = [
            limits.tool_box.lower - tool,
            tool - limits.tool_box.upper,
            limits.arm_box.lower - low,
            high - limits.arm_box.upper,
            sunk[:, None],
        ]
        return np.concatenate(boxes, axis=1)

    def nearness(self, poses: Joints) -> Floats:
        """Return how far poses (n, 6) lean towards each face, metres of no fixed zero, (n, 13).

        Unlike `outside` it counts every link a little: the shoulder is the lowest and cannot sink.
        """
        links = forward(poses)
        tool = links.rot[:, _GRIPPER] @ TOOL_SITE + links.pos[:, _GRIPPER]
        placed = self._corners @ links.rot[:, 1:].swapaxes(-1, -2) + links.pos[:, 1:, None]
        corners = placed.reshape(len(poses), -1, 3) / _SMOOTH_M
        low, high = np.log(np.exp(-corners).sum(1)), np.log(np.exp(corners).sum(1))
        return np.concatenate([-tool, tool, low, high, low[:, 2:]], axis=1)

    def legal(self, poses: Joints) -> NDArray[np.bool_]:
        """Return which of the poses (n, 6) keep all limits, with a margin of 2 mm."""
        apart = self._own_links.violations(frames(poses)) <= -0.002
        return np.asarray((self.outside(poses) <= -0.002).all(1) & apart.all(1))

    def look(self, last: Joints, sent: Joints) -> tuple[float, Floats]:
        """Return by how much a command breaks any limit, 0 where it breaks none, and `outside`."""
        limits = self.limits
        outside = self.outside(sent[None])[0]
        amounts = [
            limits.joint_lower - sent,
            sent - limits.joint_upper,
            np.abs(sent - last) - limits.max_speed * DT,
            outside,
        ]
        worst = float(np.concatenate(amounts).max())
        # A command that is not a number breaks every limit.
        return (max(0.0, worst - _TOLERANCE) if np.isfinite(worst) else np.inf), outside


class _Prover:
    """A perfectly following arm behind a guard, and what drives it past the limits."""

    def __init__(self, guard: Guard, start: Joints, seed: int) -> None:
        self._guard, self._judge = guard, _Judge(guard.limits)
        self._rng = np.random.default_rng(seed)
        limits = guard.limits
        self._samples = self._rng.uniform(limits.joint_lower, limits.joint_upper, (_SAMPLES, 6))
        self._start, self._legal = start, self._samples[self._judge.legal(self._samples)]
        self._outside = self._judge.outside(self._legal)

    def to_stop(self, joint: int, *, upper: bool) -> Drive:
        """Drive one joint past its stop, where the boxes leave it that way."""
        limits, way = self._guard.limits, 1.0 if upper else -1.0
        stop = float((limits.joint_upper if upper else limits.joint_lower)[joint])
        there, before = self._samples.copy(), self._samples.copy()
        there[:, joint], before[:, joint] = stop, stop - way * _RUN_UP
        free = self._judge.legal(there) & self._judge.legal(before)
        name = f"{JOINTS[joint]} {'upper' if upper else 'lower'}"
        unit = "%" if joint == _JAW else "°"
        if not free.any():
            return Drive(limit=name, unit=unit, steps=0, nearest=np.inf, excess=0.0)
        last, excess = before[int(free.argmax())], 0.0
        for _ in range(_STOP_STEPS):
            beyond = last.copy()
            beyond[joint] += way * _PUSH
            last, broken, _ = self._send(beyond, last)
            excess = max(excess, broken)
        nearest = abs(stop - float(last[joint]))
        return Drive(limit=name, unit=unit, steps=_STOP_STEPS, nearest=nearest, excess=excess)

    def to_face(self, face: int) -> Drive:
        """Drive the arm past one face from several poses, each joint the way that leads there.

        The poses are the start, some that are legal, and of these the nearest to the face.
        """
        nearest, excess = np.inf, 0.0
        # The nearest, but for those that have no way to go any more.
        left = np.where(
            self._outside[:, face] < -2 * BOX_REACHED_M, -self._outside[:, face], np.inf
        )
        starts = [self._start, *self._legal[:_STARTS], self._legal[left.argmin()]]
        for start in starts:
            last, moved = start, True
            for step in range(_STEPS):
                way = self._way_past(last, face)
                if not moved:
                    # What all joints together may not, one may do alone.
                    way *= np.arange(6) == step % 6
                sent, broken, outside = self._send(last + _PUSH * way, last)
                moved, last = not np.array_equal(sent, last), sent
                excess = max(excess, broken)
                nearest = min(nearest, -float(outside[face]))
        steps = _STEPS * len(starts)
        name = FACES[face]
        return Drive(limit=name, unit="m", steps=steps, nearest=nearest, excess=excess)

    def _way_past(self, pose: Joints, face: int) -> Floats:
        """Return for each joint whether more (1) or less (-1) of it leads past a face."""
        nudged = np.concatenate([pose + _NUDGE * np.eye(6), pose - _NUDGE * np.eye(6)])
        nearness = self._judge.nearness(nudged)[:, face]
        return np.sign(nearness[:6] - nearness[6:])

    def wildly(self) -> Drive:
        """Propose whatever comes, numbers or not."""
        last, nearest, excess = self._start, np.inf, 0.0
        for step in range(_WILD_STEPS):
            wild = self._rng.uniform(-400.0, 400.0, 6)
            if step % 10 == 0:
                wild[step % 6] = self._rng.choice([np.nan, np.inf, -np.inf])
            last, broken, outside = self._send(wild, last)
            excess = max(excess, broken)
            nearest = min(nearest, -float(outside.max()))
        return Drive(
            limit="random goals", unit="m", steps=_WILD_STEPS, nearest=nearest, excess=excess
        )

    def _send(self, proposal: Joints, last: Joints) -> tuple[Joints, float, Floats]:
        """Return what the guard makes of a proposal, and what the judge makes of that."""
        command = self._guard.check(proposal, last=last, measured=last, dt=DT)
        return command.joint_target, *self._judge.look(last, command.joint_target)
