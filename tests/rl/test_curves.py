import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.charts import Axis, duration, round_step, thinned, thousands
from rl.curves import (
    agreement_curve,
    confusion,
    events,
    guard_curve,
    return_curve,
    success_curve,
    time_curve,
    windowed,
)


def lines(outcomes, *, greedy=True):
    return [
        {
            "env_steps": 10 * (number + 1),
            "steps": 10,
            "transitions": 10,
            "truth": {"success": success},
            "rewarded_success": True,
            "greedy": greedy,
            "return": -1.0,
            "guard_events": 5,
        }
        for number, success in enumerate(outcomes)
    ]


def rates(outcomes):
    return [rate.rate for rate in windowed(lines(outcomes), lambda x: x["truth"]["success"])]


def test_a_rate_is_of_the_newest_episodes_alone():
    assert rates([False] * 100 + [True] * 10)[-1] == 1.0


def test_the_first_rates_are_of_the_few_episodes_there_are():
    assert rates([True, False, False, True]) == [pytest.approx(1 / 3), 0.5]


def test_nothing_is_drawn_of_a_run_that_has_only_begun():
    for curve in (success_curve, agreement_curve, return_curve, guard_curve, time_curve):
        assert curve([]) is None
        assert curve is time_curve or curve(lines([True] * 3)) is None


def test_success_has_its_interval_only_without_exploration():
    drawn = success_curve([*lines([True] * 9), *lines([False] * 9, greedy=False)])
    assert [(curve.name, bool(curve.band)) for curve in drawn.curves] == [
        ("exploring", False),
        ("without exploration", True),
    ]


def test_a_point_of_the_success_curve_tells_its_interval():
    marks = json.loads(success_curve(lines([True] * 12)).marks)
    assert marks[-1] == [100.0, 0.0, "120 steps: 100 % (72-100 %, last 10)"]


def test_episodes_without_a_label_are_no_disagreement():
    unlabelled = {**lines([True])[0], "transitions": 0}
    assert sum(confusion([unlabelled]).values()) == 0


def test_what_was_said_is_held_against_what_was_true():
    assert confusion(lines([True, False, False])) == {
        "hit": 1,
        "false_alarm": 2,
        "miss": 0,
        "rejection": 0,
    }


def test_time_outs_keep_the_time_curve_below_one():
    trials = [{"success": True, "time_s": 2.0}, {"success": False, "time_s": 8.0}]
    assert time_curve(trials).curves[0].line == "M0 100L25 100L25 50L100 50"


@pytest.mark.parametrize(("said", "count"), [(3, 3), ({"a": 1, "b": 2}, 3), (None, 0)])
def test_guard_events_are_a_number_or_one_a_rule(said, count):
    assert events(said) == count


@given(st.lists(st.integers(), max_size=50), st.integers(2, 20))
def test_thinning_keeps_the_ends_and_the_order(items, most):
    kept = thinned(range(len(items)), most)
    assert len(kept) == min(most, len(items))
    assert kept == sorted(set(kept))
    assert not items or (kept[0], kept[-1]) == (0, len(items) - 1)


@given(st.floats(1e-6, 1e9))
def test_tick_marks_are_a_round_step_apart_and_never_too_many(width):
    axis = Axis(low=0.0, high=width, say=str)
    assert width <= 5 * round_step(width / 5) * (1 + 1e-6)
    assert 2 <= len(axis.ticks) <= 6
    assert all(-1e-6 <= tick.at <= 100.001 for tick in axis.ticks)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.54, "2.5 s"), (42, "42 s"), (59.7, "60 s"), (75, "1 min 15 s"), (3660, "1 h 01 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_counts_are_short():
    assert [thousands(n) for n in (7, 950, 24100, 1.2e6)] == ["7", "950", "24.1 k", "1.2 M"]
