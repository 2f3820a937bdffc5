from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarder.goal import parse_goal
from rewarder.heuristic import HeuristicReward, Judge, looks_held
from rewarder.reward import NoScore
from robot.camera import encode_jpeg
from robot.kinematics import jaw_centre
from robot.tracking import Estimate, Estimates

BOWL = np.array([0.20, 0.15, 0.0])
CUBE = np.array([0.22, -0.05, 0.0125])
GOAL = "Put the red cube in the blue bowl."
UP = np.array([0.0, 0.0, 1.0])
BLACK = encode_jpeg(np.zeros((96, 96, 3), np.uint8))


def table(cube, bowl=BOWL):
    return [("bowl", "blue", bowl), ("cube", "red", cube)]


@pytest.fixture(scope="module")
def placing(film):
    in_bowl = BOWL + 0.0155 * UP
    over = BOWL + 0.06 * UP
    return film(
        GOAL,
        [
            (table(CUBE), CUBE + 0.12 * UP, 45.0, 45.0),
            (table(CUBE), CUBE, 45.0, 45.0),
            (table(CUBE), CUBE, 15.0, 0.0),
            (table(CUBE + 0.05 * UP), CUBE + 0.05 * UP, 15.0, 0.0),
            (table(over), over, 15.0, 0.0),
            (table(in_bowl), over, 35.0, 45.0),
            (table(in_bowl), in_bowl + 0.09 * UP, 45.0, 45.0),
            (table(in_bowl), in_bowl + 0.12 * UP, 45.0, 45.0),
        ],
    )


@pytest.fixture
def model(cameras):
    return HeuristicReward(cameras)


def with_pictures(clip, camera, pictures):
    return replace(clip, frames={**clip.frames, camera: pictures})


def test_placing_succeeds_once_the_open_gripper_has_left_the_cube_in_the_bowl(model, placing):
    score = model.score(placing)
    assert score.success.tolist() == [False] * 6 + [True] * 2
    assert score.valid.all()


def test_every_way_of_pushing_to_the_marker_grows(model, film):
    marker, way = CUBE + np.array([0.0, 0.1, -0.0125]), np.array([0.0, 0.02, 0.0])
    behind = np.array([0.0, -0.045, 0.005])
    cubes = [CUBE + min(step, 5) * way for step in range(7)]
    steps = [
        ([("marker", "blue", marker), ("cube", "red", cube)], cube + behind, 0.0, 0.0)
        for cube in cubes
    ]
    score = model.score(film("Push the red cube to the blue marker.", steps))
    assert (np.diff(score.progress[:5]) > 0).all()
    assert score.success.tolist() == [False] * 6 + [True]


def test_progress_grows_with_every_stage(model, placing):
    assert (np.diff(model.score(placing).progress[:7]) > 0).all()


@pytest.mark.parametrize("picture", [BLACK, b"", b"\xff\xd8 not a picture \xff\xd9"])
def test_an_observation_with_a_useless_picture_is_not_valid(model, placing, picture):
    pictures = [*placing.frames["front"][:-1], picture]
    score = model.score(with_pictures(placing, "front", pictures))
    assert score.valid.tolist() == [True] * 7 + [False]
    assert not score.success[-1]


def test_a_picture_of_another_size_is_useless(model, placing):
    large = encode_jpeg(np.random.default_rng(0).integers(0, 255, (192, 96, 3), np.uint8))
    score = model.score(with_pictures(placing, "side", [large] * len(placing)))
    assert not score.valid.any()


def test_a_camera_that_freezes_while_the_arm_moves_is_useless(model, placing):
    slow = replace(placing, stamps=2.0 * np.arange(len(placing)))
    frozen = with_pictures(slow, "side", [placing.frames["side"][0]] * len(placing))
    assert model.score(slow).valid.all()
    assert not model.score(frozen).valid[2:].any()


def test_without_a_sight_of_the_thing_nothing_is_valid(model, film):
    steps = [([("bowl", "blue", BOWL)], CUBE + 0.1 * UP, 45.0, 45.0)] * 3
    assert not model.score(film(GOAL, steps)).valid.any()


def test_a_hidden_thing_is_remembered_for_a_second(model, film):
    hidden = [([("bowl", "blue", BOWL)], CUBE + 0.1 * UP, 45.0, 45.0)] * 3
    seen = [(table(CUBE), CUBE + 0.1 * UP, 45.0, 45.0)]
    score = model.score(film(GOAL, [*seen, *hidden], hz=2.0))
    assert score.valid.tolist() == [True, True, True, False]


def test_a_place_that_was_never_seen_leaves_nothing_valid(model, film):
    steps = [([("cube", "red", CUBE)], CUBE + 0.1 * UP, 45.0, 45.0)] * 2
    assert not model.score(film(GOAL, steps)).valid.any()


def test_colours_of_the_goal_decide_what_is_looked_at(model, placing):
    other = replace(placing, goal="Put the green cube in the blue bowl.")
    assert not model.score(other).valid.any()


def test_an_unknown_goal_is_no_score_and_no_use_to_repeat(model, placing):
    with pytest.raises(NoScore, match="known forms") as refusal:
        model.score(replace(placing, goal="Do not put the red cube in the blue bowl."))
    assert not refusal.value.retry


def test_a_clip_of_unknown_cameras_is_no_score(placing, cameras):
    with pytest.raises(NoScore, match="calibrate-camera"):
        HeuristicReward({"top": cameras["front"]}).score(placing)


def test_a_clip_may_bring_its_own_cameras(model, placing, cameras):
    score = HeuristicReward().score(replace(placing, cameras=cameras))
    assert np.array_equal(score.progress, model.score(placing).progress)


def test_a_joint_that_is_not_finite_is_no_score(model, placing):
    with pytest.raises(NoScore, match="not finite"):
        model.score(replace(placing, joint_pos=np.full((8, 6), np.nan)))


@pytest.mark.parametrize(
    ("measured", "commanded", "apart", "held"),
    [
        (15.0, 0.0, 0.0, True),
        (15.0, 15.0, 0.0, False),
        (0.0, 0.0, 0.0, False),
        (45.0, 0.0, 0.0, False),
        (15.0, 0.0, 0.05, False),
    ],
)
def test_a_thing_is_held_when_it_blocks_closing_jaws(measured, commanded, apart, held):
    joints = np.array([0.0, -40.0, 38.0, 88.0, 90.0, measured])
    target = np.array([*joints[:5], commanded])
    jaw = jaw_centre(joints)
    assert looks_held(joints, target, jaw + apart * UP, jaw) is held


@given(st.binary(max_size=200).map(lambda data: b"\xff\xd8" + data + b"\xff\xd9"))
def test_no_bytes_in_place_of_a_picture_do_any_harm(cameras, clip, data):
    score = HeuristicReward(cameras).score(with_pictures(clip, "front", [data] * len(clip)))
    assert not score.valid.any()


def test_the_camera_file_of_the_twin_is_the_twins(cameras):
    twin_module = pytest.importorskip("robot.twin")
    from rewarder.goal import task_goal  # noqa: PLC0415

    twin = twin_module.Twin(task_goal("place").layout)
    for name, camera in twin.cameras.items():
        assert np.allclose(camera.matrix, cameras[name].matrix)
        assert np.allclose(camera.pos, cameras[name].pos)
        assert np.allclose(camera.rot, cameras[name].rot, atol=1e-9)


@pytest.mark.parametrize(("pause", "rests"), [(0.1, False), (2.0, True)])
def test_what_is_seen_aside_after_a_pause_has_not_moved_as_it_would_have_in_a_step(
    cameras, pause, rests
):
    def estimates(thing):
        return Estimates(thing=Estimate(pos=thing, seen=True), place=Estimate(pos=bowl, seen=True))

    bowl = np.array([0.2, 0.05, 0.0])
    inside, away = bowl + [0.0, 0.0, 0.0125], np.array([-80.0, -97.0, 92.0, 45.0, 90.0, 40.0])
    judge = Judge(parse_goal("Put the red cube in the blue bowl."), cameras)
    judge.consider(estimates(inside), away, away, 5.0)
    seen = estimates(inside + [0.01, 0.0, 0.0])
    assert judge.consider(seen, away, away, 5.0 + pause)[0] is rests
