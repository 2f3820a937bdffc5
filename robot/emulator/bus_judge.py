"""Counts how often what was written to the servos breaks the limits, knowing nothing of the guard.

The limits are read from their YAML here again, and where the links are is MuJoCo's own doing: its
kinematics, on the shapes of the original meshes. What is judged is where torque drives the joints:
the goals as the servos took them, on the straight way from one to the next, a pose a degree.

What is forgiven is what a bus cannot help:

- Goals are whole ticks, and LeRobot cuts them down to whole ones: half a tick is added, and the
  other half may make a hand's breadth of arm 0.7 mm deep and 1 mm wide wrong.
- Requests arrive when they arrive: a joint may go 30 ms ahead of its greatest speed, but no step
  may be longer than 50 ms of it.
- An arm that is outside already (it was put there, or has sunk) may stay or come back.
- A goal where the arm was measured within the last 0.1 s, within 2 degrees, is no step: that is how
  an arm is held after a hand, a fault or a change of mode; what a late status says is as old. So it
  is no worse place either, every 0.5 s at most.
"""

import math
from collections import deque
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

import mujoco
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial import ConvexHull  # pyright: ignore[reportMissingTypeStubs]

type Floats = NDArray[np.float64]

NAMES: Final = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
)
RULES: Final = ("range", "speed", "tool_box", "arm_box", "table")
HALF_TICK_DEG: Final = 0.5 * 360 / 4095
RANGE_SLACK: Final = 0.1
BOX_SLACK_M: Final = 0.0010
TABLE_SLACK_M: Final = 0.0007
STEP_S: Final = 0.05
AHEAD_S: Final = 0.03
STEP_SLACK: Final = 0.2
LATCH_DEG: Final = 2.0
LATCH_EVERY_S: Final = 0.5
RECENT_S: Final = 0.1
POSE_EVERY_DEG: Final = 1.0
_JAW = "moving_jaw_so101_v1"
_FINGERS: Final = ("gripper", _JAW)
_TOOL: Final = "gripperframe"
_JAW_CLOSED_DEG, _JAW_TRAVEL_DEG = -10.0, 110.0
_KEPT = 20


class Shapes:
    """Where the links are, by MuJoCo, at any hinge angles."""

    def __init__(self) -> None:
        """Read the arm's file; meshes give their hulls and are not compiled."""
        asset = resources.files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
        with resources.as_file(asset) as path:
            spec: Any = mujoco.MjSpec.from_file(str(path))
            meshes = _take_meshes(spec, path.parent / "assets")
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._addresses = [int(self._model.joint(name).qposadr[0]) for name in NAMES]
        clouds = _clouds(self._model, meshes)
        self.bodies = tuple(clouds)
        self._ids = [self._model.body(name).id for name in self.bodies]
        self._clouds = list(clouds.values())

    def extent(self, radians: Floats) -> tuple[Floats, Floats, Floats]:
        """Return lowest and highest corners of each body, shape (bodies, 3), and the tool, (3,)."""
        data = self._data
        data.qpos[self._addresses] = radians
        mujoco.mj_kinematics(self._model, data)
        low, high = np.empty((len(self._ids), 3)), np.empty((len(self._ids), 3))
        for row, (body, (points, sizes)) in enumerate(zip(self._ids, self._clouds, strict=True)):
            placed = data.xmat[body].reshape(3, 3) @ points
            (placed - sizes).min(1, out=low[row])
            (placed + sizes).max(1, out=high[row])
        origins = data.xpos[self._ids]
        return low + origins, high + origins, data.site(_TOOL).xpos.copy()


class BusJudge:
    """Looks at every goal that reaches a servo with torque on."""

    def __init__(self, safety: Path, *, space: bool = True) -> None:
        """Read the limits; without `space` only joint ranges and speeds are judged."""
        content = cast("Mapping[str, Any]", yaml.safe_load(safety.read_text(encoding="utf-8")))
        self._low, self._high, self._speed = (
            np.array([float(content[key][name]) for name in NAMES])
            for key in ("joint_lower", "joint_upper", "max_speed")
        )
        self._tool_low, self._tool_high = _corners(content["tool_box"])
        self._arm_low, self._arm_high = _corners(content["arm_box"])
        self.shapes = Shapes() if space else None
        if self.shapes is not None:
            clearances = [
                float(content["finger_clearance" if body in _FINGERS else "link_clearance"])
                for body in self.shapes.bodies
            ]
            self.floor = float(content["table_z"]) + np.array(clearances)
        self.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self.frames = 0
        self.violations: dict[str, int] = dict.fromkeys(RULES, 0)
        self._worst: dict[str, dict[str, object]] = {}
        self._latest: deque[dict[str, object]] = deque(maxlen=_KEPT)
        self._last = np.full(6, np.nan)
        self._budget = self._speed * (STEP_S + AHEAD_S)
        self._seen_at, self._latched_at = -math.inf, -math.inf
        self._recent: deque[tuple[float, Floats]] = deque()
        self._allowed: Floats | None = None

    def report(self) -> dict[str, object]:
        """Return how many frames were seen and how many broke each rule, the worst, the latest."""
        return {
            "frames": self.frames,
            "violations": dict(self.violations),
            "worst": dict(self._worst),
            "latest": list(self._latest),
        }

    def see(self, goals: Floats, now: float, *, measured: Floats) -> None:
        """Judge hinge angles, shape (6,), radians; NaN where torque is off."""
        self.frames += 1
        goal, here = _units(goals), _units(measured)
        self._remember(here, now)
        on = ~np.isnan(goal)
        goal[on] += HALF_TICK_DEG
        elapsed, self._seen_at = now - self._seen_at, now
        if not on.any():
            self._last, self._allowed = goal, None
            return
        if np.array_equal(goal, self._last, equal_nan=True):
            self._refill(elapsed)
            return
        # A joint whose torque has come on starts where it is; a limp one is where it is.
        began = np.where(np.isnan(self._last), here, self._last)
        target = np.where(on, goal, here)
        near = any((np.abs(target - pose) <= LATCH_DEG).all() for _, pose in self._recent)
        self._judge_range(goal, now)
        self._judge_speed(began, target, elapsed, now=now, near=near)
        if self.shapes is not None:
            self._judge_space(began, target, now=now, near=near)
        self._last = goal

    def _refill(self, elapsed: float) -> None:
        most = self._speed * (STEP_S + AHEAD_S)
        self._budget = np.minimum(self._budget + self._speed * min(elapsed, 1.0), most)

    def _judge_range(self, goal: Floats, now: float) -> None:
        over = np.fmax(self._low - goal, goal - self._high)
        worst = int(np.nanargmax(over))
        if over[worst] > RANGE_SLACK:
            self._count("range", float(over[worst]), NAMES[worst], now)

    def _judge_speed(
        self, began: Floats, target: Floats, elapsed: float, *, now: float, near: bool
    ) -> None:
        self._refill(elapsed)
        step = np.abs(target - began)
        longest = self._speed * STEP_S
        if near and (step > longest).any():
            return
        over = np.maximum(step - longest, step - self._budget) - STEP_SLACK
        self._budget = np.maximum(self._budget - step, 0.0)
        worst = int(over.argmax())
        if over[worst] > 0:
            self._count("speed", float(over[worst]), NAMES[worst], now)

    def _remember(self, here: Floats, now: float) -> None:
        self._recent.append((now, here))
        while now - self._recent[0][0] > RECENT_S:
            self._recent.popleft()

    def _judge_space(self, began: Floats, target: Floats, *, now: float, near: bool) -> None:
        if self._allowed is None:
            self._allowed = np.maximum(self._excess(self._recent[-1][1]), 0.0)
        poses = max(1, math.ceil(float(np.abs(target - began).max()) / POSE_EVERY_DEG))
        found = np.array(
            [self._excess(began + (target - began) * k / poses) for k in range(1, poses + 1)]
        )
        worst = found.max(0)
        broken = worst > self._allowed + self._slack()
        if near and broken.any() and now - self._latched_at >= LATCH_EVERY_S:
            self._latched_at = now
            for _, pose in self._recent:
                self._allowed = np.maximum(self._allowed, self._excess(pose))
            broken = worst > self._allowed + self._slack()
        for entry in np.flatnonzero(broken).tolist():
            rule, detail = self._entry(entry)
            self._count(rule, float(worst[entry] - self._allowed[entry]), detail, now)
        # What has been counted is not counted again on the way back.
        least = np.where(broken, np.inf, self._allowed)
        self._allowed = np.clip(found[-1], 0.0, least)

    def _excess(self, pose: Floats) -> Floats:
        """Return by how much a pose is outside: tool box (3), arm box and table of each body."""
        assert self.shapes is not None  # noqa: S101 - its only caller has looked
        low, high, tool = self.shapes.extent(_radians(pose))
        return np.concatenate(
            (
                np.maximum(self._tool_low - tool, tool - self._tool_high),
                np.maximum(self._arm_low - low, high - self._arm_high).max(1),
                self.floor - low[:, 2],
            )
        )

    def _slack(self) -> Floats:
        count = len(self.floor)
        return np.repeat((BOX_SLACK_M, TABLE_SLACK_M), (3 + count, count))

    def _entry(self, entry: int) -> tuple[str, str]:
        assert self.shapes is not None  # noqa: S101 - its only caller has looked
        if entry < 3:
            return "tool_box", "xyz"[entry]
        body = (entry - 3) % len(self.floor)
        rule = "arm_box" if entry - 3 < len(self.floor) else "table"
        return rule, self.shapes.bodies[body]

    def _count(self, rule: str, by: float, detail: str, now: float) -> None:
        self.violations[rule] += 1
        entry: dict[str, object] = {"rule": rule, "of": detail, "by": by, "at": now}
        self._latest.append(entry)
        if by > cast("float", self._worst.get(rule, {"by": 0.0})["by"]):
            self._worst[rule] = entry


def _units(radians: Floats) -> Floats:
    """Return degrees, and 0 to 100 for the gripper."""
    degrees = np.rad2deg(radians)
    degrees[5] = (degrees[5] - _JAW_CLOSED_DEG) / _JAW_TRAVEL_DEG * 100
    return degrees


def _radians(units: Floats) -> Floats:
    degrees = units.copy()
    degrees[5] = degrees[5] / 100 * _JAW_TRAVEL_DEG + _JAW_CLOSED_DEG
    return np.deg2rad(degrees)


def _corners(box: Mapping[str, Any]) -> tuple[Floats, Floats]:
    low, high = zip(*(box[axis] for axis in "xyz"), strict=True)
    return np.array(low, np.float64), np.array(high, np.float64)


def _take_meshes(spec: Any, folder: Path) -> dict[str, list[Floats]]:  # noqa: ANN401
    """Return the hulls of each body's meshes, in its frame, and remove them from `spec`."""
    files = {mesh.name or Path(mesh.file).stem: folder / mesh.file for mesh in spec.meshes}
    hulls: dict[str, Floats] = {}
    found: dict[str, list[Floats]] = {}
    for geom in [geom for geom in spec.geoms if geom.type == mujoco.mjtGeom.mjGEOM_MESH]:
        name = str(geom.meshname)
        if name not in hulls:
            hulls[name] = _hull(_stl(files[name]))
        found.setdefault(str(geom.parent.name), []).append(
            _placed(hulls[name], np.array(geom.pos), np.array(geom.quat))
        )
        spec.delete(geom)
    for mesh in tuple(spec.meshes):
        spec.delete(mesh)
    return found


def _clouds(model: Any, meshes: Mapping[str, list[Floats]]) -> dict[str, tuple[Floats, Floats]]:  # noqa: ANN401
    """Return each moving body's points, shape (3, n), and the radii around them, (n,)."""
    corners: dict[str, list[Floats]] = {}
    balls: dict[str, list[Floats]] = {}
    for body, hulls in meshes.items():
        corners.setdefault(_whole(body), []).extend(hulls)
    for geom in range(model.ngeom):
        body = str(model.body(model.geom_bodyid[geom]).name)
        points, size = _primitive(int(model.geom_type[geom]), model.geom_size[geom])
        placed = _placed(points, model.geom_pos[geom], model.geom_quat[geom])
        if size:
            placed = np.column_stack((placed, np.full(len(placed), size)))
        (balls if size else corners).setdefault(_whole(body), []).append(placed)
    clouds: dict[str, tuple[Floats, Floats]] = {}
    for body in [name for name in corners if name not in ("base", "world")]:
        hull = _hull(np.concatenate(corners[body]))
        round_ones = np.concatenate([np.empty((0, 4)), *balls.get(body, [])])
        points = np.concatenate((hull, round_ones[:, :3])).T
        clouds[body] = points.copy(), np.concatenate((np.zeros(len(hull)), round_ones[:, 3]))
    return clouds


def _whole(body: str) -> str:
    """Return the body that a body counts as a part of: the wrist camera's mount moves with it."""
    return "gripper" if body == "camera_mount" else body


def _placed(points: Floats, pos: Floats, quat: Floats) -> Floats:
    rot = np.zeros(9)
    mujoco.mju_quat2Mat(rot, quat / np.linalg.norm(quat))
    return points @ rot.reshape(3, 3).T + pos


def _primitive(kind: int, size: Floats) -> tuple[Floats, float]:
    """Return points and a radius around them that make up a box, sphere or capsule."""
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        corners = np.array(list(np.ndindex(2, 2, 2))) * 2.0 - 1.0
        return corners * size, 0.0
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return np.zeros((1, 3)), float(size[0])
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.array([[0.0, 0.0, -size[1]], [0.0, 0.0, size[1]]]), float(size[0])
    raise ValueError(f"a shape of kind {kind}; expected mesh, box, sphere or capsule")


def _stl(path: Path) -> Floats:
    """Return the corners of a binary STL file, shape (n, 3)."""
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = np.frombuffer(path.read_bytes(), record, offset=84)["corners"]
    return corners.reshape(-1, 3).astype(np.float64)


def _hull(points: Floats) -> Floats:
    return points[ConvexHull(points).vertices]
