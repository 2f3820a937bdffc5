import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rewarder.curves import (
    BadCalibration,
    Isotonic,
    Platt,
    expected_calibration_error,
    fit_curve,
    nll,
    out_of_fold,
    sigmoid,
)


def draws(seed, n, *, a=1.0, b=0.0, spread=3.0):
    """Return log-odds, and labels whose true log-odds are a · x + b."""
    rng = np.random.default_rng(seed)
    x = spread * rng.standard_normal(n)
    return x, rng.random(n) < sigmoid(a * x + b)


def smoothed(label):
    yes, no = label.sum(), (~label).sum()
    return np.where(label, (yes + 1) / (yes + 2), 1 / (no + 2))


def test_platt_finds_the_optimum_that_a_general_minimiser_finds():
    x, label = draws(0, 300, a=0.4, b=1.0)
    target = smoothed(label)

    def loss(p):
        score = p[0] * x + p[1]
        return (np.logaddexp(0, score) - target * score).sum()

    best = minimize(loss, [0.0, 0.0], tol=1e-12).x
    fit = Platt.fit(x, label)
    np.testing.assert_allclose([fit.a, fit.b], best, atol=1e-4)


def test_platt_undoes_overconfidence():
    x, label = draws(1, 4000, a=0.3, b=-0.5)
    fit = Platt.fit(x, label)
    assert fit.a == pytest.approx(0.3, abs=0.04)
    assert fit.b == pytest.approx(-0.5, abs=0.1)


def full_steps(x, label):
    """Return what Newton steps of full length make of the model's own log-odds."""
    target, design = smoothed(label), np.stack([x, np.ones_like(x)], axis=1)
    w = np.array([1.0, 0.0])
    for _ in range(30):
        p = sigmoid(design @ w)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        w = w - np.linalg.solve(hessian, design.T @ (p - target))
    return Platt(*w)


def test_the_likelihood_gets_better_where_full_newton_steps_leave_for_infinity():
    rng = np.random.default_rng(0)
    label = np.arange(50) < 40
    x = np.where(label, 1, -1) * rng.exponential(4.0, 50) + rng.normal(0.0, 4.0, 50)
    lost, fit = full_steps(x, label), Platt.fit(x, label)
    own = nll(sigmoid(x), label)
    assert abs(lost.a) > 1e6
    assert nll(lost.probability(x), label) > own
    assert nll(fit.probability(x), label) < own


def test_labels_that_separate_have_a_finite_fit():
    x = np.concatenate([np.linspace(-9, -4, 25), np.linspace(4, 9, 25)])
    fit = Platt.fit(x, x > 0)
    assert 0 < fit.a < 1
    assert abs(fit.b) < 1e-6


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(10, 80),
    scale=st.floats(0.01, 200.0),
    shift=st.floats(-300.0, 300.0),
)
def test_the_smoothed_loss_never_rises_whatever_the_log_odds(seed, n, scale, shift):
    x, label = draws(seed, n)
    label[:2] = (True, False)
    logit = scale * x + shift
    fit = Platt.fit(logit, label)
    assert np.isfinite([fit.a, fit.b]).all()
    target = smoothed(label)

    def loss(a, b):
        score = a * logit + b
        return (np.logaddexp(0, score) - target * score).sum()

    start = np.log((label.sum() + 1) / ((~label).sum() + 1))
    assert loss(fit.a, fit.b) <= loss(0.0, start) + 1e-9


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 200))
def test_an_isotonic_curve_rises_and_is_never_certain(seed, n):
    x, label = draws(seed, n)
    p = Isotonic.fit(np.round(x, 1), label).probability(np.linspace(-50, 50, 300))
    assert (np.diff(p) >= -1e-12).all()
    assert p.min() >= 1 / (n + 2) - 1e-12
    assert p.max() <= 1 - 1 / (n + 2) + 1e-12


def test_few_labels_get_a_line_and_many_the_curve_that_predicts_better():
    x, label = draws(3, 60)
    assert isinstance(fit_curve(x, label), Platt)
    rng = np.random.default_rng(4)
    x = rng.uniform(-6, 6, 2000)
    steps = np.select([x < -2, x < 3], [0.05, 0.5], 0.98)
    assert isinstance(fit_curve(x, rng.random(2000) < steps), Isotonic)


def test_a_model_that_is_more_sure_of_failures_cannot_be_calibrated():
    x, label = draws(5, 100, a=-1.0)
    with pytest.raises(BadCalibration, match="higher log-odds go with failure"):
        fit_curve(x, label)


@pytest.mark.parametrize(("yes", "no"), [(0, 40), (40, 0), (4, 40), (9, 9)])
def test_too_few_labels_are_refused_with_their_number(yes, no):
    label = np.array([True] * yes + [False] * no)
    with pytest.raises(BadCalibration, match=f"{yes} successes and {no} failures"):
        fit_curve(np.arange(yes + no, dtype=float), label)


def test_log_odds_that_are_not_finite_are_refused():
    label = np.arange(40) % 2 == 0
    with pytest.raises(BadCalibration, match="finite"):
        fit_curve(np.full(40, np.nan), label)


def test_what_is_held_out_is_not_seen():
    x, label = draws(6, 50)
    seen = []

    def spy(logit, labels):
        seen.append(set(logit.tolist()))
        return Platt.fit(logit, labels)

    out_of_fold(spy, x, label)
    assert len(seen) == 5
    assert all(len(fold) == 40 for fold in seen)
    assert set.intersection(*seen) == set()


def test_calibration_error_of_a_hand_worked_case():
    # Bin 0.2..0.3: mean 0.25, one of four; bin 0.9..1: mean 0.95, one of two.
    p = np.array([0.25, 0.25, 0.25, 0.25, 0.95, 0.95])
    label = np.array([True, False, False, False, True, False])
    assert expected_calibration_error(p, label) == pytest.approx(2 / 6 * 0.45)


def test_the_likelihood_of_certainty_that_was_wrong_is_finite():
    assert np.isfinite(nll(np.array([0.0, 1.0]), np.array([True, False])))
