"""The twin as six servos move it: each with a strength of its own, limp, stuck, or held by hand."""

import copy
from collections.abc import Mapping

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot.arm import JOINTS, Joints, to_radians
from robot.scene import Layout
from robot.twin import Twin
from robot.twin_model import TIMESTEP_S

FULL_LOAD_RAD = 3.35 / 17.8
"""How far off its goal a servo uses all it has: 10.8 degrees, by the gain and the torque limit of
the SO-101's older official model, which sags as an arm with LeRobot's P_Coefficient of 16 does."""
_STUCK_NM = 50.0
_SETTLE_S = 0.25


class TwinBody(Twin):
    """A twin without cameras whose servos may be weak or off, and whose scene resets alone."""

    def __init__(self, layout: Layout, *, preset: str = "stiff") -> None:
        """Build the twin, at rest and with all servos on."""
        super().__init__(layout, preset=preset, cameras=())
        # Strengths and stuck joints are in the model, and other twins must not share them.
        self._model = copy.copy(self._model)
        self._full = self._model.actuator_forcerange.copy()
        self._shares = np.ones(len(JOINTS))
        self._friction = self._model.dof_frictionloss.copy()
        self._dofs = np.array([self._model.joint(name).dofadr[0] for name in JOINTS])
        self._in_hand: dict[int, float] = {}

    @property
    def layout(self) -> Layout:
        """Return what lies on the table."""
        return self._layout

    def step(self) -> None:
        """Run one step of the physics."""
        self.advance(self.time + TIMESTEP_S)
        # A servo that is switched on starts from where its joint was found, delay or not.
        limp = self._shares == 0.0
        self._data.ctrl[limp] = self._goal[limp] = self._data.qpos[self._joints][limp]
        for joint, angle in self._in_hand.items():
            self._data.qpos[self._joints[joint]] = angle
            self._data.qvel[self._dofs[joint]] = 0.0

    def strengthen(self, shares: NDArray[np.float64]) -> None:
        """Limit the servos' torques, shape (6,), as shares of their own limits; 0 is limp."""
        self._shares = np.array(shares)
        self._model.actuator_forcerange[:] = self._full * shares[:, None]

    def stick(self, joint: int, *, stuck: bool) -> None:
        """Make a joint stick where it is, or let it go."""
        dof = self._dofs[joint]
        self._model.dof_frictionloss[dof] = _STUCK_NM if stuck else self._friction[dof]

    def hold_by_hand(self, angles: Mapping[int, float]) -> None:
        """Hold joints, by index, at hinge angles in radians until told otherwise; {} lets go."""
        self._in_hand = dict(angles)

    def within_reach(self, angles: Mapping[int, float]) -> dict[int, float]:
        """Return hinge angles, by joint, cut off at the stops."""
        stops = {joint: self._model.joint(JOINTS[joint]).range for joint in angles}
        return {joint: float(np.clip(angle, *stops[joint])) for joint, angle in angles.items()}

    def angles(self) -> NDArray[np.float64]:
        """Return the hinge angles, shape (6,), radians."""
        return np.array(self._data.qpos[self._joints])

    def speeds(self) -> NDArray[np.float64]:
        """Return the hinges' speeds, shape (6,), radians a second."""
        return np.array(self._data.qvel[self._dofs])

    def loads(self) -> NDArray[np.float64]:
        """Return how hard the servos drive their motors, shape (6,), -1 to 1.

        That is the torque's share of its limit, but not more than the distance from the goal
        calls for: a stiff joint is at its limit a fifth of a degree off, which no servo is.
        """
        off = np.abs(self._data.ctrl - self._data.actuator_length) / FULL_LOAD_RAD
        return np.clip(self._data.actuator_force / self._full[:, 1], -off, off)

    def place_arm(self, joint_pos: Joints) -> None:
        """Put the arm somewhere at once, at rest."""
        angles = to_radians(np.asarray(joint_pos, np.float64))
        self._data.qpos[self._joints] = angles
        self._data.qvel[self._dofs] = 0.0
        self._data.ctrl[:] = self._goal = angles

    def reset_scene(self, seed: int) -> None:
        """Lay cube and place out as `reset` does; the arm stays as it is."""
        data = self._data
        arm = data.qpos[self._joints].copy(), data.qvel[self._dofs].copy()
        started = data.time
        data.qvel[:] = 0.0
        self._lay_out(np.random.default_rng(seed))
        mujoco.mj_step(self._model, data, round(_SETTLE_S / TIMESTEP_S))
        data.time = started
        data.qpos[self._joints], data.qvel[self._dofs] = arm
        mujoco.mj_forward(self._model, data)
        self._thing_start = data.body("thing").xpos.copy()

    def take_over(self, other: "TwinBody") -> None:
        """Continue another body's arm before this one's table."""
        self._base_time += other.time - self.time
        self._data.qpos[self._joints] = other.angles()
        self._data.qvel[self._dofs] = other.speeds()
        self._data.ctrl[:] = self._goal = other.goal()
        self.strengthen(other.strengths())
        self._in_hand = other.held_by_hand()
        mujoco.mj_forward(self._model, self._data)

    def goal(self) -> NDArray[np.float64]:
        """Return what the servos aim at, shape (6,), radians."""
        return np.array(self._data.ctrl)

    def strengths(self) -> NDArray[np.float64]:
        """Return the servos' strengths as shares of their own limits, shape (6,)."""
        return self._shares

    def held_by_hand(self) -> dict[int, float]:
        """Return the joints, by index, that a hand holds, and where."""
        return dict(self._in_hand)

    def picture(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what a camera needs: all positions, shape (nq,), and the flat place, (3,)."""
        flat = self._data.mocap_pos[0] if self._model.nmocap else np.zeros(3)
        return np.array(self._data.qpos), np.array(flat)
