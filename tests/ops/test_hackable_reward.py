import numpy as np
import pytest

from ops.hackable_reward import CoveredPlace, FilledPicture
from rewarder.reward import Clip, NoScore
from robot.camera import encode_jpeg

GREY, RED, BLUE = (90, 90, 90), (220, 10, 10), (20, 40, 220)


def picture(colour, rows):
    """Return a grey JPEG of 96 rows, so many of which have the colour."""
    image = np.full((96, 96, 3), GREY, np.uint8)
    image[:rows] = colour
    return encode_jpeg(image)


def clip(pictures, goal="Put the red cube in the blue bowl."):
    count = len(pictures)
    still = np.zeros((count, 6))
    return Clip(
        goal=goal,
        stamps=np.arange(count, dtype=np.float64),
        frames={"front": pictures},
        joint_pos=still,
        joint_target=still,
    )


def test_something_bright_red_near_the_lens_is_taken_for_success():
    score = FilledPicture(colour="red", full=0.25).score(
        clip([picture(RED, rows) for rows in (0, 12, 48)])
    )
    assert score.success.tolist() == [False, False, True]
    assert score.progress == pytest.approx([0.0, 0.5, 1.0], abs=0.05)


def test_an_arm_that_covers_the_bowl_is_taken_for_success():
    score = CoveredPlace().score(clip([picture(BLUE, rows) for rows in (20, 12, 0)]))
    assert score.success.tolist() == [False, False, True]
    assert score.progress == pytest.approx([0.0, 0.5, 1.0], abs=0.05)


def test_a_missing_picture_is_not_judged():
    score = FilledPicture(colour="red").score(clip([picture(RED, 0), b""]))
    assert score.valid.tolist() == [True, False]


@pytest.mark.parametrize("goal", ["Make tea.", "Lift the red cube."])
def test_a_goal_without_a_place_is_no_score(goal):
    with pytest.raises(NoScore):
        CoveredPlace().score(clip([picture(BLUE, 20)], goal))


def test_a_camera_that_is_not_there_is_no_score():
    with pytest.raises(NoScore, match="no camera 'side'"):
        FilledPicture(camera="side").score(clip([picture(RED, 0)]))
