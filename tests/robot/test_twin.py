"""The twin as an arm and as a scene."""

import numpy as np
import pytest

from robot.arm import Joints, frozen
from robot.scene import CUBE_EDGE, Item, Layout
from robot.twin import BOWL_CLEARANCE, CUBE_X, CUBE_Y, MARKER_DISTANCE, REST_POSE, Twin

RED = Item("cube", "red")
BOWL = Layout(thing=RED, place=Item("bowl", "blue"))
POSE = frozen([10.0, -40.0, 30.0, 60.0, 80.0, 20.0])


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin(BOWL)


def test_a_reset_brings_the_same_scene_back_for_the_same_seed(twin: Twin) -> None:
    twin.reset(seed=7)
    first = twin.truth()
    twin.command(POSE)
    twin.clock.sleep_until(twin.clock.now() + 0.5)
    twin.reset(seed=7)
    np.testing.assert_array_equal(first.thing, twin.truth().thing)
    np.testing.assert_array_equal(twin.joint_pos(), twin.joint_pos())


def test_different_seeds_lay_the_cube_elsewhere(twin: Twin) -> None:
    twin.reset(seed=1)
    first = twin.truth().thing
    twin.reset(seed=2)
    assert np.linalg.norm(first - twin.truth().thing) > 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_the_cube_starts_at_rest_in_its_range_and_clear_of_the_bowl(twin: Twin, seed: int) -> None:
    twin.reset(seed=seed)
    truth = twin.truth()
    x, y, z = truth.thing
    assert CUBE_X[0] - 1e-3 <= x <= CUBE_X[1] + 1e-3
    assert CUBE_Y[0] - 1e-3 <= y <= CUBE_Y[1] + 1e-3
    assert z == pytest.approx(CUBE_EDGE / 2, abs=1e-3)
    assert truth.thing_speed < 0.01
    assert truth.place is not None
    assert np.linalg.norm(truth.thing[:2] - truth.place[:2]) > BOWL_CLEARANCE - 1e-3


def test_a_marker_lies_at_its_distance_from_the_cube() -> None:
    twin = Twin(Layout(thing=RED, place=Item("marker", "green")))
    for seed in range(10):
        twin.reset(seed=seed)
        truth = twin.truth()
        assert truth.place is not None
        distance = np.linalg.norm(truth.thing[:2] - truth.place[:2])
        assert MARKER_DISTANCE[0] - 2e-3 <= distance <= MARKER_DISTANCE[1] + 2e-3


def test_the_clock_only_moves_when_it_is_waited_on_and_never_back(twin: Twin) -> None:
    before = twin.clock.now()
    twin.reset(seed=0)
    after = twin.clock.now()
    twin.clock.sleep_until(after + 0.05)
    assert before <= after
    assert twin.clock.now() == pytest.approx(after + 0.05)


def test_a_stiff_arm_goes_where_it_is_told(twin: Twin) -> None:
    twin.reset(seed=0)
    _go(twin, POSE)
    np.testing.assert_allclose(twin.joint_pos()[:5], POSE[:5], atol=1.0)


def test_a_compliant_arm_reacts_late_and_sags() -> None:
    twin = Twin(Layout(thing=RED), preset="compliant")
    start = twin.clock.now()
    before = twin.joint_pos()
    twin.command(POSE)
    twin.clock.sleep_until(start + 0.05)
    np.testing.assert_allclose(twin.joint_pos(), before, atol=1.0)
    _go(twin, POSE)
    off = np.abs(twin.joint_pos()[:5] - POSE[:5]).max()
    assert 0.5 < off < 8.0


def test_a_thing_slides_at_its_speed_turns_at_the_end_of_its_range_and_starts_over() -> None:
    twin = Twin(Layout(thing=RED), slide=0.05)
    paths: list[list[float]] = []
    for _ in range(2):
        twin.reset(seed=3)
        path: list[float] = []
        for _ in range(60):
            twin.clock.sleep_until(twin.clock.now() + 0.1)
            path.append(float(twin.truth().thing[1]))
        paths.append(path)
    first, again = paths
    assert first == again
    speeds = np.abs(np.diff(first)) / 0.1
    assert np.median(speeds) == pytest.approx(0.05, abs=0.002)
    assert max(first) < CUBE_Y[1] + 0.01
    assert min(np.diff(first)) < 0 < max(np.diff(first))
    assert twin.truth().thing[2] == pytest.approx(CUBE_EDGE / 2, abs=0.003)


def test_frames_carry_time_and_the_things_colours(twin: Twin) -> None:
    twin.reset(seed=3)
    frame = twin.frames()["front"]
    image = frame.image.astype(int)
    assert frame.image.shape == (96, 96, 3)
    assert frame.stamp == twin.clock.now()
    assert (image[..., 0] > image[..., 1:].max(axis=-1) + 60).sum() > 10
    assert (image[..., 2] > image[..., :2].max(axis=-1) + 60).sum() > 50


def test_known_cameras_project_the_cube_onto_its_pixels(twin: Twin) -> None:
    twin.reset(seed=3)
    for name, camera in twin.cameras.items():
        image = twin.frames()[name].image.astype(int)
        rows, columns = np.nonzero(image[..., 0] > image[..., 1:].max(axis=-1) + 60)
        pixel, depth = camera.project(twin.truth().thing)
        assert depth > 0
        np.testing.assert_allclose(pixel, [columns.mean(), rows.mean()], atol=1.0)


def test_unknown_presets_and_cameras_are_named() -> None:
    with pytest.raises(ValueError, match="unknown preset 'soft'; known: stiff, compliant"):
        Twin(BOWL, preset="soft")
    with pytest.raises(ValueError, match="unknown camera 'top'"):
        Twin(BOWL, cameras=("top",))


def test_the_rest_pose_is_where_a_reset_leaves_the_arm(twin: Twin) -> None:
    twin.reset(seed=11)
    np.testing.assert_allclose(twin.joint_pos(), REST_POSE, atol=1.0)


def _go(twin: Twin, pose: Joints) -> None:
    start = twin.joint_pos()
    for share in np.linspace(0.0, 1.0, 40):
        twin.command(start + share * (pose - start))
        twin.clock.sleep_until(twin.clock.now() + 0.05)
    twin.clock.sleep_until(twin.clock.now() + 1.0)
