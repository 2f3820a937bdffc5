"""How much a simulated table differs from scene to scene: light, colours, cameras, friction."""

import mujoco
import numpy as np
from numpy.typing import NDArray

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
    """Draws another table for every scene, around the model that it is given.

    A strength of 1 goes as far as the constants of this module say, 0 changes nothing. Cameras move
    away from where they were calibrated: who looks through them keeps the calibration.
    """

    def __init__(self, model: mujoco.MjModel, strength: float) -> None:
        """Take a model of one's own, which `draw` changes in place."""
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"variation is {strength}; expected 0 (none) to 1")
        self._model, self._strength = model, strength
        self._cameras = [model.camera(name).id for name in VIEWS]
        self._bare = model.geom_matid < 0
        thing = model.body("thing").id
        self._thing, self._mass = thing, float(model.body_mass[thing])
        self._inertia = model.body_inertia[thing].copy()
        self._nominal: dict[str, Floats] = {
            name: getattr(model, name).copy()
            for name in (
                *("geom_rgba", "mat_rgba", "geom_friction"),
                *("light_diffuse", "cam_pos", "cam_quat"),
            )
        }
        self._headlight = np.array([model.vis.headlight.ambient, model.vis.headlight.diffuse])

    def draw(self, rng: np.random.Generator) -> float:
        """Change the model for the next scene; return the seconds that its servos wait longer."""
        model, nominal = self._model, self._nominal
        light = self._share(rng, LIGHT)
        model.light_diffuse[:] = nominal["light_diffuse"] * light
        headlight = self._headlight * self._share(rng, LIGHT)
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = headlight
        self._tint(rng)
        model.geom_friction[:, 0] = nominal["geom_friction"][:, 0] * self._share(rng, FRICTION)
        mass = self._share(rng, MASS)
        model.body_mass[self._thing] = self._mass * mass
        model.body_inertia[self._thing] = self._inertia * mass
        self._knock_cameras(rng)
        return self._strength * float(rng.uniform(0.0, DELAY_S))

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

    def _knock_cameras(self, rng: np.random.Generator) -> None:
        for camera in self._cameras:
            moved = self._strength * rng.uniform(-CAMERA_M, CAMERA_M, 3)
            turned = self._strength * np.deg2rad(rng.uniform(-CAMERA_DEG, CAMERA_DEG, 3))
            self._model.cam_pos[camera] = self._nominal["cam_pos"][camera] + moved
            quat = self._nominal["cam_quat"][camera].copy()
            mujoco.mju_quatIntegrate(quat, turned, 1.0)
            self._model.cam_quat[camera] = quat
