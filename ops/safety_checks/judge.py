"""A second opinion on poses and steps: MuJoCo's model of the arm, limits read from YAML alone.

Nothing here imports the guard, its volumes, its kinematics or its reader of limits, so that a
mistake in one of them is not made twice.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial import ConvexHull  # pyright: ignore[reportMissingTypeStubs]

type Floats = NDArray[np.float64]

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FINGERS = ("gripper", "camera_mount", "moving_jaw_so101_v1")
BOUNDS = (
    *(f"tool_box:{axis}" for axis in ("x low", "y low", "z low", "x high", "y high", "z high")),
    *(f"arm_box:{axis}" for axis in ("x low", "y low", "z low", "x high", "y high", "z high")),
    "table:fingers",
    "table:links",
)
"""What the columns of `Judge.violations` are about."""


class Rules(NamedTuple):
    """The limits, as their file says them."""

    lower: Floats
    upper: Floats
    speed: Floats
    tool: Floats  # (2, 3)
    arm: Floats  # (2, 3)
    fingers: float  # lowest height
    links: float  # lowest height
    max_age_s: float

    @classmethod
    def load(cls, path: Path) -> "Rules":
        """Read a file of limits."""
        given: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))

        def joints(name: str) -> Floats:
            return np.array([given[name][joint] for joint in NAMES], dtype=np.float64)

        def box(name: str) -> Floats:
            return np.array([given[name][axis] for axis in "xyz"], dtype=np.float64).T

        return cls(
            lower=joints("joint_lower"),
            upper=joints("joint_upper"),
            speed=joints("max_speed"),
            tool=box("tool_box"),
            arm=box("arm_box"),
            fingers=given["table_z"] + given["finger_clearance"],
            links=given["table_z"] + given["link_clearance"],
            max_age_s=given["max_age_s"],
        )


class Judge:
    """The arm in MuJoCo: the hull of all meshes and boxes of each moving body."""

    def __init__(self, rules: Rules) -> None:
        """Load the model; shapes are taken from it once."""
        asset = files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
        self.rules = rules
        self._model = mujoco.MjModel.from_xml_path(str(asset))
        self._data = mujoco.MjData(self._model)
        self._addresses = [self._model.joint(name).qposadr[0] for name in NAMES]
        self._hinge = {int(self._model.joint(name).bodyid[0]): i for i, name in enumerate(NAMES)}
        self._moving = [body for body in range(2, self._model.nbody) if self._shape(body).size]
        self._hulls = {body: self._hull(body) for body in self._moving}
        self._boxes = {body: _corners(hull) for body, hull in self._hulls.items()}
        self._fingers = np.array([self._model.body(b).name in FINGERS for b in self._moving])
        site = self._model.site("gripperframe")
        self._tool = int(site.bodyid[0]), np.array(site.pos)

    def limits_broken(self, commands: Floats, last: Floats, dt: Floats) -> NDArray[np.bool_]:
        """Return which commands, shape (n, 6), leave range or step; `dt` has shape (n,)."""
        rules = self.rules
        # From outside of the range a step back is all that can be asked.
        low, high = np.minimum(rules.lower, last), np.maximum(rules.upper, last)
        ranged = ((commands < low) | (commands > high)).any(1)
        stepped = (np.abs(commands - last) > rules.speed * dt[:, None] + 1e-9).any(1)
        return np.asarray(ranged | stepped | ~np.isfinite(commands).all(1), np.bool_)

    def violations(self, joints: Floats) -> Floats:
        """Return by how much poses, shape (n, 6), exceed each of `BOUNDS`, metres, (n, 14)."""
        return self._exceeded(self._frames(joints), self._hulls)

    def worst(self, joints: Floats) -> Floats:
        """Return the largest of the violations of each pose, shape (n,).

        Where the boxes around all links stay inside that is theirs, which is no smaller.
        """
        found = [self._worst(part) for part in np.array_split(joints, len(joints) // 2000 + 1)]
        return np.concatenate(found)

    def _worst(self, joints: Floats) -> Floats:
        worst = self._exceeded(self._frames(joints), self._boxes).max(1, initial=-np.inf)
        near = worst > 0.0
        if near.any():
            worst[near] = self.violations(joints[near]).max(1)
        return worst

    def _exceeded(
        self, places: dict[int, tuple[Floats, Floats]], shapes: dict[int, Floats]
    ) -> Floats:
        rot, pos = places[self._tool[0]]
        tool = rot @ self._tool[1] + pos
        lows: list[Floats] = []
        highs: list[Floats] = []
        for body in self._moving:
            rot, pos = places[body]
            points = np.matmul(rot, shapes[body].T)  # (n, 3, points)
            lows.append(points.min(2) + pos)
            highs.append(points.max(2) + pos)
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        heights = np.array(lows)[:, :, 2]
        rules = self.rules
        return np.column_stack(
            [
                rules.tool[0] - tool,
                tool - rules.tool[1],
                rules.arm[0] - low,
                high - rules.arm[1],
                rules.fingers - heights[self._fingers].min(0),
                rules.links - heights[~self._fingers].min(0),
            ]
        )

    def disagreement(self, joints: Floats, tools: Floats) -> float:
        """Return the farthest, metres, that MuJoCo itself puts the tool from (n, 3) `tools`."""
        worst = 0.0
        for pose, tool in zip(joints, tools, strict=True):
            self._data.qpos[self._addresses] = _radians(pose)
            mujoco.mj_kinematics(self._model, self._data)
            seen = self._data.site("gripperframe").xpos
            worst = max(worst, float(np.abs(seen - tool).max()))
        return worst

    def tools(self, joints: Floats) -> Floats:
        """Return the tool centre points, shape (n, 3)."""
        rot, pos = self._frames(joints)[self._tool[0]]
        return rot @ self._tool[1] + pos

    def _frames(self, joints: Floats) -> dict[int, tuple[Floats, Floats]]:
        """Return rotation (n, 3, 3) and place (n, 3) of each body, for all poses at once."""
        model, count = self._model, len(joints)
        angles = _radians(joints)
        places: dict[int, tuple[Floats, Floats]] = {
            0: (np.broadcast_to(np.eye(3), (count, 3, 3)), np.zeros((count, 3)))
        }
        for body in range(1, model.nbody):
            rot, pos = places[int(model.body_parentid[body])]
            pos = rot @ model.body_pos[body] + pos
            rot = rot @ _matrix(model.body_quat[body])
            if body in self._hinge:
                joint = self._hinge[body]
                hinge = model.joint(NAMES[joint])
                turn = _turn(np.array(hinge.axis), angles[:, joint])
                # MuJoCo turns a body about the joint's anchor, not about its own origin.
                anchor = np.array(hinge.pos)
                pos = pos + rot @ anchor - np.matmul(rot @ turn, anchor)
                rot = rot @ turn
            places[body] = rot, pos
        return places

    def _hull(self, body: int) -> Floats:
        cloud = self._shape(body)
        return cloud[ConvexHull(cloud).vertices]

    def _shape(self, body: int) -> Floats:
        """Return the points of a body's meshes and boxes, in its frame."""
        model = self._model
        points: list[Floats] = [np.empty((0, 3))]
        for geom in np.flatnonzero(model.geom_bodyid == body):
            if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
                mesh = model.geom_dataid[geom]
                first = model.mesh_vertadr[mesh]
                shape = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
            elif model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX:
                corners = 2.0 * np.array(list(np.ndindex(2, 2, 2))) - 1.0
                shape = model.geom_size[geom] * corners
            else:
                continue
            points.append(shape @ _matrix(model.geom_quat[geom]).T + model.geom_pos[geom])
        return np.concatenate(points)


def _radians(joints: Floats) -> Floats:
    """Return hinge angles: degrees, and the gripper's percent of its -10 to 100 degrees."""
    degrees = np.array(joints, dtype=np.float64)
    degrees[..., 5] = -10.0 + 1.1 * degrees[..., 5]
    return np.deg2rad(degrees)


def _corners(points: Floats) -> Floats:
    """Return the corners, shape (8, 3), of the box around points."""
    ends = np.array(list(np.ndindex(2, 2, 2)))
    return np.array([points.min(0), points.max(0)])[ends, np.arange(3)]


def _matrix(quaternion: Floats) -> Floats:
    rot = np.zeros(9)
    mujoco.mju_quat2Mat(rot, quaternion)
    return rot.reshape(3, 3)


def _turn(axis: Floats, angles: Floats) -> Floats:
    """Return the rotations about an axis by angles, shape (n, 3, 3): Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    sine, cosine = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return np.eye(3) + sine * cross + (1.0 - cosine) * (cross @ cross)
