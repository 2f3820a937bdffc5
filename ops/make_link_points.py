"""Write `robot/link_points.npz`: the shape of each moving link as few points, for the guard.

The points are vertices of the convex hull of a body's meshes and collision shapes in MuJoCo
Menagerie's SO-101 (Apache-2.0, Google DeepMind and The Robot Studio), as so101-nexus ships it; the
wrist camera's mount counts as part of the gripper. Run: `python -m ops.make_link_points`.
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
TARGET = Path(__file__).resolve().parent.parent / "robot" / "link_points.npz"


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
    points: list[Points] = []
    for geom in range(model.ngeom):
        if model.body(model.geom_bodyid[geom]).name in names:
            rot = np.zeros(9)
            mujoco.mju_quat2Mat(rot, model.geom_quat[geom])
            points.append(_shape(model, geom) @ rot.reshape(3, 3).T + model.geom_pos[geom])
    cloud = np.concatenate(points)
    return cloud[ConvexHull(cloud).vertices]


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
    """Write the points and the margin of every link."""
    asset = files("so101_nexus") / "assets" / "SO101_menagerie" / "so101.xml"
    model = mujoco.MjModel.from_xml_path(str(asset))
    arrays: dict[str, Points] = {}
    for link, names in BODIES.items():
        tolerance = FINGER_TOLERANCE if link in FINGERS else LINK_TOLERANCE
        hull = body_hull(model, names)
        points, margin = thin(hull, tolerance)
        arrays[link] = points
        arrays[f"{link}_margin"] = np.array(margin)
        print(f"{link}: {len(points)} of {len(hull)} points, margin {margin * 1e3:.3f} mm")
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
