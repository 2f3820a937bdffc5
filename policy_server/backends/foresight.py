"""The scripted expert as a policy with long chunks: it imagines what its own actions lead to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policy_server.backends.scripted import EXPERTS, STEP_M, Expert, View
from policy_server.policy import ActionChunk, PolicyRequest, PolicySpec

FORESEEN = ("reach", "lift", "place")
"""Tasks that can be imagined to their end; what is pushed or stacked does as it likes."""
HZ, HORIZON = 20.0, 32
"""Rows a second where nothing else is asked for, and rows of a chunk then: 1.6 s of them."""
GRASP_S, RELEASE_S = 0.5, 0.25
"""From the first closing command to a held thing, and from the first opening one to a free one."""
NEAR_JAW_M = 0.03
PACE = 0.3
"""Largest action at 20 Hz: 0.15 m/s. At the full pace the guard shortens steps, and an arm that is
elsewhere than imagined lets go beside the bowl."""
PRESS_M = 0.008
"""A tool that was sent so far below the jaws presses on something: moving freely it is 2 mm."""
WIDEST = 45.0
"""Opening that the action 1 commands."""
STATE = {
    **{"joint_pos": 6, "joint_target": 6, "jaw": 3, "tool": 3},
    **{"thing": 4, "place": 4, "held": 1},
}


@dataclass(slots=True)
class _Imagined:
    """A view that goes on without eyes: the tool goes where it is sent, what it holds goes too."""

    view: View
    step_s: float
    closing_s: float = 0.0
    opening_s: float = 0.0

    def act(self, action: NDArray[np.float64]) -> None:
        """Let a step of an action pass."""
        move, view = STEP_M * np.clip(action[:3], -1.0, 1.0), self.view
        view.tool = view.tool + move
        view.jaw = view.jaw + move
        if view.held:
            view.thing = view.thing + move
        view.opening = WIDEST * (float(np.clip(action[3], -1.0, 1.0)) + 1) / 2
        self.closing_s = self.closing_s + self.step_s if view.closing else 0.0
        self.opening_s = 0.0 if view.closing else self.opening_s + self.step_s
        near = float(np.linalg.norm(view.thing - view.jaw)) < NEAR_JAW_M
        if self.closing_s >= GRASP_S and near:
            view.held = True
        if self.opening_s >= RELEASE_S:
            view.held = False


class ForesightPolicy:
    """Answers with 1.6 s of rows of ee_delta, and continues committed ones exactly."""

    spec = PolicySpec(
        action_space="ee_delta",
        action_dim=4,
        state=STATE,
        hz=HZ,
        horizon=HORIZON,
        reads_goal=False,
        rtc=("prefix",),
        checkpoint="scripted",
    )

    def __init__(self, task: str, *, noise: float = 0.0, hz: float = HZ) -> None:
        """Act for one task, `hz` times a second.

        `noise` is the standard deviation of what is added to each number of a row, unforeseen: a
        weaker policy for others to improve on.
        """
        if task not in FORESEEN:
            raise ValueError(f"no scripted expert for {task!r}; known: {', '.join(FORESEEN)}")
        for name, value in (("noise", noise), ("hz", hz)):
            if not math.isfinite(value) or value < 0.0 or (name == "hz" and value < 1.0):
                raise ValueError(f"{name}={value}; expected noise from 0 up, hz from 1 up")
        self._expert: Expert = EXPERTS[task]
        self._noise, self._rng = noise, np.random.default_rng(0)
        self._pace, horizon = PACE * HZ / hz, max(1, round(HORIZON * hz / HZ))
        weakened = f"scripted-noise-{noise:g}" if noise else "scripted"
        self.spec = replace(type(self).spec, hz=hz, horizon=horizon, checkpoint=weakened)

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request."""
        return [
            ActionChunk(actions=self._rows(request), observed_at=request.observed_at)
            for request in requests
        ]

    def _rows(self, request: PolicyRequest) -> NDArray[np.float32]:
        imagined, rows = _Imagined(View(request), 1 / self.spec.hz), list[NDArray[np.float64]]()
        committed = request.committed
        given = committed.rows[: committed.delay] if committed else ()
        for step in range(self.spec.horizon):
            row = given[step].astype(np.float64) if step < len(given) else self._row(imagined)
            imagined.act(row)
            rows.append(row if step < len(given) else self._weakened(row))
        return np.array(rows, np.float32)

    def _weakened(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(row + self._noise * self._rng.standard_normal(len(row)), -1.0, 1.0)

    def _row(self, imagined: _Imagined) -> NDArray[np.float64]:
        """Return the expert's action at a pace that an arm keeps up with."""
        view = imagined.view
        action = self._expert(view)
        if view.jaw[2] - view.tool[2] > PRESS_M:
            # Something is under the jaws: to go on would stall the elbow, and stop the arm.
            action[2] = max(action[2], 0.0)
        length = float(np.abs(action[:3]).max())
        return np.array([*(action[:3] * min(1.0, self._pace / max(length, 1e-9))), action[3]])
