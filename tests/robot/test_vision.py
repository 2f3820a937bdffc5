"""Cameras as geometry, and which pictures can be trusted."""

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from robot.camera import Frame
from robot.vision import (
    HSV_RANGES,
    CameraModel,
    FrameSanity,
    colour_mask,
    frame_fault,
    load_cameras,
    save_cameras,
    to_hsv,
)

TABLE = np.random.default_rng(0).integers(90, 140, (96, 96, 3), np.uint8)
ARM_YELLOW = (255, 209, 31)


def looking_down(**changes):
    down = np.diag([1.0, -1.0, -1.0])
    given_ = {"width": 96, "height": 96, "fx": 110.0, "fy": 112.0, "cx": 47.0, "cy": 48.0}
    return CameraModel(name="top", pos=np.array([0.2, 0.0, 0.5]), rot=down, **{**given_, **changes})


def frame(image, stamp):
    return Frame(image=image, stamp=stamp)


@pytest.mark.parametrize("distortion", [(), (0.1, -0.05, 0.001, 0.002, 0.0)])
@given(x=st.floats(0.1, 0.3), y=st.floats(-0.1, 0.1), z=st.floats(0.0, 0.2))
def test_a_ray_through_a_projected_point_passes_through_the_point(distortion, x, y, z):
    camera, point = looking_down(distortion=distortion), np.array([x, y, z])
    gap = point - camera.pos
    assert camera.ray(camera.project(point)[0]) == pytest.approx(
        gap / np.linalg.norm(gap), abs=1e-5
    )


@pytest.mark.parametrize(
    ("point", "pixel"),
    [
        ((1.0, 0.2, 0.3), (79.5, 59.5)),
        ((1.0, 0.2, 0.3 + np.tan(np.deg2rad(23))), (79.5, -0.5)),
        ((1.0, 0.2 - np.tan(np.deg2rad(23)), 0.3), (139.5, 59.5)),
    ],
)
def test_a_camera_with_mujocos_axes_sees_the_edge_of_its_field_at_the_edge_of_its_picture(
    point, pixel
):
    # It stands at (0, 0.2, 0.3) and looks along x: right is -y, up is z, backwards is -x.
    axes = np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]])
    eye = CameraModel.from_fov("eye", 160, 120, 46, np.array([0, 0.2, 0.3]), axes)
    assert eye.project(np.array(point))[0] == pytest.approx(pixel)


def test_a_resized_camera_sees_the_same_point_at_the_same_part_of_the_picture():
    camera, point = looking_down(), np.array([0.25, 0.03, 0.0])
    half, whole = camera.resized(48, 48).project(point)[0], camera.project(point)[0]
    assert (half + 0.5) * 2 == pytest.approx(whole + 0.5)


def test_saved_cameras_come_back_as_they_were(tmp_path):
    camera = looking_down(distortion=(0.1, -0.05, 0.0, 0.0, 0.0))
    save_cameras(tmp_path / "cameras.yaml", {"top": camera})
    back = load_cameras(tmp_path / "cameras.yaml")["top"]
    point = np.array([0.25, 0.03, 0.01])
    assert back.project(point)[0] == pytest.approx(camera.project(point)[0])
    assert (back.name, back.width, back.height) == ("top", 96, 96)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fx": None}, "no number"),
        ({"rot": [[1, 0, 0], [0, 1, 0], [0, 1, 1]]}, "rotation"),
        ({"focal": 3.0}, "unknown keys: focal"),
    ],
)
def test_a_damaged_camera_file_is_refused_with_a_reason(tmp_path, change, reason):
    path = tmp_path / "cameras.yaml"
    save_cameras(path, {"top": looking_down()})
    content = yaml.safe_load(path.read_text())
    content["cameras"]["top"].update(change)
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=reason):
        load_cameras(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "cameras: 3", "cameras: {top: [}"])
def test_a_file_without_cameras_is_refused(tmp_path, text):
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cameras\.yaml"):
        load_cameras(path)


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (TABLE, None),
        (TABLE // 2, None),
        (TABLE // 20, "black"),
        (np.full_like(TABLE, 252), "over-exposed"),
        (cv2.GaussianBlur(TABLE, (0, 0), 8.0), "blurred"),
        (TABLE[..., 0], "wrong size"),
        (TABLE[:8, :8], "wrong size"),
        (TABLE.astype(np.float32), "wrong size"),
    ],
)
def test_useless_pictures_are_named(image, fault):
    assert frame_fault(image) == fault


def test_a_picture_that_repeats_the_previous_one_is_frozen():
    assert frame_fault(TABLE, TABLE.copy()) == "frozen"
    assert frame_fault(TABLE, TABLE[::-1]) is None


def faults_after(*, moved_deg, elapsed_s, image=TABLE):
    sanity, joints = FrameSanity(), np.zeros(6)
    sanity.faults({"front": frame(TABLE, 5.0)}, joints)
    return sanity.faults({"front": frame(image, 5.0 + elapsed_s)}, joints + moved_deg)


def test_a_camera_that_repeats_itself_while_the_arm_moves_is_frozen():
    assert faults_after(moved_deg=10.0, elapsed_s=1.5) == {"front": "frozen"}


def test_a_still_picture_of_a_still_arm_is_no_fault():
    assert faults_after(moved_deg=0.0, elapsed_s=60.0) == {}


def test_a_picture_that_is_a_moment_old_is_not_yet_frozen():
    assert faults_after(moved_deg=10.0, elapsed_s=0.2) == {}


def test_a_changing_picture_is_not_frozen_however_far_the_arm_moves():
    changed = TABLE.copy()
    changed[0, 0] += 1
    assert faults_after(moved_deg=90.0, elapsed_s=5.0, image=changed) == {}


@pytest.mark.parametrize("light", [0.45, 1.0, 1.6])
@pytest.mark.parametrize(
    ("rgb", "colour"),
    [((204, 15, 15), "red"), ((13, 153, 31), "green"), ((13, 38, 204), "blue")],
)
def test_a_colour_is_in_its_own_mask_only_in_any_light(rgb, colour, light):
    patch = np.full((4, 4, 3), np.clip(np.array(rgb) * light, 0, 255), np.uint8)
    found = [
        name for name, ranges in HSV_RANGES.items() if colour_mask(to_hsv(patch), ranges).all()
    ]
    assert found == [colour]


@pytest.mark.parametrize("light", np.linspace(0.05, 1.0, 8))
def test_the_arms_yellow_plastic_and_the_grey_table_have_no_colour(light):
    rows = np.array([ARM_YELLOW, (158, 158, 153), (20, 20, 20)]) * light
    patch = rows.astype(np.uint8)[None]
    assert not any(colour_mask(to_hsv(patch), ranges).any() for ranges in HSV_RANGES.values())
