"""Tables that differ from scene to scene."""

import copy

import mujoco
import numpy as np
import pytest

from robot.arm import frozen
from robot.perturbation import Perturbation
from robot.scene import Item, Layout
from robot.tracking import Tracker
from robot.twin import Twin
from robot.twin_model import PRESETS, TIMESTEP_S, VIEWS, build_model
from robot.twin_variation import Variation
from robot.vision import Image

LAYOUT = Layout(thing=Item("cube", "red"), place=Item("bowl", "blue"))
MODEL = build_model(Layout(thing=Item("cube", "red")), PRESETS["stiff"])
STRETCHED = frozen([0.0, 20.0, 10.0, 20.0, 90.0, 45.0])


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin(LAYOUT, variation=1.0)


def picture(twin: Twin, seed: int):
    twin.reset(seed=seed)
    return twin.frames()["front"].image


def test_every_scene_is_drawn_differently_and_a_seed_brings_it_back(twin: Twin) -> None:
    first, other = picture(twin, 1), picture(twin, 2)
    assert np.abs(first.astype(int) - other).mean() > 2
    np.testing.assert_array_equal(picture(twin, 1), first)


def test_other_twins_stay_as_they_were(twin: Twin) -> None:
    plain = Twin(LAYOUT)
    before = picture(plain, 3)
    picture(twin, 4)
    np.testing.assert_array_equal(picture(plain, 3), before)


def test_the_cameras_are_believed_to_stand_where_they_were_calibrated(twin: Twin) -> None:
    plain = Twin(LAYOUT)
    twin.reset(seed=5)
    for name, camera in twin.cameras.items():
        np.testing.assert_array_equal(camera.pos, plain.cameras[name].pos)


def test_the_arm_keeps_its_colour(twin: Twin) -> None:
    """Its plastic is yellow: strong in red and green, weak in blue."""
    plain = _yellow(picture(Twin(LAYOUT), 6))
    for seed in range(5):
        assert _yellow(picture(twin, seed)) > plain / 2


def _yellow(image: Image) -> int:
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    return int(((red > 60) & (green > 45) & (blue < green / 2)).sum())


def test_the_eyes_still_find_cube_and_bowl(twin: Twin) -> None:
    tracker = Tracker(twin.cameras, LAYOUT)
    for seed in range(10):
        twin.reset(seed=seed)
        tracker.reset()
        images = {name: frame.image for name, frame in twin.frames().items()}
        estimates = tracker.update(images)
        assert estimates.thing.seen
        assert np.linalg.norm(estimates.thing.pos - twin.truth().thing) < 0.03


def test_a_strength_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variation is 2\.0"):
        Twin(LAYOUT, variation=2.0)


def arm(preset: str = "stiff", **changes: float) -> Twin:
    """Return a twin without cameras that differs in these from the nominal one."""
    layout, change = Layout(thing=Item("cube", "red")), Perturbation(**changes)
    return Twin(layout, preset=preset, cameras=(), perturbation=change)


def drawn(seed: int = 0, **changes: float) -> mujoco.MjModel:
    """Return a model with these changes, drawn twice, so that none may add up."""
    model = copy.deepcopy(MODEL)
    variation = Variation(model, always=Perturbation(**changes))
    for number in (seed, seed + 1):
        variation.draw(np.random.default_rng(number))
    return model


def sag(twin: Twin) -> float:
    """Return how far below its goal a stretched arm's shoulder comes to rest, degrees."""
    twin.reset(seed=0)
    twin.put(joint_pos=STRETCHED)
    twin.command(STRETCHED)
    twin.clock.sleep_until(twin.time + 2.0)
    return float(twin.joint_pos()[1] - STRETCHED[1])


def reaction_s(twin: Twin, seed: int = 0) -> float:
    """Return how long after a command the pan moves."""
    twin.reset(seed=seed)
    sent, before = twin.time, twin.joint_pos()
    twin.command(before + 10.0 * np.eye(6)[0])
    while abs(twin.joint_pos()[0] - before[0]) < 0.2:
        twin.clock.sleep_until(twin.time + TIMESTEP_S)
    return twin.time - sent


def test_a_third_more_weight_or_less_gain_lets_a_compliant_arm_sag_as_much_further() -> None:
    nominal = sag(arm("compliant"))
    assert nominal > 1.5
    assert sag(arm("compliant", weight=1.3)) == pytest.approx(1.3 * nominal, rel=0.1)
    assert sag(arm("compliant", stiffness=0.7)) == pytest.approx(nominal / 0.7, rel=0.1)


@pytest.mark.parametrize(("backlash_deg", "follows"), [(0.0, True), (1.0, False)])
def test_backlash_swallows_a_motion_that_turns_back(backlash_deg: float, follows: bool) -> None:
    twin = arm(backlash_deg=backlash_deg)
    twin.reset(seed=0)
    pan = np.eye(6)[0]
    far = twin.joint_pos() + 5.0 * pan
    ends: list[float] = []
    for target in (far, far - 0.8 * pan):
        twin.command(target)
        twin.clock.sleep_until(twin.time + 1.0)
        ends.append(twin.joint_pos()[0])
    assert (ends[0] - ends[1] > 0.4) == follows


def test_a_delay_is_what_a_command_takes_longer() -> None:
    late = reaction_s(arm(delay_s=0.05)) - reaction_s(arm())
    assert late == pytest.approx(0.05, abs=TIMESTEP_S + 1e-9)


def test_a_delay_below_0_makes_a_late_arm_quicker_and_never_one_that_knows_before() -> None:
    late, nominal = (reaction_s(one) for one in (arm("compliant"), arm()))
    assert reaction_s(arm("compliant", delay_s=-0.04)) == pytest.approx(late - 0.04, abs=0.006)
    assert reaction_s(arm(delay_s=-0.04)) == pytest.approx(nominal)


def test_jitter_takes_another_time_for_every_command_and_none_overtakes() -> None:
    twin = arm(jitter_s=0.1)
    base = reaction_s(arm())
    late = [reaction_s(twin, seed) - base for seed in range(12)]
    assert -1e-9 <= min(late) < 0.04
    assert 0.06 < max(late) <= 0.1 + TIMESTEP_S
    for seed in range(12):
        twin.reset(seed=seed)
        start = twin.joint_pos()
        for share in (1.0, 0.0):
            twin.command(start + 10.0 * share * np.eye(6)[0])
        twin.clock.sleep_until(twin.time + 0.6)
        np.testing.assert_allclose(twin.joint_pos(), start, atol=0.5)


def test_a_smoothed_arm_starts_gently_and_arrives_where_it_is_told() -> None:
    speeds: list[float] = []
    for twin in (arm(), arm(smoothing_s=0.1)):
        twin.reset(seed=0)
        pan = [twin.joint_pos()[0]]
        twin.command(twin.joint_pos() + 10.0 * np.eye(6)[0])
        for _ in range(200):
            twin.clock.sleep_until(twin.time + TIMESTEP_S)
            pan.append(twin.joint_pos()[0])
        assert pan[-1] - pan[0] == pytest.approx(10.0, abs=0.3)
        speeds.append(float(np.diff(pan).max()) / TIMESTEP_S)
    assert speeds[1] < 0.7 * speeds[0]


def test_a_smoothed_arm_follows_while_commands_are_still_on_their_way() -> None:
    twin = arm(smoothing_s=0.05, delay_s=0.08)
    twin.reset(seed=0)
    start, moved = twin.joint_pos(), 0.0
    for tick in range(1, 21):
        twin.command(start + tick * np.eye(6)[0])
        twin.clock.sleep_until(twin.time + 0.05)
        moved = twin.joint_pos()[0] - start[0]
    assert moved == pytest.approx(17.4, abs=1.0)


def test_a_dropped_frame_brings_the_one_before_again_with_its_stamp() -> None:
    twin = Twin(LAYOUT, cameras=("front",), perturbation=Perturbation(dropped=0.3))
    twin.reset(seed=0)
    before, old = twin.frames()["front"], 0
    assert before.stamp == twin.time
    for _ in range(40):
        twin.clock.sleep_until(twin.time + 0.05)
        frame = twin.frames()["front"]
        old += frame is before
        assert frame.stamp == (before.stamp if frame is before else twin.time)
        before = frame
    assert 4 <= old <= 20


def test_after_a_pause_or_a_reset_no_frame_is_an_old_one() -> None:
    twin = Twin(LAYOUT, cameras=("front",), perturbation=Perturbation(dropped=0.9))
    for seed in range(5):
        twin.reset(seed=seed)
        assert twin.frames()["front"].stamp == twin.time
        twin.clock.sleep_until(twin.time + 0.5)
        assert twin.frames()["front"].stamp == twin.time


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("friction", "geom_friction"),
        ("joint_friction", "dof_frictionloss"),
        ("joint_friction", "dof_damping"),
        ("stiffness", "actuator_gainprm"),
    ],
)
def test_a_share_is_of_the_nominal_value_in_every_scene(name: str, field: str) -> None:
    nominal, changed = (getattr(model, field) for model in (MODEL, drawn(**{name: 0.7})))
    index = np.unravel_index(nominal.argmax(), nominal.shape)
    assert changed[index] == pytest.approx(0.7 * nominal[index])


def test_every_lamp_gives_its_share_of_light() -> None:
    dark = drawn(light=0.5)
    np.testing.assert_allclose(dark.light_diffuse, 0.5 * MODEL.light_diffuse)
    for name in ("ambient", "diffuse"):
        before, after = (getattr(one.vis.headlight, name) for one in (MODEL, dark))
        np.testing.assert_allclose(after, 0.5 * before, rtol=1e-6)


def test_cameras_stand_exactly_as_far_off_in_other_directions_each_time() -> None:
    one, other = (drawn(seed, camera_m=0.004, camera_deg=0.7) for seed in (3, 8))
    for name in VIEWS:
        camera = MODEL.camera(name).id
        for model in (one, other):
            moved = model.cam_pos[camera] - MODEL.cam_pos[camera]
            assert np.linalg.norm(moved) == pytest.approx(0.004)
            turn = abs(float(model.cam_quat[camera] @ MODEL.cam_quat[camera]))
            assert np.rad2deg(2 * np.arccos(turn)) == pytest.approx(0.7, rel=1e-3)
        assert np.linalg.norm(one.cam_pos[camera] - other.cam_pos[camera]) > 1e-4


def test_every_colour_is_another_shade_by_its_share() -> None:
    model = drawn(shade=0.1)
    cube = MODEL.geom("thing").id
    shares = model.geom_rgba[cube, :3] / MODEL.geom_rgba[cube, :3]
    np.testing.assert_allclose(np.abs(shares - 1.0), 0.1, rtol=1e-4)


def test_another_arm_in_every_scene_and_the_same_for_the_same_seed() -> None:
    twin = Twin(LAYOUT, preset="compliant", cameras=(), arm_variation=1.0)
    times = [reaction_s(twin, seed) for seed in (1, 2, 3, 4, 1)]
    assert len(set(times[:4])) > 1
    assert times[0] == pytest.approx(times[4])


def test_another_arm_leaves_the_table_as_it_was_drawn(twin: Twin) -> None:
    """All but where the arm has sagged to, a few pixels."""
    both = Twin(LAYOUT, variation=1.0, arm_variation=1.0)
    for seed in (1, 2):
        assert (picture(both, seed) != picture(twin, seed)).mean() < 0.01


def test_an_arm_s_strength_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"arm_variation is -1\.0"):
        Twin(LAYOUT, arm_variation=-1.0)
