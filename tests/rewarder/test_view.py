from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarder.client import RemoteReward
from rewarder.faults import picture_fault
from rewarder.goal import task_goal
from rewarder.heuristic import HeuristicReward
from rewarder.reward import Clip
from rewarder.view import MAX_JPEG_BYTES, View, load_references
from robot.arm import LOOK_POSE
from robot.camera import encode_jpeg
from robot.pictures import any_picture, jpeg_size
from robot.vision import CameraModel

LOOK = np.array([*LOOK_POSE, 45.0])
AT_WORK = np.array([10.0, -15.0, 15.0, 85.0, 90.0, 30.0])


@pytest.fixture(scope="module")
def twin():
    robot_twin = pytest.importorskip("robot.twin")
    return robot_twin.Twin(task_goal("place").layout)


def seen(twin, *poses, seed=3, thing=None):
    """Return a clip of the twin's table, an observation a pose, half a second apart."""
    twin.reset(seed)
    frames = {name: [] for name in ("front", "side")}
    for pose in poses:
        twin.put(joint_pos=pose, thing=thing)
        for name, frame in twin.frames().items():
            frames[name].append(encode_jpeg(frame.image))
    joints = np.array(poses)
    return Clip(
        goal="Put the red cube in the blue bowl.",
        stamps=0.5 * np.arange(len(poses)),
        frames=frames,
        joint_pos=joints,
        joint_target=joints,
    )


@pytest.fixture(scope="module")
def sound(twin):
    return seen(twin, LOOK, AT_WORK, AT_WORK + [5, 0, 0, 0, 0, 0], LOOK)


def changed(clip, change, *, camera="side", at=slice(None)):
    """Return a clip with some pictures of a camera changed."""
    pictures = list(clip.frames[camera])
    pictures[at] = [encode_jpeg(change(any_picture(data))) for data in pictures[at]]
    return replace(clip, frames={**clip.frames, camera: pictures})


def brighter(gain):
    return lambda image: np.clip(image * float(gain), 0, 255).astype(np.uint8)


def blurred(sigma):
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


def aside(right, down):
    matrix = np.array([[1.0, 0.0, right], [0.0, 1.0, down]])
    return lambda image: cv2.warpAffine(
        image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE
    )


def test_a_moment_shows_the_views_side_by_side(sound):
    pictures = [any_picture(sound.frames[name][0]) for name in ("side", "front")]
    shown = View(cameras=["side", "front"], exposure=None).moment(sound, 0)
    assert np.array_equal(shown, np.hstack(pictures))


@given(
    st.sampled_from([24, 28, 32]),
    st.integers(1, 8),
    st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.6, 1), st.floats(0.6, 1)),
)
def test_every_size_is_a_multiple_of_what_the_tower_wants(clip, multiple, rows, roi):
    view = View(height=multiple * rows, multiple=multiple, rois={"front": roi})
    height, width, _ = view.moment(clip, 0).shape
    assert height == multiple * rows
    assert width % multiple == 0


def test_a_region_of_interest_is_what_is_shown(sound):
    left = View(cameras=["front"], rois={"front": (0, 0, 0.5, 1)}, exposure=None)
    whole = any_picture(sound.frames["front"][0])
    assert np.array_equal(left.moment(sound, 0), whole[:, :48])


def test_a_dark_picture_is_brought_back(sound):
    view = View()
    dark = changed(changed(sound, brighter(0.45)), brighter(0.45), camera="front")
    assert view.faults(dark) == [None] * 4
    apart = np.abs(view.moment(dark, 1).astype(int) - view.moment(sound, 1))
    assert apart.mean() < 4.0
    plain = View(exposure=None)
    assert np.abs(plain.moment(dark, 1).astype(int) - plain.moment(sound, 1)).mean() > 30.0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (np.zeros_like, "black"),
        (brighter(0.2), "too dark"),
        (brighter(3.0), "over-exposed"),
        (blurred(1.5), "blurred"),
    ],
)
def test_a_picture_that_shows_too_little_is_a_fault_at_its_moment(sound, change, fault):
    assert View().faults(changed(sound, change, at=slice(1, 2))) == [None, fault, None, None]


@pytest.mark.parametrize("data", [b"", b"\xff\xd8 cut", b"GIF89a"])
def test_a_picture_that_is_none_is_missing(sound, data):
    clip = replace(sound, frames={**sound.frames, "front": [data] * 4})
    assert View().faults(clip) == ["missing"] * 4
    assert View().moment(clip, 0) is None


def test_a_camera_that_the_clip_lacks_is_missing(sound):
    assert View(cameras=["front", "wrist"]).faults(sound) == ["missing"] * 4


def test_a_picture_that_is_too_large_is_not_even_decoded(sound):
    bomb = bytearray(encode_jpeg(np.zeros((64, 64, 3), np.uint8)))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = (30_000).to_bytes(2) * 2
    clip = replace(sound, frames={**sound.frames, "front": [bytes(bomb)] * 4})
    assert View().faults(clip) == ["missing"] * 4


def test_a_camera_that_repeats_itself_while_the_arm_moves_is_frozen(sound):
    stuck = [sound.frames["side"][0], *sound.frames["side"][1:2] * 3]
    clip = replace(sound, frames={**sound.frames, "side": stuck})
    assert View().faults(clip) == [None, None, "frozen", "frozen"]


def test_a_camera_that_repeats_itself_while_nothing_moves_is_sound(twin):
    still = seen(twin, *[LOOK] * 6)
    assert View().faults(still) == [None] * 6


def test_a_table_without_the_thing_is_not_judged(twin):
    bare = seen(twin, LOOK, thing=np.array([2.0, 2.0, 5.0]))
    assert View().faults(bare) == ["nothing on the table"]
    open_ended = replace(bare, goal="Put the yellow banana in the drawer.")
    assert View().faults(open_ended) == [None]


def references(twin):
    return {name: any_picture(data[0]) for name, data in seen(twin, LOOK, seed=9).frames.items()}


def test_a_camera_is_as_it_was_whatever_lies_on_the_table(twin, sound):
    assert View(references=references(twin)).faults(sound) == [None] * 4


@pytest.mark.parametrize("way", [(7, 0), (0, 7), (-8, 5), (12, 0)])
def test_a_camera_that_was_moved_is_noticed_at_the_next_look(twin, sound, way):
    view = View(references=references(twin))
    moved = changed(sound, aside(*way), at=slice(2, 4))
    # Nobody knows when between the two looks it was moved.
    assert view.faults(moved) == [None, *["camera moved"] * 3]
    before = changed(sound, aside(*way), at=slice(0, 1))
    assert view.faults(before) == [*["camera moved"] * 3, None]


def test_a_reference_of_another_size_counts_as_moved(twin, sound):
    small = {"front": cv2.resize(references(twin)["front"], (64, 64))}
    assert set(View(references=small).faults(sound)) == {"camera moved"}


def test_without_a_look_nothing_is_said_of_where_a_camera_stands(twin, sound):
    view = View(references=references(twin))
    at_work = seen(twin, AT_WORK)
    assert view.faults(changed(at_work, aside(12, 0))) == [None]


def test_the_arm_is_out_of_the_picture_in_the_look_pose(sound):
    assert View().looks(sound).tolist() == [True, False, False, True]


@given(st.integers(0, 2**32 - 1))
def test_a_shrunken_clip_has_small_pictures_and_all_the_rest(seed):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (240, 320, 3), np.uint8)
    clip = Clip(
        goal="Lift the red cube.",
        stamps=np.arange(2.0),
        frames={"front": [encode_jpeg(noise), b""], "wrist": [b"", b""]},
        joint_pos=np.zeros((2, 6)),
        joint_target=np.zeros((2, 6)),
    )
    small = View(height=224, multiple=28, rois={"front": (0.25, 0, 0.75, 1)}).shrink(clip)
    picture, missing = small.frames["front"]
    assert (jpeg_size(picture), missing) == ((140, 224), b"")
    assert len(picture) <= MAX_JPEG_BYTES
    assert small.frames.keys() == {"front"}
    assert small.joint_pos is clip.joint_pos


def test_cameras_of_a_shrunken_clip_still_show_where_things_are(cameras, clip):
    view = View(height=96, rois={"front": (0.1, 0.2, 0.9, 1.0)}, multiple=8)
    small = view.shrink(replace(clip, cameras=cameras))
    whole, cut = cameras["front"], small.cameras["front"]
    (u, v), _ = whole.project(np.array([0.22, 0.03, 0.0125]))
    (x, y), _ = cut.project(np.array([0.22, 0.03, 0.0125]))
    assert isinstance(cut, CameraModel)
    assert jpeg_size(small.frames["front"][0]) == (cut.width, cut.height)
    left, top, right, bottom = 9, 19, 86, 96
    assert x == pytest.approx((u + 0.5 - left) * cut.width / (right - left) - 0.5)
    assert y == pytest.approx((v + 0.5 - top) * cut.height / (bottom - top) - 0.5)


class Keeps:
    """A model that remembers what it was shown."""

    def __init__(self, cameras):
        self.model, self.clips = HeuristicReward(cameras), []

    def score(self, clip):
        self.clips.append(clip)
        return self.model.score(clip)


def test_a_remote_model_gets_small_pictures_only_where_a_view_is_given(served, cameras, clip):
    large = replace(
        clip,
        frames={
            name: [encode_jpeg(cv2.resize(any_picture(data), (480, 480))) for data in pictures]
            for name, pictures in clip.frames.items()
        },
        cameras={name: camera.resized(480, 480) for name, camera in cameras.items()},
    )
    keeps = Keeps(cameras)
    with served(keeps) as url:
        for view in (None, View(height=120)):
            remote = RemoteReward(url, view=view)
            assert remote.score(large).valid.all()
            remote.close()
    sizes = [jpeg_size(sent.frames["front"][0]) for sent in keeps.clips]
    assert sizes == [(480, 480), (120, 120)]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"height": 100}, "multiple of 24"),
        ({"height": 0}, "multiple of 24"),
        ({"cameras": []}, "no camera"),
        ({"rois": {"front": (0.5, 0, 0.5, 1)}}, "region of front"),
        ({"rois": {"front": (0, 0, 1.5, 1)}}, "region of front"),
        ({"rois": {"front": (0, 1)}}, "region of front"),
    ],
)
def test_a_view_that_makes_no_sense_is_refused(how, why):
    with pytest.raises(ValueError, match=why):
        View(**how)


def test_references_are_read_from_a_folder(tmp_path, sound):
    (tmp_path / "front.jpg").write_bytes(sound.frames["front"][0])
    found = load_references(tmp_path, ["front"])
    assert np.array_equal(found["front"], any_picture(sound.frames["front"][0]))
    (tmp_path / "side.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="not a whole JPEG"):
        load_references(tmp_path, ["side"])


@given(st.binary(max_size=300).map(lambda data: b"\xff\xd8" + data + b"\xff\xd9"))
def test_no_bytes_in_place_of_a_picture_do_any_harm(clip, data):
    broken = replace(clip, frames={**clip.frames, "front": [data] * len(clip)})
    assert None not in View().faults(broken)
    assert View().moment(broken, 0) is None


def test_a_picture_of_a_few_pixels_is_a_fault():
    assert picture_fault(np.full((8, 8, 3), 100, np.uint8)) == "wrong size"
