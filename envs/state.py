"""What the policy sees, one layout for every task: only what exists on a real arm."""

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rewarder.heuristic import looks_held
from robot.arm import Observation
from robot.kinematics import jaw_centre, tool_position
from robot.tracking import Estimate, Estimates

type State = dict[str, NDArray[np.float32]]
"""Vectors by name; see `sizes` for their order and lengths."""

_JOINT_LOW = np.array([-180.0] * 5 + [-20.0])
_JOINT_HIGH = np.array([180.0] * 5 + [120.0])
_REACH = 2.0
"""Bound on positions, metres: far outside what an arm or a camera can report."""


def sizes(action_dim: int) -> Mapping[str, int]:
    """Return the vectors' names and lengths, in the order in which a policy joins them.

    joint_pos and joint_target in the arm's units; jaw (the point between the jaws), tool (the tool
    centre point of the last command), thing, place and their differences in metres, base frame;
    the fourth number of thing and place is 1 where it is seen; held is 0 or 1; action is the one
    before; time_left from 1 to 0.
    """
    return {
        "joint_pos": 6,
        "joint_target": 6,
        "jaw": 3,
        "tool": 3,
        "thing": 4,
        "place": 4,
        "thing_from_jaw": 3,
        "place_from_thing": 3,
        "held": 1,
        "action": action_dim,
        "time_left": 1,
    }


def state_space(least: NDArray[np.float32], greatest: NDArray[np.float32]) -> dict[str, spaces.Box]:
    """Return the space of each vector; actions are between these two."""
    bounds = {"joint_pos": (_JOINT_LOW, _JOINT_HIGH), "joint_target": (_JOINT_LOW, _JOINT_HIGH)}
    for name in ("held", "time_left"):
        bounds[name] = (np.zeros(1), np.ones(1))
    bounds["action"] = (least, greatest)
    return {name: _box(*bounds.get(name, _far(size))) for name, size in sizes(len(least)).items()}


def _box(low: NDArray[np.floating], high: NDArray[np.floating]) -> spaces.Box:
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _far(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.full(size, -_REACH), np.full(size, _REACH)


def state_of(
    observation: Observation,
    estimates: Estimates,
    *,
    action: NDArray[np.float32],
    time_left: float,
) -> State:
    """Return the policy's view of one moment."""
    jaw = jaw_centre(observation.joint_pos)
    thing = estimates.thing
    # A task without a place looks as if the place were where the thing is.
    place = estimates.place or Estimate(thing.pos, seen=False)
    held = looks_held(observation.joint_pos, observation.joint_target, thing.pos, jaw)
    vectors = {
        "joint_pos": observation.joint_pos,
        "joint_target": observation.joint_target,
        "jaw": jaw,
        "tool": tool_position(observation.joint_target),
        "thing": [*thing.pos, thing.seen],
        "place": [*place.pos, place.seen],
        "thing_from_jaw": thing.pos - jaw,
        "place_from_thing": place.pos - thing.pos,
        "held": [held],
        "action": action,
        "time_left": [time_left],
    }
    return {name: np.array(vector, np.float32) for name, vector in vectors.items()}
