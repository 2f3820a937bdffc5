"""Rows by step: what is carried out when chunks come early, late, or not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.action_queue import ActionQueue, DelayEstimate, is_refill_due


def rows(first, count=8):
    """Rows whose value is the step that they belong to."""
    return np.arange(first, first + count, dtype=np.float32)[:, None]


@pytest.fixture
def queue():
    return ActionQueue(action_dim=1)


def test_each_step_takes_its_own_row(queue):
    queue.merge(rows(0), first_step=0, step=0)
    assert [queue.take(step)[0] for step in range(8)] == list(range(8))
    assert queue.take(8) is None


def test_rows_that_come_too_late_are_left_out(queue):
    queue.merge(rows(0), first_step=0, step=0)
    seam = queue.merge(rows(2), first_step=2, step=5)
    assert (seam.stale, queue.take(5)[0], queue.remaining(5)) == (3, 5.0, 5)


def test_a_chunk_that_is_stale_altogether_changes_nothing(queue):
    queue.merge(rows(0), first_step=0, step=0)
    queue.take(6)
    assert queue.merge(rows(-9), first_step=-9, step=6).stale == 8
    assert queue.take(6)[0] == 6.0


def test_only_so_many_rows_of_a_chunk_are_kept():
    queue = ActionQueue(action_dim=1, most=3)
    queue.merge(rows(0), first_step=0, step=0)
    assert queue.remaining(0) == 3


def test_a_chunk_that_does_not_continue_is_blended_in():
    queue = ActionQueue(action_dim=1, blend=4)
    queue.merge(np.zeros((8, 1), np.float32), first_step=0, step=0)
    seam = queue.merge(np.ones((8, 1), np.float32), first_step=0, step=2)
    taken = [queue.take(step)[0] for step in range(2, 8)]
    assert seam.naive_jump == 1.0
    assert seam.jump < 0.5
    assert (sorted(taken), taken[-1]) == (taken, 1.0)


def test_rows_for_later_steps_follow_those_at_hand(queue):
    queue.merge(rows(0), first_step=0, step=0)
    queue.merge(rows(100), first_step=5, step=3)
    assert [queue.take(step)[0] for step in range(3, 7)] == [3.0, 4.0, 100.0, 101.0]
    queue.merge(rows(200), first_step=50, step=7)
    assert queue.take(7)[0] == 102.0


def test_after_a_seam_nothing_changes_faster_than_it_may():
    queue = ActionQueue(action_dim=1, max_step=0.25)
    queue.merge(np.zeros((8, 1), np.float32), first_step=0, step=0)
    queue.merge(np.ones((8, 1), np.float32), first_step=1, step=1)
    taken = [queue.take(step)[0] for step in range(1, 7)]
    assert taken == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_an_ensemble_is_the_mean_of_what_all_chunks_say():
    queue = ActionQueue(action_dim=1, ensemble=0.0)
    queue.merge(np.zeros((4, 1), np.float32), first_step=0, step=0)
    queue.merge(np.full((4, 1), 3.0, np.float32), first_step=1, step=1)
    queue.merge(np.full((4, 1), 6.0, np.float32), first_step=2, step=2)
    assert [queue.take(step)[0] for step in range(2, 6)] == [3.0, 3.0, 4.5, 6.0]
    queue.clear()
    queue.merge(np.zeros((4, 1), np.float32), first_step=0, step=0)
    assert queue.take(0)[0] == 0.0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), max_size=20))
def test_no_step_is_ever_given_another_step_s_row(arrivals):
    queue, step = ActionQueue(action_dim=1), 0
    for wait, late in arrivals:
        step += wait
        first = max(0, step - late)
        queue.merge(rows(first), first_step=first, step=step)
        row = queue.take(step)
        assert row is None or row[0] == step


def test_the_delay_is_what_nearly_all_recent_chunks_kept_to():
    estimate = DelayEstimate()
    for steps in [9] * 3 + [2] * 19 + [3]:
        estimate.add(steps)
    assert estimate.steps in (2, 3)


@pytest.mark.parametrize(
    ("remaining", "delay", "due"), [(5, 1, False), (4, 1, True), (6, 5, True), (7, 5, False)]
)
def test_a_refill_is_due_in_time_for_its_delay(remaining, delay, due):
    assert is_refill_due(remaining=remaining, horizon=8, threshold=0.5, delay=delay) is due
