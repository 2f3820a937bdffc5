"""The twin's MuJoCo model: the SO-101 of so101-nexus, a table, cubes, bowl, marker, cameras."""

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS
from robot.scene import BOWL_RADIUS, CUBE_EDGE, Item, Layout

# mujoco's MjSpec is a compiled module without complete type information.
type Spec = Any

TIMESTEP_S = 0.005
FINGER_GRID_M, LINK_GRID_M = 0.004, 0.008
"""Visual meshes are snapped to these grids, which makes software drawing some 80 times faster."""
FINGERS = ("wrist_roll_follower_so101_v1", "moving_jaw_so101_v1")
BOWL_WALL = (0.003, 0.022)
"""Thickness and height of the bowl's wall, metres."""
MARKER_RADIUS = 0.016
CUBE_MASS = 0.0175
RGBA = {
    "red": (0.80, 0.06, 0.06, 1.0),
    "green": (0.05, 0.60, 0.12, 1.0),
    "blue": (0.05, 0.15, 0.80, 1.0),
}
TABLE_RGBA = (0.62, 0.62, 0.60, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servo:
    """How the six servos of an arm behave."""

    stiffness: float | None = None
    """Position gain, N·m per rad; None keeps the model's own."""
    force: float | None = None
    """Torque limit, N·m."""
    backlash_deg: float = 0.0
    """Play between servo and link, degrees from end to end."""
    delay_s: float = 0.0
    """Time from a command to the servo's reaction."""


PRESETS = {
    "stiff": Servo(),
    # The gains of the older official model, which sag under gravity as a real arm with P=16 does.
    "compliant": Servo(stiffness=17.8, force=3.35, backlash_deg=1.0, delay_s=0.06),
}


@dataclass(frozen=True, slots=True)
class View:
    """Where a fixed camera stands and what it looks at, metres; vertical field of view, degrees."""

    pos: tuple[float, float, float]
    target: tuple[float, float, float]
    fovy: float


VIEWS = {
    "front": View((0.52, 0.02, 0.36), (0.185, 0.02, 0.045), 50.0),
    "side": View((0.23, -0.46, 0.33), (0.215, 0.03, 0.035), 38.0),
}
WRIST_CAMERA = "wrist_cam"


def _read_stl(path: Path) -> NDArray[np.float64]:
    """Return the triangles of a binary STL file, shape (n, 3, 3)."""
    data = path.read_bytes()
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    return np.frombuffer(data, record, offset=84)["corners"].astype(np.float64)


def _snapped(
    triangles: NDArray[np.float64], grid_m: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return vertices (v, 3) and faces (f, 3) with every corner moved to the grid."""
    cells = np.round(triangles.reshape(-1, 3) / grid_m).astype(np.int64)
    corners, index = _unique_rows(cells)
    faces = index.reshape(-1, 3)
    a, b, c = faces.T
    faces, _ = _unique_rows(faces[(a != b) & (b != c) & (a != c)])
    return (corners * grid_m).astype(np.float64), faces.astype(np.int32)


def _unique_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows, sorted, of shape (n, 3), and where each of `rows` is among them.

    `numpy.unique(axis=0)` gives the same some ten times slower, a second for an arm's meshes.
    """
    lowest = rows.min(axis=0)
    _, height, depth = rows.max(axis=0) - lowest + 1
    x, y, z = (rows - lowest).T
    keys: NDArray[np.int64] = (x * height + y) * depth + z
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], index


def _load_arm() -> Spec:
    asset = resources.files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
    with resources.as_file(asset) as path:
        spec = mujoco.MjSpec.from_file(str(path))
        for mesh in spec.meshes:
            file = path.parent / "assets" / mesh.file
            if "_part" in mesh.file:
                mesh.file = str(file)
                continue
            mesh.name = Path(mesh.file).stem
            grid_m = FINGER_GRID_M if mesh.name in FINGERS else LINK_GRID_M
            vertices, faces = _snapped(_read_stl(file), grid_m)
            mesh.file = ""
            mesh.uservert = vertices.ravel().tolist()
            mesh.userface = faces.ravel().tolist()
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    return spec


def _look_at(view: View) -> list[float]:
    """Return the x and y axes of a MuJoCo camera that looks at the view's target."""
    forward = _unit(np.subtract(view.target, view.pos))
    right = _unit(np.cross(forward, np.array([0.0, 0.0, 1.0])))
    return [*right, *np.cross(right, forward)]


def _unit(vector: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return (vector / np.linalg.norm(vector)).astype(np.float64)


def _add_surroundings(spec: Spec) -> None:
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0.15, 0.0, -0.02],
        size=[0.55, 0.6, 0.02],
        rgba=TABLE_RGBA,
        friction=[0.8, 0.005, 0.0001],
    )
    world.add_light(
        pos=[0.2, 0.1, 1.2], dir=[0, 0, -1], diffuse=[0.45] * 3, specular=[0] * 3, castshadow=False
    )
    spec.visual.headlight.diffuse = [0.3] * 3
    spec.visual.headlight.ambient = [0.25] * 3
    spec.visual.headlight.specular = [0] * 3
    spec.visual.quality.offsamples = 0
    spec.visual.map.znear = 0.01
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 640, 480
    for name, view in VIEWS.items():
        world.add_camera(name=name, pos=view.pos, xyaxes=_look_at(view), fovy=view.fovy)


def _add_cube(spec: Spec, name: str, colour: str) -> None:
    body = spec.worldbody.add_body(name=name, pos=[0.22, 0, CUBE_EDGE / 2])
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[CUBE_EDGE / 2] * 3,
        rgba=RGBA[colour],
        mass=CUBE_MASS,
        condim=4,
        friction=[0.8, 0.005, 0.0001],
    )


def _add_bowl(spec: Spec, colour: str) -> None:
    thickness, height = BOWL_WALL
    bowl = spec.worldbody.add_body(name="place", mocap=True, pos=[0.2, 0.15, 0])
    bowl.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[BOWL_RADIUS + thickness, 0.001, 0],
        pos=[0, 0, 0.001],
        rgba=RGBA[colour],
    )
    sides = 20
    radius = BOWL_RADIUS + thickness / 2
    for side in range(sides):
        angle = 2 * math.pi * side / sides
        bowl.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[thickness / 2, radius * math.tan(math.pi / sides) + 0.001, height / 2],
            pos=[radius * math.cos(angle), radius * math.sin(angle), height / 2],
            quat=[math.cos(angle / 2), 0, 0, math.sin(angle / 2)],
            rgba=RGBA[colour],
        )


def _add_marker(spec: Spec, colour: str) -> None:
    marker = spec.worldbody.add_body(name="place", mocap=True, pos=[0.2, 0.1, 0])
    marker.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[MARKER_RADIUS, 0.0003, 0],
        pos=[0, 0, 0.0003],
        rgba=RGBA[colour],
        contype=0,
        conaffinity=0,
    )


def _add_place(spec: Spec, place: Item) -> None:
    if place.kind == "bowl":
        _add_bowl(spec, place.colour)
    elif place.kind == "marker":
        _add_marker(spec, place.colour)
    else:
        _add_cube(spec, "place", place.colour)


def build_model(layout: Layout, servo: Servo) -> mujoco.MjModel:
    """Return the compiled model of an arm with these servos before a table with this layout."""
    spec = _load_arm()
    _add_surroundings(spec)
    _add_cube(spec, "thing", layout.thing.colour)
    if layout.place:
        _add_place(spec, layout.place)
    model = spec.compile()
    model.opt.timestep = TIMESTEP_S
    for joint in JOINTS:
        index = model.actuator(joint).id
        if servo.stiffness is not None:
            model.actuator_gainprm[index, 0] = servo.stiffness
            model.actuator_biasprm[index, 1:3] = -servo.stiffness, 0.0
        if servo.force is not None:
            model.actuator_forcerange[index] = -servo.force, servo.force
    return model


shared_model = cache(build_model)
"""`build_model`, compiled once a process: twins with the same layout and servos may share it."""
