"""What a simulated camera of LeRobot's takes."""

from dataclasses import dataclass

from lerobot.cameras.configs import CameraConfig  # pyright: ignore[reportMissingTypeStubs]


@CameraConfig.register_subclass("twin")  # pyright: ignore[reportUnknownMemberType]
@dataclass(kw_only=True)
class TwinCameraConfig(CameraConfig):
    """A camera that draws the twin of an emulator."""

    state: str
    """The emulator's state file, e.g. `run/arm01.state`."""
    view: str
    """`front`, `side` or `wrist`."""
    fps: int | None = 20
    width: int | None = 96
    height: int | None = 96

    def __post_init__(self) -> None:
        """Raise `ValueError` where a picture cannot be drawn so."""
        for name in ("fps", "width", "height"):
            if not getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")
