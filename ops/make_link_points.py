"""Write what the guard knows of the links' shapes: `link_points.npz` and `link_boxes.npz`.

The points are vertices of the convex hull of a body's meshes and collision shapes in MuJoCo
Menagerie's SO-101 (Apache-2.0, Google DeepMind and The Robot Studio), as so101-nexus ships it; the
wrist camera's mount counts as part of the gripper. The boxes are its collision boxes, and one box
around all other collision shapes of a link. Run: `python -m ops.make_link_points`.
"""

from importlib.resources import files
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull  # pyright: ignore[reportMissingTypeStubs]

type Points = NDArray[np.float64]

BODIES = {
    "shoulder": ("shoulder",),
    "upper_arm": ("upper_arm",),
    "lower_arm": ("lower_arm",),
    "wrist": ("wrist",),
    "gripper": ("gripper", "camera_mount"),
    "moving_jaw": ("moving_jaw_so101_v1",),
}
FINGERS = ("gripper", "moving_jaw")
FINGER_TOLERANCE = 0.0002
LINK_TOLERANCE = 0.001
PAD = 0.015
"""Half the diagonal of a collision box, metres, below which it is a pad of a finger."""
ROBOT = Path(__file__).resolve().parent.parent / "robot"


def _sphere(radius: float) -> Points:
    heights, turns = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0, 2 * np.pi, 17))
    across = np.sqrt(1 - heights**2)
    grid = np.stack([across * np.cos(turns), across * np.sin(turns), heights], -1)
    return radius * grid.reshape(-1, 3)


def _shape(model: mujoco.MjModel, geom: int) -> Points:
    """Return points whose hull is the shape, in the geom's frame."""
    size = model.geom_size[geom]
    match model.geom_type[geom]:
        case mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first = model.mesh_vertadr[mesh]
            return np.array(model.mesh_vert[first : first + model.mesh_vertnum[mesh]], np.float64)
        case mujoco.mjtGeom.mjGEOM_BOX:
            return size * np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            return _sphere(size[0])
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            ends = np.array([[0.0, 0.0, -size[1]], [0.0, 0.0, size[1]]])
            return (_sphere(size[0]) + ends[:, None]).reshape(-1, 3)
        case kind:
            raise ValueError(f"geom {geom}: no points for type {kind}; expected mesh, box, ball")


def body_hull(model: mujoco.MjModel, names: tuple[str, ...]) -> Points:
    """Return the hull vertices, shape (n, 3), of bodies that share one frame."""
    cloud = np.concatenate([_in_body(model, geom) for geom in _geoms(model, names)])
    return cloud[ConvexHull(cloud).vertices]


def body_boxes(model: mujoco.MjModel, names: tuple[str, ...]) -> list[tuple[Points, Points]]:
    """Return the boxes of bodies that share one frame: frames (4, 4) and half sides (3,).

    They are the collision boxes, and one more around all other collision shapes.
    """
    found: list[tuple[Points, Points]] = []
    small: list[Points] = []
    for geom in _geoms(model, names):
        is_box = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX
        if is_box and np.linalg.norm(model.geom_size[geom]) > PAD:
            frame = np.eye(4)
            frame[:3, :3], frame[:3, 3] = _rotation(model, geom), model.geom_pos[geom]
            found.append((frame, model.geom_size[geom].copy()))
        elif model.geom_contype[geom]:
            small.append(_in_body(model, geom))
    if small:
        cloud = np.concatenate(small)
        frame = np.eye(4)
        frame[:3, 3] = (cloud.min(0) + cloud.max(0)) / 2
        found.append((frame, np.ptp(cloud, axis=0) / 2))
    return found


def _geoms(model: mujoco.MjModel, names: tuple[str, ...]) -> list[int]:
    return [g for g in range(model.ngeom) if model.body(model.geom_bodyid[g]).name in names]


def _rotation(model: mujoco.MjModel, geom: int) -> Points:
    rot = np.zeros(9)
    mujoco.mju_quat2Mat(rot, model.geom_quat[geom])
    return rot.reshape(3, 3)


def _in_body(model: mujoco.MjModel, geom: int) -> Points:
    return _shape(model, geom) @ _rotation(model, geom).T + model.geom_pos[geom]


def thin(hull: Points, tolerance: float) -> tuple[Points, float]:
    """Return a subset of the hull's vertices and by how much it falls short of the hull, metres."""
    chosen = sorted({int(index) for index in np.concatenate([hull.argmin(0), hull.argmax(0)])})
    while True:
        equations = ConvexHull(hull[chosen]).equations
        outside = (hull @ equations[:, :3].T + equations[:, 3]).max(1)
        if outside.max() <= tolerance:
            return hull[chosen], float(max(outside.max(), 0.0))
        chosen.append(int(outside.argmax()))


def main() -> None:
    """Write the points and the margin of every link, and the boxes of all."""
    asset = files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
    model = mujoco.MjModel.from_xml_path(str(asset))
    arrays: dict[str, Points] = {}
    boxes: list[tuple[int, Points, Points]] = []
    for row, (link, names) in enumerate(BODIES.items()):
        tolerance = FINGER_TOLERANCE if link in FINGERS else LINK_TOLERANCE
        hull = body_hull(model, names)
        points, margin = thin(hull, tolerance)
        arrays[link] = points
        arrays[f"{link}_margin"] = np.array(margin)
        boxes += [(row, *box) for box in body_boxes(model, names)]
        print(f"{link}: {len(points)} of {len(hull)} points, margin {margin * 1e3:.3f} mm")
    np.savez_compressed(ROBOT / "link_points.npz", allow_pickle=False, **arrays)
    links, frames, halves = (np.array(column) for column in zip(*boxes, strict=True))
    np.savez_compressed(
        ROBOT / "link_boxes.npz", allow_pickle=False, link=links, frame=frames, half=halves
    )


if __name__ == "__main__":
    main()
