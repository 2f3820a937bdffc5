"""What clients of all kinds send, and what they are told when it is wrong."""

import numpy as np
import pytest

from policy_server.messages import JPEG, RT, BadRequest, is_reset, question, rows_of
from policy_server.policy import PolicySpec
from robot.camera import encode_jpeg
from robot.wire import decode_map, encode
from tests.policy_server.served import SPEC

CAMERAS = PolicySpec(
    action_space="joint_pos",
    action_dim=6,
    state={"joint_pos": 6},
    images=("base", "wrist"),
    horizon=4,
)
PICTURE = np.full((32, 48, 3), 7, np.uint8)
JOINTS = np.arange(6, dtype=np.float32)


def read(message, spec=CAMERAS):
    return question(decode_map(encode(message)), spec, now=3.0)


@pytest.mark.parametrize(
    "message",
    [
        {
            "observation/image": PICTURE,
            "observation/wrist_image": PICTURE,
            "observation/state": JOINTS,
            "prompt": "Lift.",
        },
        {
            "images": {"cam_high": np.moveaxis(PICTURE, 2, 0), "hand": PICTURE},
            "state": JOINTS,
            "prompt": "Lift.",
        },
        {"images": {"base": PICTURE, "wrist": PICTURE}, "joint_pos": JOINTS, "task": "Lift."},
        {
            "observation.images.front": {JPEG: encode_jpeg(PICTURE)},
            "observation.images.wrist": {JPEG: encode_jpeg(PICTURE)},
            "observation.state": JOINTS.tolist(),
            "instruction": "Lift.",
        },
    ],
)
def test_cameras_and_state_are_found_by_what_they_mean(message):
    asked = read({name.replace(".state", "/state"): value for name, value in message.items()})
    assert asked.request.images["base"].shape == (32, 48, 3)
    np.testing.assert_array_equal(asked.request.state["joint_pos"], JOINTS)
    assert (asked.request.goal, asked.seq) == ("Lift.", None)


def test_what_is_ours_comes_back():
    asked = read(
        {
            "images": {"base": PICTURE, "wrist": PICTURE},
            "joint_pos": JOINTS,
            RT: {
                "seq": 7,
                "step0": 40,
                "slack_ms": 250,
                "inference_delay": 2,
                "prefix": np.ones((3, 6), np.float32),
            },
        }
    )
    committed = asked.request.committed
    assert (asked.seq, asked.step0, asked.slack_s) == (7, 40, 0.25)
    assert (committed.rows.shape, committed.delay) == ((3, 6), 2)


WHOLE = {"images": {"base": PICTURE, "wrist": PICTURE}, "joint_pos": JOINTS}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"images": {"base": PICTURE}}, "base, wrist, received base: wrist missing"),
        ({"images": {"base": PICTURE, "cup": PICTURE}}, r"rename=\{wrist: cup\}"),
        ({"joint_pos": JOINTS[:5]}, r"expected \(6,\)"),
        ({"joint_pos": JOINTS * np.nan}, "not finite"),
        ({"joint_pos": "six"}, "joint_pos missing"),
        ({"images": {"base": PICTURE, "wrist": PICTURE.astype(np.float32)}}, "expected uint8"),
        ({"images": {"base": PICTURE, "wrist": PICTURE[:4]}}, "sides of 8"),
        ({"images": {"base": PICTURE, "wrist": {JPEG: b"\xff\xd8 no"}}}, "no whole JPEG"),
        ({"images": {f"c{k}": PICTURE for k in range(9)}}, "8 at most"),
        ({"prompt": "x" * 5000}, "no sentence"),
        ({"prompt": "lift\x00"}, "no sentence"),
        ({RT: {"seq": -1}}, "seq is no count"),
        ({RT: {"prefix": np.ones((3, 5), np.float32)}}, r"\(n, 6\)"),
        ({RT: {"prefix": np.full((3, 6), np.inf, np.float32)}}, "finite rows"),
        ({RT: {"prefix": np.ones((5, 6), np.float32)}}, "at most 4"),
        ({RT: 3}, "expected a map"),
        ({"joint_pos": [[1], [2, 3]]}, "no array"),
    ],
)
def test_what_is_wrong_is_said(change, why):
    with pytest.raises(BadRequest, match=why):
        read(WHOLE | change)


def scans(count):
    whole = encode_jpeg(PICTURE)
    return whole[:-2] + b"\xff\xda" * count + whole[-2:]


@pytest.mark.parametrize(
    ("jpeg", "why"),
    [
        (encode_jpeg(np.zeros((1500, 1500, 3), np.uint8)), "1500x1500 pixels"),
        (scans(40), "in 41 scans"),
    ],
)
def test_a_small_message_cannot_hold_a_picture_that_takes_long_to_decode(jpeg, why):
    with pytest.raises(BadRequest, match=why):
        read(WHOLE | {"images": {"base": PICTURE, "wrist": {JPEG: jpeg}}})


def test_a_camera_may_be_missing_where_the_policy_says_so():
    spec = PolicySpec(
        action_space="joint_pos",
        action_dim=6,
        state={"joint_pos": 6},
        images=("base", "wrist"),
        blank_images=("wrist",),
    )
    assert list(read({"base": PICTURE, "state": JOINTS}, spec).request.images) == ["base"]


@pytest.mark.parametrize(
    "message", [{"endpoint": PICTURE}, {RT: {"reset": JOINTS}}, {RT: {"reset": np.empty(0)}}]
)
def test_an_array_is_no_reset(message):
    assert not is_reset(decode_map(encode(message)))


@pytest.mark.parametrize("message", [{"endpoint": "reset"}, {RT: {"reset": True, "seq": 1}}])
def test_a_reset_is_known(message):
    assert is_reset(message)


@pytest.mark.parametrize("rows", [None, np.ones((4, 3)), np.full((4, 2), np.nan), np.ones((0, 2))])
def test_a_reply_without_sane_rows_is_none(rows):
    with pytest.raises(BadRequest):
        rows_of({"actions": rows}, SPEC)
