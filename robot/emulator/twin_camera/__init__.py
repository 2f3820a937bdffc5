"""A camera of LeRobot's, of type `twin`, that sees what an emulated arm's twin looks like.

LeRobot's commands find it with `--robot.discover_packages_path=robot.emulator.twin_camera`.
"""

from robot.emulator.twin_camera.camera import TwinCamera
from robot.emulator.twin_camera.config_twin_camera import TwinCameraConfig

__all__ = ["TwinCamera", "TwinCameraConfig"]
