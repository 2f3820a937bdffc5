"""Calibration from pictures of a board drawn by a camera that is known."""

import cv2
import numpy as np
import pytest

from ops.calibrate_camera import Board, BoardPose, CalibrationError, calibrate, main
from robot.vision import CameraModel, load_cameras

BOARD = Board()
POSE = BoardPose(x=0.15, y=0.10, yaw=np.deg2rad(-85))
SIZE = (640, 480)
FOCAL = 620.0


def looking_at(target, pos):
    back = np.subtract(pos, target) / np.linalg.norm(np.subtract(pos, target))
    right = np.cross((0, 0, 1), back) / np.linalg.norm(np.cross((0, 0, 1), back))
    return np.column_stack([right, np.cross(back, right), back]) * (1, -1, -1)


def known_camera(pos=(0.55, 0.05, 0.40), target=(0.2, 0.01, 0.0)):
    rot = looking_at(target, pos)
    optics = {
        "width": SIZE[0],
        "height": SIZE[1],
        "fx": FOCAL,
        "fy": FOCAL,
        "cx": 310.0,
        "cy": 245.0,
    }
    return CameraModel(name="front", pos=np.array(pos), rot=rot, **optics)


def picture(camera, pose):
    """Return what a camera sees of the board lying at a pose."""
    board, scale = BOARD.picture(100), 100 / BOARD.square_m
    height, width = board.shape
    sheet = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    flat = np.column_stack([sheet / scale, np.zeros(4)])
    corners = flat @ pose.rot().T + (pose.x, pose.y, 0.0)
    fine = camera.resized(4 * SIZE[0], 4 * SIZE[1])
    warp = cv2.getPerspectiveTransform(
        (sheet - 0.5).astype(np.float32), fine.project(corners)[0].astype(np.float32)
    )
    drawn = cv2.warpPerspective(board, warp, (fine.width, fine.height), borderValue=150)
    grey = cv2.resize(drawn, SIZE, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


@pytest.fixture(scope="module")
def pictures():
    # A board that moves before a camera is a camera that moves around a board.
    centre = np.array([0.084, 0.0, 0.0])
    around = [
        (0.2, -0.1, 0.2),
        (0.15, 0.2, 0.2),
        (0.0, 0.2, 0.25),
        (-0.1, -0.2, 0.2),
        (0.2, 0, 0.3),
    ]
    near = [picture(known_camera(centre + pos, centre), POSE) for pos in around]
    return [*near, picture(known_camera(), POSE)]


def test_a_known_camera_is_found_again(pictures):
    camera, error = calibrate("front", pictures, board=BOARD, pose=POSE)
    truth = known_camera()
    assert error < 0.5
    assert camera.pos == pytest.approx(truth.pos, abs=0.004)
    points = np.array([[0.17, -0.1, 0.0], [0.28, 0.1, 0.0], [0.2, 0.0, 0.1]])
    assert camera.project(points)[0] == pytest.approx(truth.project(points)[0], abs=2.0)


def test_too_few_pictures_with_the_board_are_refused(pictures):
    blank = np.full_like(pictures[0], 128)
    with pytest.raises(CalibrationError, match="seen in 3 of 5 pictures"):
        calibrate("front", [blank, blank, *pictures[-3:]], board=BOARD, pose=POSE)


def test_a_last_picture_without_the_board_is_refused(pictures):
    blank = np.full_like(pictures[0], 128)
    with pytest.raises(CalibrationError, match="last picture"):
        calibrate("front", [*pictures, blank], board=BOARD, pose=POSE)


def test_pictures_from_afar_and_straight_above_leave_the_lens_open_and_are_refused():
    around = [(0.104, 0.01 * step, 1.0 + 0.1 * step) for step in range(5)]
    far = [picture(known_camera(pos, (0.084, 0.0, 0.0)), POSE) for pos in around]
    with pytest.raises(CalibrationError, match="focal length open"):
        calibrate("front", far, board=BOARD, pose=POSE)


def test_pictures_of_two_sizes_are_refused(pictures):
    small = [pictures[0][:400], *pictures[1:]]
    with pytest.raises(CalibrationError, match="differ in size"):
        calibrate("front", small, board=BOARD, pose=POSE)


def test_files_without_a_board_are_refused_with_a_sentence(tmp_path, capsys):
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((48, 64, 3), 128, np.uint8))
    out = tmp_path / "cameras.yaml"
    assert main(["--out", str(out), "--images", str(blank), "--at", "100", "0", "0"]) == 1
    assert "seen in 0 of 1 pictures" in capsys.readouterr().err
    assert not out.exists()


def test_a_calibrated_camera_joins_those_in_the_file(tmp_path, pictures):
    out = tmp_path / "cameras.yaml"
    files = [tmp_path / f"{index}.png" for index in range(len(pictures))]
    for file, image in zip(files, pictures, strict=True):
        cv2.imwrite(str(file), image)
    for name in ("front", "side"):
        where = ["--at", "150", "100", "-85"]
        done = main(["--out", str(out), "--name", name, *where, "--images", *map(str, files)])
        assert done == 0
    assert set(load_cameras(out)) == {"front", "side"}


def test_the_twins_cameras_are_written(tmp_path):
    out = tmp_path / "cameras.yaml"
    assert main(["--out", str(out), "--twin"]) == 0
    assert load_cameras(out)["side"].width == 96


def test_pictures_without_the_boards_place_are_a_usage_error(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["--images", str(tmp_path / "a.png")])
    assert stop.value.code == 2
