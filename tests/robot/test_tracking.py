"""Where the tracker says things are, against drawn cubes and against the twin's truth."""

import cv2
import numpy as np
import pytest

from robot.scene import CUBE_EDGE, Item, Layout
from robot.sights import outline
from robot.tracking import Tracker
from robot.twin import Twin
from robot.vision import CameraModel

RGB = {"red": (200, 15, 15), "green": (13, 150, 30), "blue": (13, 38, 200)}
RED_CUBE, BLUE_BOWL = Item("cube", "red"), Item("bowl", "blue")


def camera(name, pos, target=(0.2, 0.0, 0.03)):
    back = np.subtract(pos, target) / np.linalg.norm(np.subtract(pos, target))
    right = np.cross((0, 0, 1), back) / np.linalg.norm(np.cross((0, 0, 1), back))
    rot = np.column_stack([right, np.cross(back, right), back])
    return CameraModel.from_fov(name, 96, 96, 46, np.array(pos), rot)


CAMERAS = {"front": camera("front", (0.6, 0.03, 0.36)), "side": camera("side", (0.24, -0.5, 0.3))}


def draw(camera, *things):
    """Return a noisy grey picture with items at positions, drawn in the order given."""
    image = np.random.default_rng(1).integers(120, 150, (96, 96, 3), np.uint8)
    for item, pos in things:
        pixels = camera.project(outline(item) + pos)[0]
        hull = cv2.convexHull((pixels * 16).round().astype(np.int32))
        cv2.fillConvexPoly(image, hull, RGB[item.colour], shift=4)
    return image


def views(*things):
    return {name: draw(camera, *things) for name, camera in CAMERAS.items()}


def at(x, y, z=CUBE_EDGE / 2):
    return np.array([x, y, z])


def tracker(place=None):
    return Tracker(CAMERAS, Layout(thing=RED_CUBE, place=place))


@pytest.mark.parametrize("colour", RGB)
@pytest.mark.parametrize("pos", [at(0.17, -0.1), at(0.28, 0.1), at(0.2, 0.0, 0.12)])
def test_a_cube_is_found_wherever_it_is(colour, pos):
    cube = Item("cube", colour)
    found = Tracker(CAMERAS, Layout(thing=cube)).update(views((cube, pos))).thing
    assert found.seen
    assert found.pos == pytest.approx(pos, abs=0.003)


def test_what_was_never_seen_is_said_to_be_unseen_in_the_middle_of_the_workspace():
    estimates = tracker(BLUE_BOWL).update(views())
    assert not estimates.thing.seen
    assert estimates.place is not None
    assert not estimates.place.seen
    assert estimates.thing.pos == pytest.approx(at(0.22, 0.0))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: image // 20,
        lambda image: np.full_like(image, 255),
        lambda image: image[:48],
        lambda image: cv2.GaussianBlur(image, (0, 0), 20.0),
    ],
)
def test_useless_pictures_leave_the_last_position_unseen(spoil):
    follow = tracker()
    before = follow.update(views((RED_CUBE, at(0.2, 0.05)))).thing
    spoilt = {name: spoil(image) for name, image in views((RED_CUBE, at(0.25, 0.0))).items()}
    after = follow.update(spoilt).thing
    assert not after.seen
    assert after.pos == pytest.approx(before.pos)


def test_no_pictures_at_all_leave_the_last_position_unseen():
    follow = tracker()
    before = follow.update(views((RED_CUBE, at(0.2, 0.05)))).thing
    assert not follow.update({}).thing.seen
    assert follow.update({}).thing.pos == pytest.approx(before.pos)


@pytest.mark.parametrize("eye", CAMERAS)
def test_one_camera_is_enough_while_the_cube_keeps_its_height(eye):
    follow = tracker()
    follow.update(views((RED_CUBE, at(0.2, 0.05))))
    pictures = {name: draw(CAMERAS[name]) for name in CAMERAS}
    pictures[eye] = draw(CAMERAS[eye], (RED_CUBE, at(0.22, 0.03)))
    found = follow.update(pictures).thing
    assert found.seen
    assert found.pos == pytest.approx(at(0.22, 0.03), abs=0.004)


@pytest.mark.parametrize("eye", CAMERAS)
@pytest.mark.parametrize("hidden", [slice(None, 5), slice(-5, None)])
def test_a_finger_over_one_side_of_a_lifted_cube_moves_it_little(eye, hidden):
    pos = at(0.2, 0.02, 0.09)
    pictures = views((RED_CUBE, pos))
    columns = np.unique(np.argwhere(pictures[eye][..., 0] > 190)[:, 1])
    pictures[eye][:, columns[hidden]] = (220, 180, 30)
    assert tracker().update(pictures).thing.pos == pytest.approx(pos, abs=0.008)


def test_a_red_shirt_in_one_picture_is_not_taken_for_the_cube():
    follow = tracker()
    pos = at(0.2, 0.05)
    follow.update(views((RED_CUBE, pos)))
    pictures = views((RED_CUBE, pos))
    pictures["front"][:30, :60] = RGB["red"]
    assert follow.update(pictures).thing.pos == pytest.approx(pos, abs=0.006)


def test_a_bowl_stays_where_it_was_while_half_of_it_is_hidden():
    follow, pos = tracker(BLUE_BOWL), at(0.2, 0.15, 0.0)
    clear = follow.update(views((BLUE_BOWL, pos))).place
    pictures = views((BLUE_BOWL, pos))
    for image in pictures.values():
        columns = np.unique(np.argwhere(image[..., 2] > 190)[:, 1])
        image[:, columns[len(columns) // 2 :]] = (220, 180, 30)
    hidden = follow.update(pictures).place
    assert hidden.seen
    assert hidden.pos == pytest.approx(clear.pos, abs=1e-6)
    assert clear.pos == pytest.approx(pos, abs=0.003)


def test_a_bowl_that_was_half_hidden_at_first_is_corrected_by_a_better_view():
    follow, pos = tracker(BLUE_BOWL), at(0.2, 0.15, 0.0)
    pictures = views((BLUE_BOWL, pos))
    pictures["side"][:, :48] = (220, 180, 30)
    follow.update(pictures)
    assert follow.update(views((BLUE_BOWL, pos))).place.pos == pytest.approx(pos, abs=0.003)


def test_a_bowl_that_was_knocked_away_is_followed():
    follow, pos = tracker(BLUE_BOWL), at(0.2, 0.15, 0.0)
    follow.update(views((BLUE_BOWL, pos)))
    found = follow.update(views((BLUE_BOWL, at(0.23, 0.13, 0.0)))).place
    assert found.pos == pytest.approx(at(0.23, 0.13, 0.0), abs=0.003)


def test_a_reset_forgets():
    follow = tracker()
    follow.update(views((RED_CUBE, at(0.17, -0.1))))
    follow.reset()
    assert follow.update({}).thing.pos == pytest.approx(at(0.22, 0.0))


def test_thing_and_place_of_one_colour_are_refused():
    with pytest.raises(ValueError, match="one colour"):
        tracker(Item("bowl", "red"))


@pytest.mark.parametrize("kind", ["bowl", "marker", "cube"])
@pytest.mark.parametrize(("thing", "place"), [("red", "blue"), ("green", "red"), ("blue", "green")])
def test_the_twins_table_is_seen_to_a_few_millimetres_from_the_first_picture(kind, thing, place):
    layout = Layout(thing=Item("cube", thing), place=Item(kind, place))
    twin = Twin(layout)
    errors = []
    for seed in range(4):
        twin.reset(seed)
        images = {name: frame.image for name, frame in twin.frames().items()}
        found = Tracker(twin.cameras, layout).update(images)
        truth = twin.truth()
        errors += [found.thing.pos - truth.thing, found.place.pos - truth.place]
    assert np.linalg.norm(errors, axis=1).max() < 0.005
