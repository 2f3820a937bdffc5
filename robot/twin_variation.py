"""How a simulated arm and its table differ from the nominal ones, scene by scene."""

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot.perturbation import NOMINAL, Perturbation, drawn_arm
from robot.twin_model import VIEWS

LIGHT = 0.3
COLOUR = 0.1
FRICTION = 0.3
MASS = 0.2
"""Shares by which these may be more or less."""
CAMERA_M, CAMERA_DEG = 0.004, 0.7
"""How far a camera may have been knocked from where it was calibrated."""
DELAY_S = 0.03
"""The longest delay that is added to every command."""

type Floats = NDArray[np.float64]


class Variation:
    """Draws another table and another arm for every scene, around the model that it is given.

    A strength of 1 goes as far as the constants of this module say, 0 changes nothing. Cameras move
    away from where they were calibrated: who looks through them keeps the calibration.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        table: float = 0.0,
        *,
        arm: float = 0.0,
        always: Perturbation = NOMINAL,
    ) -> None:
        """Take a model of one's own, which `draw` changes in place.

        `table` is the strength for light, colours, cameras, friction, mass and delay, `arm` that
        for the servos, the links and the frames; every scene has `always` besides.
        """
        for name, strength in (("variation", table), ("arm_variation", arm)):
            if not 0.0 <= strength <= 1.0:
                raise ValueError(f"{name} is {strength}; expected 0 (none) to 1")
        self._model, self._strength, self._arm, self._always = model, table, arm, always
        self._cameras = [model.camera(name).id for name in VIEWS]
        self._bare = model.geom_matid < 0
        self._thing = model.body("thing").id
        self._nominal: dict[str, Floats] = {
            name: getattr(model, name).copy()
            for name in (
                *("geom_rgba", "mat_rgba", "geom_friction", "body_mass", "body_inertia"),
                *("light_diffuse", "cam_pos", "cam_quat", "dof_frictionloss", "dof_damping"),
                *("actuator_gainprm", "actuator_biasprm"),
            )
        }
        self._headlight = np.array([model.vis.headlight.ambient, model.vis.headlight.diffuse])

    def draw(self, rng: np.random.Generator) -> Perturbation:
        """Change the model for the next scene; return in what it differs beyond its table."""
        for name, value in self._nominal.items():
            getattr(self._model, name)[:] = value
        delay_s = self._vary_table(rng)
        drawn = drawn_arm(rng, self._arm)
        beyond = self._always.plus(drawn).plus(Perturbation(delay_s=delay_s))
        self._apply(beyond, rng)
        return beyond

    def _vary_table(self, rng: np.random.Generator) -> float:
        """Change what lies on the table and how it looks; return the servos' delay, seconds."""
        model = self._model
        model.light_diffuse[:] *= self._share(rng, LIGHT)
        self._set_headlight(self._headlight * self._share(rng, LIGHT))
        self._tint(rng)
        model.geom_friction[:, 0] *= self._share(rng, FRICTION)
        mass = self._share(rng, MASS)
        model.body_mass[self._thing] *= mass
        model.body_inertia[self._thing] *= mass
        for camera in self._cameras:
            moved = self._strength * rng.uniform(-CAMERA_M, CAMERA_M, 3)
            turned = self._strength * np.deg2rad(rng.uniform(-CAMERA_DEG, CAMERA_DEG, 3))
            self._knock(camera, moved, turned)
        return self._strength * float(rng.uniform(0.0, DELAY_S))

    def _apply(self, change: Perturbation, rng: np.random.Generator) -> None:
        """Change in the model what is of the model; the rest is the twin's to carry out."""
        model = self._model
        model.light_diffuse[:] *= change.light
        headlight = model.vis.headlight
        self._set_headlight(change.light * np.array([headlight.ambient, headlight.diffuse]))
        for colours in (model.geom_rgba, model.mat_rgba):
            signs = rng.choice((-1.0, 1.0), (len(colours), 3))
            colours[:, :3] = np.clip(colours[:, :3] * (1.0 + change.shade * signs), 0.0, 1.0)
        model.geom_friction[:, 0] *= change.friction
        model.dof_frictionloss[:] *= change.joint_friction
        model.dof_damping[:] *= change.joint_friction
        model.actuator_gainprm[:, 0] *= change.stiffness
        model.actuator_biasprm[:, 1] *= change.stiffness
        for camera in self._cameras:
            moved, turned = change.camera_m * _direction(rng), change.camera_deg * _direction(rng)
            self._knock(camera, moved, np.deg2rad(turned))

    def _set_headlight(self, light: Floats) -> None:
        """Set what the lamp at the camera gives around and ahead, shape (2, 3)."""
        headlight = self._model.vis.headlight
        headlight.ambient[:], headlight.diffuse[:] = light

    def _tint(self, rng: np.random.Generator) -> None:
        """Change colours; where a geom has a material, the material's, which its own would hide."""
        model, nominal = self._model, self._nominal
        tint = self._share(rng, COLOUR, (len(nominal["geom_rgba"]), 3))
        tinted = np.clip(nominal["geom_rgba"][:, :3] * tint, 0.0, 1.0)
        model.geom_rgba[self._bare, :3] = tinted[self._bare]
        tint = self._share(rng, COLOUR, (len(nominal["mat_rgba"]), 3))
        model.mat_rgba[:, :3] = np.clip(nominal["mat_rgba"][:, :3] * tint, 0.0, 1.0)

    def _share(
        self, rng: np.random.Generator, most: float, size: tuple[int, ...] = ()
    ) -> NDArray[np.float64]:
        return 1.0 + self._strength * rng.uniform(-most, most, size)

    def _knock(self, camera: int, moved: Floats, turned: Floats) -> None:
        """Move a camera by `moved` metres and turn it by `turned`, an axis times radians, (3,)."""
        self._model.cam_pos[camera] += moved
        quat = self._model.cam_quat[camera].copy()
        mujoco.mju_quatIntegrate(quat, turned, 1.0)
        self._model.cam_quat[camera] = quat


def _direction(rng: np.random.Generator) -> Floats:
    """Return a unit vector, shape (3,), every direction as likely."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)
