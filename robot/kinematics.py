"""Where every link of an SO-101 is, and which joints bring its tool somewhere.

The chain is that of MuJoCo Menagerie's SO-101 (Apache-2.0) as so101-nexus ships it. Joints are in
LeRobot's units here as everywhere; lengths are metres in the frame of the base.

The *tool centre point* is the package's `gripperframe` site, between the jaws. The official model
has a site of that name 19.9 mm away, at the tip of the fixed jaw (`OFFICIAL_SITE`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints, from_radians, frozen, to_radians

type Floats = NDArray[np.float64]

LINKS: Final = ("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw")
"""The bodies of the chain; each but the first is moved by the joint before it in `JOINTS`."""

TOOL_SITE: Final = frozen([0.012, -0.000218, -0.098127])
"""The tool centre point in the gripper body, metres."""
OFFICIAL_SITE: Final = frozen([-0.0079, -0.000218, -0.098127])
"""The official model's `gripperframe` in the gripper body, metres."""

_GRIPPER = LINKS.index("gripper") - 1  # among the moving links
_ROLL = JOINTS.index("wrist_roll")
_DEGREE = np.pi / 180
_DAMPING = 0.02
_DAMPING_PER_METRE = 2.0
_FIXED_JAW_X = -0.008  # inner face of the fixed jaw in the gripper body
_JAW_TIP = (-0.0121, -0.0750)  # inner face of the moving jaw's tip, x and y in its own body

_LINK_POS = (
    (0.0388353, 0.0, 0.0624),
    (-0.0303992, -0.0182778, -0.0542),
    (-0.11257, -0.028, 0.0),
    (-0.1349, 0.0052, 0.0),
    (5.55112e-17, -0.0611, 0.0181),
    (0.0202, 0.0188, -0.0234),
)
_LINK_QUAT = (  # w x y z, not normalised
    (0.0, 0.0, -1.0, 0.0),
    (0.5, -0.5, -0.5, -0.5),
    (1.0, 0.0, 0.0, 1.0),
    (1.0, 0.0, 0.0, -1.0),
    (0.0172091, -0.0172091, 0.706897, 0.706897),
    (1.0, 1.0, 0.0, 0.0),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinkPoses:
    """Frames of all links of a batch of poses, in `LINKS` order."""

    pos: Floats
    """Origins, shape (..., 7, 3)."""
    rot: Floats
    """Link to base, shape (..., 7, 3, 3)."""


def _matrix(quat: tuple[float, float, float, float]) -> Floats:
    w, x, y, z = np.array(quat) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _hinges() -> Floats:
    """Return each link's 4x4 frame in its parent as factors of 1, cos, sin, shape (6, 3, 16)."""
    parts = np.zeros((6, 3, 4, 4))
    for part, pos, quat in zip(parts, _LINK_POS, _LINK_QUAT, strict=True):
        rot = _matrix(quat)
        part[0, :3, 2], part[0, :3, 3], part[0, 3, 3] = rot[:, 2], pos, 1.0
        part[1, :3, 0], part[1, :3, 1] = rot[:, 0], rot[:, 1]
        part[2, :3, 0], part[2, :3, 1] = rot[:, 1], -rot[:, 0]
    return parts.reshape(6, 3, 16)


_HINGES = _hinges()


def frames(joints: Joints) -> Floats:
    """Return the moving links' frames [rotation, origin], shape (6, n, 3, 4), for joints (n, 6)."""
    return _frames(to_radians(joints))


def _frames(angles: Floats) -> Floats:
    turns = np.ones((6, len(angles), 3))
    np.cos(angles.T, out=turns[..., 1])
    np.sin(angles.T, out=turns[..., 2])
    # One matrix product with constants is cheaper than filling in rotation matrices.
    local = (turns @ _HINGES).reshape(6, -1, 4, 4)
    found = np.empty((6, len(angles), 3, 4))
    found[0] = local[0, :, :3]
    for parent, link, here in zip(found[:-1], found[1:], local[1:], strict=True):
        np.matmul(parent, here, out=link)
    return found


def forward(joints: Joints) -> LinkPoses:
    """Return the frames of all seven links for joints of shape (..., 6)."""
    batch = joints.shape[:-1]
    found = np.zeros((7, *batch, 3, 4))
    found[0, ..., :3] = np.eye(3)
    found[1:] = frames(joints.reshape(-1, 6)).reshape(6, *batch, 3, 4)
    found = np.moveaxis(found, 0, -3)
    return LinkPoses(pos=found[..., 3], rot=found[..., :3])


def tool_position(joints: Joints) -> Floats:
    """Return the tool centre point, shape (3,); it does not move when the gripper opens."""
    return _in_base(frames(joints[None])[:, 0], TOOL_SITE)


def tool_axis(joints: Joints) -> Floats:
    """Return the unit vector, shape (3,), along which the fingers point; down is (0, 0, -1)."""
    return -frames(joints[None])[_GRIPPER, 0, :, 2]


def jaw_gap(percent: float) -> float:
    """Return the metres between the jaws' tips, across the fixed jaw, at an opening of 0 to 100."""
    angle = float(to_radians(np.array([0.0, 0.0, 0.0, 0.0, 0.0, percent]))[5])
    tip = np.cos(angle) * _JAW_TIP[0] - np.sin(angle) * _JAW_TIP[1]
    return float(_LINK_POS[5][0] + tip - _FIXED_JAW_X)


def jaw_centre(joints: Joints) -> Floats:
    """Return the middle between the jaws, shape (3,); it moves with the opening: one jaw does."""
    middle = _FIXED_JAW_X + jaw_gap(float(joints[5])) / 2
    return _in_base(frames(joints[None])[:, 0], np.array([middle, TOOL_SITE[1], TOOL_SITE[2]]))


def tool_jacobian(joints: Joints) -> Floats:
    """Return d(position, rotation)/d(joint) of the tool, shape (6, 6), per unit of each joint.

    Metres and radians per degree; the gripper's column is 0.
    """
    links = frames(joints[None])[:, 0]
    jacobian = np.zeros((6, 6))
    jacobian[:, :5] = _twists(links, _in_base(links, TOOL_SITE)) * _DEGREE
    return jacobian


def inverse(  # noqa: PLR0913 -- each is a different thing, and keyword-only
    position: Floats,
    *,
    start: Joints,
    lower: Joints,
    upper: Joints,
    roll: float | None = None,
    iterations: int = 3,
    tilt_weight: float = 0.01,
) -> Joints:
    """Return joints, shape (6,), that bring the tool near `position`, starting from `start`.

    Fingers downwards are preferred where that costs no position; `roll` fixes wrist_roll; the
    gripper stays as in `start`. Joints at a limit that want to go further leave the Jacobian. The
    result is within the limits but may be short of `position`: verify with `tool_position`.
    """
    low, high = to_radians(lower), to_radians(upper)
    angles = np.minimum(np.maximum(to_radians(start), low), high)
    free = np.ones(5)
    if roll is not None:
        angles[_ROLL] = min(max(roll * _DEGREE, low[_ROLL]), high[_ROLL])
        free[_ROLL] = 0.0
    for step in range(iterations):
        # The last step serves the position alone: what the preference has pulled away comes back.
        weight = tilt_weight if step < iterations - 1 else 0.0
        _descend(angles, position, bounds=(low[:5], high[:5]), free=free, tilt_weight=weight)
    joints = np.minimum(np.maximum(from_radians(angles), lower), upper)
    joints[5] = start[5]
    return joints


def _in_base(links: Floats, point: Floats) -> Floats:
    """Return a point of the gripper body in the base's frame, for links (6, 3, 4)."""
    return links[_GRIPPER, :, :3] @ point + links[_GRIPPER, :, 3]


def _twists(links: Floats, tool: Floats) -> Floats:
    """Return velocity and rotation of the tool per radian of the first five joints, (6, 5)."""
    axis = links[:5, :, 2].T
    arm = tool[:, None] - links[:5, :, 3].T
    twists = np.empty((6, 5))
    twists[0] = axis[1] * arm[2] - axis[2] * arm[1]
    twists[1] = axis[2] * arm[0] - axis[0] * arm[2]
    twists[2] = axis[0] * arm[1] - axis[1] * arm[0]
    twists[3:] = axis
    return twists


def _descend(
    angles: Floats,
    position: Floats,
    *,
    bounds: tuple[Floats, Floats],
    free: Floats,
    tilt_weight: float,
) -> None:
    """Move `angles`, radians (6,), by one damped least-squares step of the `free` ones of five."""
    links = _frames(angles[None])[:, 0]
    tool = _in_base(links, TOOL_SITE)
    jacobian = _twists(links, tool) * free
    jacobian[3:] *= tilt_weight
    back = links[_GRIPPER, :, 2]  # away from the fingers; up x back is how far they are from down
    tilt = tilt_weight * np.array([back[1], -back[0], 0.0])
    error = np.concatenate((position - tool, tilt))
    low, high = bounds
    # Far from the goal the damping keeps steps short, near it convergence fast.
    damping = _DAMPING**2 + _DAMPING_PER_METRE**2 * float(error[:3] @ error[:3])
    step = _solve(jacobian, error, damping=damping)
    inside = np.minimum(np.maximum(angles[:5] + step, low), high) - angles[:5]
    out = inside != step
    if out.any():
        # A joint that would pass its limit goes just there; the others make up for the rest.
        rest = _solve(jacobian * ~out, error - jacobian @ (inside * out), damping=damping)
        step = np.where(out, inside, rest)
    angles[:5] = np.minimum(np.maximum(angles[:5] + step, low), high)


def _solve(jacobian: Floats, error: Floats, *, damping: float) -> Floats:
    square = jacobian.T @ jacobian
    square.flat[::6] += damping
    return np.asarray(np.linalg.solve(square, jacobian.T @ error), np.float64)
