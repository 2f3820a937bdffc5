import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.statistics import (
    PairedTest,
    betting_wealth,
    clopper_pearson_lower,
    kaplan_meier_median,
    mcnemar_exact,
    paired_difference,
    quantile_at_most,
    wilson,
)

counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "trials", "percent"),
    [
        (14, 20, (48, 85)),
        (16, 20, (58, 92)),
        (18, 20, (70, 97)),
        (20, 20, (84, 100)),
        (80, 100, (71, 87)),
    ],
)
def test_wilson_agrees_with_published_tables(successes, trials, percent):
    assert tuple(round(100 * bound) for bound in wilson(successes, trials)) == percent


@given(counts)
def test_a_wilson_interval_holds_the_observed_rate_and_stays_within_0_and_1(count):
    lower, upper = wilson(*count)
    rate = count[0] / count[1] if count[1] else 0.5
    assert 0 <= lower <= rate <= upper <= 1


@given(counts)
def test_wilson_treats_successes_and_failures_alike(count):
    successes, trials = count
    lower, upper = wilson(successes, trials)
    assert wilson(trials - successes, trials) == pytest.approx((1 - upper, 1 - lower))


def test_more_successes_than_trials_are_refused():
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        wilson(3, 2)


@pytest.mark.parametrize(("successes", "bound"), [(17, 0.656), (18, 0.717), (19, 0.784)])
def test_clopper_pearson_agrees_with_published_bounds_for_20_trials(successes, bound):
    assert clopper_pearson_lower(successes, 20) == pytest.approx(bound, abs=5e-4)


def test_no_success_promises_nothing():
    assert clopper_pearson_lower(0, 20) == 0


def test_without_censoring_the_median_is_the_middle_time():
    assert kaplan_meier_median([3, 1, 2, 5, 4], [True] * 5) == 3


def test_time_outs_push_the_median_up_instead_of_being_dropped():
    times, reached = [1, 2, 3, 8, 8], [True, True, True, False, False]
    assert kaplan_meier_median(times, reached) == 3


def test_an_early_loss_counts_only_while_it_was_at_risk():
    # S(2) = 3/4 · 2/3 = 1/2: by hand.
    assert kaplan_meier_median([1, 2, 0.5, 9, 9], [True, True, False, True, False]) == 2


def test_there_is_no_median_where_fewer_than_half_succeed():
    assert kaplan_meier_median([1, 8, 8], [True, False, False]) is None


def test_there_is_no_median_without_trials():
    assert kaplan_meier_median([], []) is None


@given(st.lists(st.tuples(st.floats(0.1, 10), st.booleans()), max_size=30))
def test_the_median_is_the_time_of_a_success(trials):
    median = kaplan_meier_median([t for t, _ in trials], [s for _, s in trials])
    assert median is None or any(t == median and s for t, s in trials)


def test_mcnemar_equals_the_sign_test_on_the_pairs_that_differ():
    # Two-sided: 2 · (C(8,0) + C(8,1)) / 2^8.
    assert mcnemar_exact(1, 7) == pytest.approx(2 * 9 / 256)


def test_mcnemar_finds_nothing_without_a_difference():
    assert mcnemar_exact(0, 0) == 1.0


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_wealth_is_a_fair_game(only_a, only_b):
    expected = (betting_wealth(only_a + 1, only_b) + betting_wealth(only_a, only_b + 1)) / 2
    assert expected == pytest.approx(betting_wealth(only_a, only_b), rel=1e-6)


def test_the_wealth_is_the_integral_it_claims_to_be():
    theta = np.linspace(0, 1, 20001)
    assert betting_wealth(6, 2) == pytest.approx(
        2**8 * np.trapezoid(theta**6 * (1 - theta) ** 2, theta), rel=1e-6
    )


def test_equal_policies_are_rarely_told_apart_however_often_one_looks():
    rng = np.random.default_rng(0)
    wrong = sum(_largest_wealth(rng.random(150) < 0.5) >= 20 for _ in range(1000))
    assert wrong / 1000 <= 0.05


def test_a_clear_difference_is_seen_within_a_dozen_pairs():
    test = PairedTest()
    for _ in range(9):
        test = test.after(a=True, b=False).after(a=True, b=True)
    assert test.p_value < 0.05
    assert (test.only_a, test.only_b) == (9, 0)


def test_evidence_once_found_is_kept():
    test = PairedTest()
    for winner in [True] * 9 + [False] * 9:
        test = test.after(a=winner, b=not winner)
    assert test.p_value < 0.05 < mcnemar_exact(test.only_a, test.only_b)


def test_long_tests_do_not_overflow():
    assert math.isfinite(betting_wealth(5000, 0))


def _largest_wealth(winners):
    test = PairedTest()
    for a in winners:
        test = test.after(a=bool(a), b=not a)
    return test.largest


def test_the_bound_of_a_quantile_is_the_order_statistic_of_the_binomial():
    # Of 100 values the 75th is the bound of the 0.67-quantile: P(75 or more below) = 0.051 is not
    # yet rare enough, P(76 or more) = 0.032 is.
    chance = [
        sum(math.comb(100, i) * 0.67**i * 0.33 ** (100 - i) for i in range(k, 101))
        for k in (75, 76)
    ]
    assert chance[0] > 0.05 >= chance[1]
    assert quantile_at_most(range(1, 101), 0.67) == 76


def test_too_few_values_bound_no_quantile():
    assert quantile_at_most(range(298), 0.99) is None
    assert quantile_at_most(range(299), 0.99) == 298


def test_a_bound_of_a_quantile_lies_above_it_often_enough():
    rng = np.random.default_rng(0)
    bounds = [quantile_at_most(rng.uniform(size=400), 0.9) for _ in range(300)]
    assert np.mean([bound >= 0.9 for bound in bounds]) >= 0.93


def test_the_difference_of_pairs_is_the_one_of_bonett_and_price():
    # 8 and 2 of 50 pairs: (9 - 3) / 52, and 1.96 · sqrt((12/52 - (6/52)²) / 52) to either side.
    difference, lower, upper = paired_difference(8, 2, 50)
    assert difference == pytest.approx(0.12)
    assert (lower, upper) == pytest.approx((-0.01136, 0.24213), abs=2e-5)


def test_pairs_that_never_differ_leave_a_doubt_that_shrinks_with_their_number():
    few, many = (paired_difference(0, 0, pairs) for pairs in (20, 100))
    assert few[1] == -few[2] == pytest.approx(-0.126, abs=1e-3)
    assert -0.03 < many[1] < 0


@pytest.mark.parametrize(("only_a", "only_b", "pairs"), [(3, 3, 5), (-1, 0, 5), (0, 0, 0)])
def test_counts_of_pairs_that_cannot_be_are_refused(only_a, only_b, pairs):
    with pytest.raises(ValueError, match="expected counts"):
        paired_difference(only_a, only_b, pairs)


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(4)
    a = rng.random((1000, 100)) < 0.95
    b = a & (rng.random((1000, 100)) < 0.9)
    bounds = [
        paired_difference(*_discordant(x, y), pairs=100)[1:] for x, y in zip(a, b, strict=True)
    ]
    covered = np.mean([lower <= 0.095 <= upper for lower, upper in bounds])
    assert 0.93 <= covered <= 0.99


def _discordant(a, b):
    return int((a & ~b).sum()), int((b & ~a).sum())
