"""`make calibrate-camera`: a camera's place and lens, from pictures of a ChArUco board."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from robot.vision import CameraModel, Image, Vector, load_cameras, save_cameras

MIN_CORNERS = 8
"""Board corners a picture must show to count."""
MIN_VIEWS = 5
"""Pictures, with the board held differently in each, that a lens needs."""
MAX_ERROR_PX = 1.5
"""Root mean square reprojection error of a usable calibration."""
MAX_FOCAL_UNSURE = 0.01
"""Standard deviation of the focal length, as a share of it, of a usable calibration."""
MIN_TILT_DEG = 25.0
"""How far the board must be tilted from facing the camera in at least one picture."""
BETWEEN_VIEWS_S = 2.0
OK, FAILED, USAGE, NO_DEVICE = 0, 1, 2, 3


class CalibrationError(ValueError):
    """The pictures do not determine the camera."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A ChArUco board: a chessboard with ArUco markers (DICT_4X4_50) in its white squares."""

    columns: int = 7
    rows: int = 5
    square_m: float = 0.030
    marker_m: float = 0.022

    def opencv(self) -> cv2.aruco.CharucoBoard:
        """Return OpenCV's form of the board."""
        markers = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
        size = (self.columns, self.rows)
        return cv2.aruco.CharucoBoard(size, self.square_m, self.marker_m, markers)

    def picture(self, pixels_per_square: int = 200) -> Image:
        """Return the board as a picture to print, to the edge, without a margin."""
        size = (self.columns * pixels_per_square, self.rows * pixels_per_square)
        return cast(Image, self.opencv().generateImage(size))


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardPose:
    """Where the board lies, face up on the table, metres and radians in the arm's base frame."""

    x: float
    y: float
    """Of the outer corner of the first square: top left when the board is read upright."""
    yaw: float
    """From the base's x axis to the board's upper edge, read from left to right."""

    def rot(self) -> Vector:
        """Return board axes (right, down the page, into the table) as columns, shape (3, 3)."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]])


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Board corners found in one picture."""

    corners: Vector
    """On the board, metres, shape (n, 1, 3)."""
    pixels: Vector
    """In the picture, shape (n, 1, 2)."""


def find_corners(image: Image, board: Board) -> _View | None:
    """Return the board corners in an RGB picture, or None if it shows too few."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    model = board.opencv()
    # The stubs do not know that there may be no corners, nor what matchImagePoints returns.
    found = cast("tuple[Vector | None, ...]", cv2.aruco.CharucoDetector(model).detectBoard(grey))
    pixels, ids = found[:2]
    if pixels is None or ids is None or len(ids) < MIN_CORNERS:
        return None
    # The detector's corners lie half a pixel off; refined on the picture itself they do not.
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 30, 0.01)
    refined = cv2.cornerSubPix(grey, pixels - 0.5, (3, 3), (-1, -1), stop)
    matched: Any = model.matchImagePoints(cast(Any, refined), ids)
    return _View(*cast("tuple[Vector, Vector]", matched))


def calibrate(
    name: str, pictures: Sequence[Image], *, board: Board, pose: BoardPose
) -> tuple[CameraModel, float]:
    """Return a camera and its reprojection error in pixels.

    The last picture shows the board at `pose`. Raise CalibrationError, saying what to do, where
    the pictures are not enough.
    """
    found = [find_corners(picture, board) for picture in pictures]
    views = [view for view in found if view is not None]
    if len(views) < MIN_VIEWS:
        raise CalibrationError(
            f"the board is seen in {len(views)} of {len(pictures)} pictures with at least "
            f"{MIN_CORNERS} corners; {MIN_VIEWS} are needed: hold it closer, flat and well lit"
        )
    last = found[-1]
    if last is None:
        raise CalibrationError(
            f"the last picture shows fewer than {MIN_CORNERS} corners of the board on the table; "
            "take it again"
        )
    height, width = pictures[0].shape[:2]
    if any(picture.shape[:2] != (height, width) for picture in pictures):
        raise CalibrationError(
            f"the pictures differ in size; take all of them with {width}x{height} pixels"
        )
    return _solve(name, (width, height), views, last, pose)


def _solve(
    name: str, size: tuple[int, int], views: Sequence[_View], last: _View, pose: BoardPose
) -> tuple[CameraModel, float]:
    """Return the camera that explains the views best, and its reprojection error in pixels."""
    error, matrix, distortion, turns, _, deviations, _, _ = cv2.calibrateCameraExtended(
        [view.corners for view in views],
        [view.pixels for view in views],
        size,
        np.eye(3),
        np.zeros(5),
        flags=cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST | cv2.CALIB_FIX_ASPECT_RATIO,
    )
    if not error <= MAX_ERROR_PX:
        raise CalibrationError(
            f"the pictures contradict each other by {error:.1f} px, expected at most "
            f"{MAX_ERROR_PX} px: check --squares, --square-mm and --marker-mm, keep the board "
            "flat and the focus fixed"
        )
    # With a fixed aspect ratio only one of the two focal lengths has a deviation.
    unsure, tilt = float(np.max(deviations[:2]) / matrix[0, 0]), _tilt_deg(turns)
    if not (unsure <= MAX_FOCAL_UNSURE and tilt >= MIN_TILT_DEG):
        raise CalibrationError(
            f"the pictures leave the focal length open by {unsure:.1%} (at most "
            f"{MAX_FOCAL_UNSURE:.0%}), with the board tilted by {tilt:.0f} degrees (at least "
            f"{MIN_TILT_DEG:.0f}): hold it closer, tilted in several ways"
        )
    _, turn, shift = cv2.solvePnP(last.corners, last.pixels, matrix, distortion)
    board_to_camera = np.asarray(cv2.Rodrigues(turn)[0], np.float64)
    rot = pose.rot() @ board_to_camera.T
    pos = np.array([pose.x, pose.y, 0.0]) - rot @ np.asarray(shift, np.float64).ravel()
    camera = CameraModel(
        name=name,
        width=size[0],
        height=size[1],
        fx=float(matrix[0, 0]),
        fy=float(matrix[1, 1]),
        cx=float(matrix[0, 2]),
        cy=float(matrix[1, 2]),
        pos=pos,
        rot=rot,
        distortion=tuple(float(value) for value in np.ravel(distortion)),
    )
    return camera, float(error)


def _tilt_deg(turns: Sequence[cv2.typing.MatLike]) -> float:
    """Return how far, in degrees, the board is tilted from facing the camera, where it is most."""
    facing = [abs(float(cv2.Rodrigues(turn)[0][2, 2])) for turn in turns]
    return float(np.rad2deg(np.arccos(min(1.0, *facing))))


def read_picture(path: Path) -> Image:
    """Return a picture file as RGB; raise CalibrationError if it is none."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise CalibrationError(f"{path} is not a picture that can be read (PNG or JPEG)")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def take_pictures(index: int, count: int) -> list[Image]:
    """Return pictures of a camera, one every two seconds, saying when to hold the board how."""
    capture = cv2.VideoCapture(index)
    try:
        pictures: list[Image] = []
        while len(pictures) < count:
            where = (
                "flat on the table, at --at" if len(pictures) == count - 1 else "held in a new way"
            )
            print(f"picture {len(pictures) + 1} of {count}: the board {where}")
            _run_for(capture, BETWEEN_VIEWS_S)
            done, image = capture.read()
            if not done:
                raise OSError(f"camera {index} gives no picture; is it plugged in, and free?")
            pictures.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
        return pictures
    finally:
        capture.release()


def _run_for(capture: cv2.VideoCapture, seconds: float) -> None:
    """Drop a camera's pictures for a while, so that the next is no older one from its buffer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and capture.grab():
        pass


def twin_cameras(width: int, height: int) -> dict[str, CameraModel]:
    """Return the twin's cameras as they are known."""
    # MuJoCo is there with the `train` extra only; a bench computer calibrates without it.
    from robot.scene import Item, Layout  # noqa: PLC0415
    from robot.twin import Twin  # noqa: PLC0415

    layout = Layout(thing=Item("cube", "red"))
    return dict(Twin(layout, image_size=(height, width)).cameras)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make calibrate-camera", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("cameras.yaml"), help="file to add the camera to"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images", type=Path, nargs="+", metavar="FILE", help="pictures; the last one is --at"
    )
    source.add_argument("--index", type=int, help="take the pictures with this camera")
    source.add_argument("--twin", action="store_true", help="write the twin's known cameras")
    source.add_argument("--print-board", type=Path, metavar="PNG", help="write the board to print")
    parser.add_argument(
        "--name", default="front", help="what the camera is called: front, side, ..."
    )
    parser.add_argument("--views", type=int, default=12, help="pictures to take with --index")
    parser.add_argument("--squares", type=int, nargs=2, default=(7, 5), metavar=("COLUMNS", "ROWS"))
    parser.add_argument("--square-mm", type=float, default=30.0, help="edge of a square as printed")
    parser.add_argument("--marker-mm", type=float, default=22.0, help="edge of a marker as printed")
    parser.add_argument(
        "--at",
        type=float,
        nargs=3,
        metavar=("X_MM", "Y_MM", "YAW_DEG"),
        help="where the board's first corner lies in the arm's base frame in the last picture",
    )
    parser.add_argument(
        "--image-size", type=int, nargs=2, default=(96, 96), metavar=("WIDTH", "HEIGHT")
    )
    return parser


def _calibrated(args: argparse.Namespace, board: Board) -> dict[str, CameraModel]:
    """Return the cameras that were asked for, by name."""
    if args.twin:
        return twin_cameras(*args.image_size)
    x_mm, y_mm, yaw_deg = args.at
    pose = BoardPose(x=x_mm / 1e3, y=y_mm / 1e3, yaw=np.deg2rad(yaw_deg))
    if args.images:
        pictures = [read_picture(path) for path in args.images]
    else:
        pictures = take_pictures(args.index, args.views)
    camera, error = calibrate(args.name, pictures, board=board, pose=pose)
    x, y, z = camera.pos * 1e3
    print(f"{args.name}: error {error:.2f} px, stands at {x:.0f} {y:.0f} {z:.0f} mm")
    return {args.name: camera}


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate one camera, or write the twin's; return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    columns, rows = args.squares
    board = Board(
        columns=columns, rows=rows, square_m=args.square_mm / 1e3, marker_m=args.marker_mm / 1e3
    )
    if (args.images or args.index is not None) and args.at is None:
        parser.error("--at X_MM Y_MM YAW_DEG is needed: where the board lies in the last picture")
    try:
        if args.print_board:
            args.print_board.write_bytes(cv2.imencode(".png", board.picture())[1].tobytes())
            print(f"print {args.print_board} with squares of {args.square_mm:g} mm")
            return OK
        known = load_cameras(args.out) if args.out.exists() else {}
        save_cameras(args.out, known | _calibrated(args, board))
    except (ValueError, cv2.error) as error:
        print(f"not calibrated: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"not calibrated: {error}", file=sys.stderr)
        return NO_DEVICE if args.index is not None else FAILED
    print(f"written to {args.out}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
