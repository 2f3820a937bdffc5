import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewarder.answers import (
    MOST_LOG_ODDS,
    expectation,
    first_share,
    log_odds,
    log_sum,
    over_spellings,
    shares,
)

NEVER = -np.inf
LOG_PROB = st.floats(-60.0, 0.0)


def log_probs(size: int):
    return arrays(np.float64, size, elements=LOG_PROB | st.just(NEVER))


@given(arrays(np.float64, st.integers(1, 9), elements=LOG_PROB))
def test_the_probability_of_an_answer_is_the_sum_over_its_spellings(values):
    assert log_sum(values) == pytest.approx(np.log(np.exp(values).sum()), abs=1e-9)


def test_what_was_never_seen_has_no_probability():
    assert log_sum(np.array([])) == log_sum(np.array([NEVER, NEVER])) == NEVER


def test_each_answer_gets_its_own_tokens_alone():
    words = np.log([0.1, 0.2, 0.3, 0.4])
    assert np.exp(over_spellings(words, [[0, 2], [1]])) == pytest.approx([0.4, 0.2])


@given(log_probs(20))
def test_progress_is_from_0_to_1_or_not_known(values):
    progress = expectation(values)
    assert np.isnan(progress) == np.isneginf(values).all()
    assert np.isnan(progress) or 0.0 <= progress <= 1.0


@given(st.integers(0, 19), LOG_PROB)
def test_one_letter_alone_says_its_own_mark(letter, value):
    values = np.full(20, NEVER)
    values[letter] = value
    assert expectation(values) == pytest.approx(letter / 19)


@given(arrays(np.float64, 20, elements=LOG_PROB), st.floats(-5.0, 0.0))
def test_progress_does_not_depend_on_how_often_any_letter_is_said(values, less):
    assert expectation(values + less) == pytest.approx(expectation(values), abs=1e-9)


@given(arrays(np.float64, 20, elements=LOG_PROB))
def test_the_letters_read_backwards_say_what_is_left(values):
    assert expectation(values[::-1]) == pytest.approx(1.0 - expectation(values), abs=1e-9)


@given(log_probs(2))
def test_log_odds_are_bounded_and_swap_their_sign_with_the_answers(values):
    odds = log_odds(values)
    assert np.isnan(odds) == np.isneginf(values).all()
    assert np.isnan(odds) or (abs(odds) <= MOST_LOG_ODDS and odds == -log_odds(values[::-1]))


@given(arrays(np.float64, 2, elements=st.floats(-15.0, 0.0)))
def test_log_odds_and_share_are_two_names_of_one_thing(values):
    assert 1.0 / (1.0 + np.exp(-log_odds(values))) == pytest.approx(first_share(values))


@given(log_probs(5))
def test_the_shares_of_the_answers_have_a_sum_of_1(values):
    whole = shares(values).sum()
    assert np.isnan(whole) or whole == pytest.approx(1.0)
