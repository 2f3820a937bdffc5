"""A hand-written expert for each task: proof that estimates are enough for them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from policy_server.policy import ActionChunk, PolicyRequest, PolicySpec
from robot.scene import CUBE_EDGE

STEP_M = 0.025
"""How far an ee_delta action of 1 moves the tool."""
OPEN, CLOSE = 1.0, -1.0
CLOSING = 22.0
"""A commanded opening below this means that the jaws are on their way to close."""
TRAVEL_Z, GRASP_Z = 0.06, 0.013
"""Height of the point between the jaws when it travels, and when it grasps, metres."""
CARRY_Z = 0.09
REACH_Z = 0.06
NEAR = 0.008
BOWL_NEAR = 0.015
IN_BOWL = 0.045
ON_TOP = 0.012
"""Horizontal distance from the other cube at which a thing can lie on it, metres."""
BEHIND, PUSH_Z, PUSHED = 0.045, 0.016, 0.012
"""Where a push begins behind the thing, how high, and how near the marker it ends, metres."""

_ABOVE = np.array([0.0, 0.0, REACH_Z])

type Vector = NDArray[np.float64]
type Expert = Callable[["View"], Vector]


class ScriptedPolicy:
    """Reads the environment's estimates and nothing else; noise makes its recordings varied."""

    def __init__(self, spec: PolicySpec, task: str, *, noise: float = 0.0, seed: int = 0) -> None:
        """Act for one task; `noise` is the standard deviation added to each action."""
        if task not in EXPERTS:
            raise ValueError(f"no scripted expert for {task!r}; known: {', '.join(EXPERTS)}")
        if spec.action_space != "ee_delta":
            raise ValueError(f"the scripted expert acts in ee_delta, not in {spec.action_space}")
        self.spec = spec
        self._decide = EXPERTS[task]
        self._noise = noise
        self._rng = np.random.default_rng(seed)

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one action a request."""
        return [self._chunk(request) for request in requests]

    def _chunk(self, request: PolicyRequest) -> ActionChunk:
        action = self._decide(View(request))
        action = action + self._noise * self._rng.standard_normal(4)
        row = np.clip(action, -1.0, 1.0).astype(np.float32)
        return ActionChunk(actions=row[None], observed_at=request.observed_at)


class View:
    """A request's vectors as an expert wants them."""

    def __init__(self, request: PolicyRequest) -> None:
        state = {name: np.asarray(value, np.float64) for name, value in request.state.items()}
        self.jaw, self.thing, self.place = state["jaw"], state["thing"][:3], state["place"][:3]
        self.tool = state["tool"]
        self.held = bool(state["held"][0])
        self.opening = float(state["joint_target"][5])

    @property
    def closing(self) -> bool:
        """Return whether the jaws are on their way to close."""
        return self.opening < CLOSING


def _go(offset: Vector, gripper: float) -> Vector:
    """Return the action that moves the tool by `offset`, shape (3,), at most one step."""
    return np.array([*(offset / STEP_M), gripper])


def _reach(view: View) -> Vector:
    return _go(view.thing + _ABOVE - view.tool, OPEN)


def _grasp(view: View) -> Vector:
    """Go over the thing, down on it, and close."""
    off = view.thing - view.jaw
    flat = float(np.hypot(off[0], off[1]))
    low = view.jaw[2] <= GRASP_Z + 0.012
    if low and (flat < NEAR or (view.closing and flat < 0.025)):
        return _go(np.array([0.0, 0.0, GRASP_Z - view.jaw[2]]), CLOSE)
    height = GRASP_Z if flat < 1.5 * NEAR or (low and flat < 3 * NEAR) else TRAVEL_Z
    return _go(np.array([off[0], off[1], height - view.jaw[2]]), OPEN)


def _lift(view: View) -> Vector:
    if not view.held:
        return _grasp(view)
    return _go(np.array([0.0, 0.0, CARRY_Z + 0.01 - view.jaw[2]]), CLOSE)


def _place(view: View) -> Vector:
    to_bowl = view.place - view.thing
    flat = float(np.hypot(to_bowl[0], to_bowl[1]))
    if not view.held:
        in_bowl = flat < IN_BOWL
        up = np.array([0.0, 0.0, CARRY_Z + 0.03 - view.jaw[2]])
        return _go(up, OPEN) if in_bowl else _grasp(view)
    rise = CARRY_Z - view.jaw[2]
    if flat < BOWL_NEAR:
        return _go(np.zeros(3), OPEN)
    across = to_bowl[:2] if rise < 0.03 else np.zeros(2)
    return _go(np.array([*across, rise]), CLOSE)


def _push(view: View) -> Vector:
    """Go behind the thing with closed jaws, down, and along to the marker."""
    way = (view.place - view.thing)[:2]
    off = float(np.linalg.norm(way))
    along = way / max(off, 1e-6)
    to_thing = (view.thing - view.jaw)[:2]
    ahead, aside = float(to_thing @ along), float(abs(to_thing @ [-along[1], along[0]]))
    if off < PUSHED:
        return _go(np.array([*(-0.5 * STEP_M * along), TRAVEL_Z - view.jaw[2]]), CLOSE)
    if aside < 0.012 and 0.0 < ahead < BEHIND + 0.015:
        if view.jaw[2] > PUSH_Z + 0.008:
            return _go(np.array([0.0, 0.0, PUSH_Z - view.jaw[2]]), CLOSE)
        return _go(np.array([*(min(0.6 * STEP_M, off) * along), PUSH_Z - view.jaw[2]]), CLOSE)
    behind = to_thing - BEHIND * along
    rise = TRAVEL_Z - view.jaw[2]
    return _go(np.array([*(behind if rise < 0.02 else np.zeros(2)), rise]), CLOSE)


def _stack(view: View) -> Vector:
    """Carry the thing over the other cube, set it down, let go and leave upwards."""
    to_top = view.place + np.array([0.0, 0.0, CUBE_EDGE]) - view.thing
    flat = float(np.hypot(to_top[0], to_top[1]))
    if not view.held:
        on_top = flat < ON_TOP and view.thing[2] > CUBE_EDGE
        up = np.array([0.0, 0.0, CARRY_Z + 0.04 - view.jaw[2]])
        return _go(up, OPEN) if on_top else _grasp(view)
    if flat < 0.006:
        down = float(to_top[2])
        if down > -0.005:
            return _go(np.zeros(3), OPEN)
        return _go(np.array([*to_top[:2], max(down, -0.4 * STEP_M)]), CLOSE)
    rise = CARRY_Z - view.jaw[2]
    across = to_top[:2] if rise < 0.03 else np.zeros(2)
    return _go(np.array([*across, rise]), CLOSE)


EXPERTS: Mapping[str, Expert] = {
    "reach": _reach,
    "push": _push,
    "lift": _lift,
    "place": _place,
    "stack": _stack,
}
