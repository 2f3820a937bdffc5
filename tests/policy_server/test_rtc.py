import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policy_server.rtc import (
    cross_fade,
    ensemble,
    guidance_coefficient,
    guided_velocity,
    prefix_weights,
    roll_forward,
    slew_limited,
)

SCHEDULES = ["exp", "linear", "ones", "zeros"]
degrees = st.floats(-180, 180, width=32)


def chunks(rows: int):
    return arrays(np.float32, (rows, 6), elements=degrees)


def paper_weight(i: int, horizon: int, delay: int, executed: int) -> float:
    """W of arXiv 2506.07339, where `executed` is s."""
    if i < delay:
        return 1.0
    if i >= horizon - executed:
        return 0.0
    c = (horizon - executed - i) / (horizon - executed - delay + 1)
    return c * (math.exp(c) - 1) / (math.e - 1)


@pytest.mark.parametrize(
    ("horizon", "delay", "executed"), [(8, 3, 2), (50, 6, 25), (10, 0, 1), (10, 5, 5), (1, 0, 0)]
)
def test_weights_are_those_of_the_paper(horizon, delay, executed):
    ours = prefix_weights(horizon, delay=delay, overlap=horizon - executed)
    paper = [paper_weight(i, horizon, delay, executed) for i in range(horizon)]
    np.testing.assert_allclose(ours, paper, atol=1e-15)


def test_linear_weights_are_those_of_the_example_in_the_paper_s_code():
    ours = prefix_weights(10, delay=2, overlap=6, schedule="linear")
    np.testing.assert_allclose(ours, [1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0], atol=1e-15)


@given(st.integers(0, 60), st.integers(0, 70), st.integers(0, 70), st.sampled_from(SCHEDULES))
def test_weights_are_one_then_fall_and_end_at_the_overlap(horizon, delay, overlap, schedule):
    weights = prefix_weights(horizon, delay=delay, overlap=overlap, schedule=schedule)
    assert weights.shape == (horizon,)
    assert (weights[: min(delay, overlap)] == 1.0).all()
    assert (weights[overlap:] == 0.0).all()
    assert (np.diff(weights) <= 0.0).all()


@pytest.mark.parametrize(("delay", "overlap"), [(-1, 3), (1, -3)])
def test_negative_delays_and_overlaps_are_refused(delay, overlap):
    with pytest.raises(ValueError, match="must not be negative"):
        prefix_weights(8, delay=delay, overlap=overlap)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="no schedule 'cosine'"):
        prefix_weights(8, delay=1, overlap=4, schedule="cosine")


@pytest.mark.parametrize("t", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_the_coefficient_is_that_of_the_paper(t):
    r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
    assert guidance_coefficient(t, limit=5.0) == pytest.approx(min(5.0, (1 - t) / (t * r2)))


def test_the_coefficient_is_a_number_at_both_ends():
    assert (guidance_coefficient(0.0, limit=5.0), guidance_coefficient(1.0, limit=5.0)) == (5, 0)


def toy_flow(seed: int, size: int = 12):
    """A nonlinear velocity of time 0 to 1, and its derivative by hand."""
    random = np.random.default_rng(seed)
    inward, outward = random.normal(size=(2, size, size)) / np.sqrt(size)

    def velocity(x):
        return np.tanh(x @ inward) @ outward

    def derivative(x):  # element [i, j] is that of output j by input i
        return inward @ np.diag(1 - np.tanh(x @ inward) ** 2) @ outward

    return velocity, derivative, random


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7])
def test_the_guided_velocity_is_the_paper_s_formula_with_the_true_derivative(t):
    velocity, derivative, random = toy_flow(1)
    x, target, weights = random.normal(size=(3, 12))
    clean = x + (1 - t) * velocity(x)
    jacobian = np.empty((12, 12))
    for i, step in enumerate(1e-6 * np.eye(12)):
        ahead, behind = (y + (1 - t) * velocity(y) for y in (x + step, x - step))
        jacobian[:, i] = (ahead - behind) / 2e-6
    beta = guidance_coefficient(t, limit=5.0)
    paper = velocity(x) + beta * ((target - clean) * weights) @ jacobian

    def vjp(error):
        return error + (1 - t) * derivative(x) @ error

    ours = guided_velocity(velocity(x), clean, target, weights, coefficient=beta, vjp=vjp)
    np.testing.assert_allclose(ours, paper, atol=1e-7)


def test_without_a_derivative_the_error_itself_guides():
    ours = guided_velocity(*np.array([[1.0], [2.0], [5.0], [0.5]]), coefficient=4.0)
    np.testing.assert_array_equal(ours, [1.0 + 4.0 * (5.0 - 2.0) * 0.5])


lengths = st.tuples(st.integers(0, 12), st.integers(0, 12))


@settings(max_examples=60, deadline=None)
@given(
    lengths.flatmap(lambda n: st.tuples(chunks(n[0]), chunks(n[1]))),
    st.integers(0, 14),
    st.integers(0, 14),
    st.sampled_from(SCHEDULES),
)
def test_a_fade_goes_from_the_old_rows_to_the_new_and_between_them(pair, delay, overlap, schedule):
    old, new = pair
    faded = cross_fade(old, new, delay=delay, overlap=overlap, schedule=schedule)
    assert (faded.shape, faded.dtype) == (new.shape, np.float32)
    both = min(len(old), len(new))
    kept, end = min(delay, both), min(max(delay, overlap), both)
    np.testing.assert_array_equal(faded[:kept], old[:kept])
    np.testing.assert_array_equal(faded[end:], new[end:])
    low, high = np.minimum(old[:both], new[:both]), np.maximum(old[:both], new[:both])
    assert ((low - 1e-4 <= faded[:both]) & (faded[:both] <= high + 1e-4)).all()


def test_a_fade_weighs_by_the_soft_mask():
    old, new = np.ones((8, 1), np.float32), np.zeros((8, 1), np.float32)
    faded = cross_fade(old, new, delay=2, overlap=6)
    np.testing.assert_allclose(faded[:, 0], prefix_weights(8, delay=2, overlap=6), atol=1e-7)


def test_a_long_fade_has_less_than_a_third_of_the_jump_of_a_switch():
    old, new = np.zeros((20, 6), np.float32), np.full((20, 6), 9.0, np.float32)
    faded = cross_fade(old, new, delay=4, overlap=20)
    assert np.abs(np.diff(faded, axis=0)).max() <= 0.3 * 9.0


max_steps = arrays(np.float64, 6, elements=st.floats(0, 20))


@settings(max_examples=60, deadline=None)
@given(chunks(10), arrays(np.float32, 6, elements=degrees), max_steps)
def test_no_row_is_further_from_the_one_before_than_the_limit(rows, last, max_step):
    limited = slew_limited(rows, last=last, max_step=max_step)
    changes = np.diff(np.vstack([last, limited]).astype(np.float64), axis=0)
    assert (np.abs(changes) <= max_step + 1e-4).all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (10, 6), elements=st.floats(-1, 1, width=32)), max_steps)
def test_rows_within_the_limit_are_left_alone(shares, max_step):
    last = np.zeros(6, np.float32)
    rows = np.cumsum(shares * max_step, axis=0).astype(np.float32)
    within = max_step + 1e-4
    np.testing.assert_array_equal(slew_limited(rows, last=last, max_step=within), rows)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, 6, elements=degrees))
def test_limited_rows_reach_what_they_follow_and_stay_with_it(goal):
    rows = np.tile(goal, (100, 1))
    limited = slew_limited(rows, last=np.zeros(6, np.float32), max_step=np.full(6, 2.0))
    np.testing.assert_array_equal(limited[-9:], rows[-9:])


def test_a_joint_without_a_limit_is_left_alone():
    rows = np.array([[50.0, 50.0]], np.float32)
    limited = slew_limited(rows, last=np.zeros(2, np.float32), max_step=np.array([3.0, np.inf]))
    np.testing.assert_array_equal(limited, [[3.0, 50.0]])


@pytest.mark.parametrize("step", [-1.0, np.nan])
def test_a_limit_that_is_none_is_refused(step):
    rows = np.zeros((1, 1), np.float32)
    with pytest.raises(ValueError, match="must not be negative"):
        slew_limited(rows, last=rows[0], max_step=np.array([step]))


@pytest.mark.parametrize(("delay", "expected"), [(0, 7.0), (1, 0.0), (3, 2.0), (9, 4.0)])
def test_the_state_rolls_forward_to_the_last_row_carried_out(delay, expected):
    rows = np.arange(5, dtype=np.float32)[:, None]
    assert roll_forward(np.array([7.0], np.float32), rows, delay=delay) == [expected]


def test_rows_that_are_no_joint_positions_roll_no_state_forward():
    with pytest.raises(ValueError, match="are no positions"):
        roll_forward(np.zeros(6, np.float32), np.zeros((3, 4), np.float32), delay=1)


def test_an_ensemble_weighs_what_was_said_of_a_step_by_age():
    said = [
        (0, np.array([[9.0], [9.0]], np.float32)),
        (1, np.array([[0.0], [1.0], [2.0]], np.float32)),
        (2, np.array([[5.0], [6.0]], np.float32)),
    ]
    second = math.exp(-0.5)
    expected = (1.0 + second * 5.0) / (1.0 + second)
    np.testing.assert_allclose(ensemble(said, 2, decay=0.5), [expected], rtol=1e-6)


def test_one_chunk_alone_is_its_own_ensemble_and_none_is_none():
    said = [(3, np.array([[0.1]], np.float32))]
    np.testing.assert_array_equal(ensemble(said, 3), np.array([0.1], np.float32))
    assert (ensemble(said, 2), ensemble(said, 4)) == (None, None)
