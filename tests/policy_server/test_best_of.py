"""Best of several chunks: which one is answered, and who is asked for several."""

from dataclasses import replace

import numpy as np
import pytest

from policy_server.best_of import BestOf, best_of
from policy_server.load import Device, load_policy
from policy_server.policy import ActionChunk, Committed, PolicyUnavailable, no_chunk
from policy_server.rtc import mismatch, prefix_weights
from tests.policy_server.served import Ramp, ask


class Drawing(Ramp):
    """Answers its ramp, moved by what each draw has in store; None is no answer."""

    def __init__(self, offsets=(9.0, 5.0, 1.0, 3.0)):
        super().__init__()
        self.offsets = offsets

    def _chunk(self, request):
        offset = self.offsets[request.draw]
        if offset is None:
            return no_chunk(request, self.spec, "unreadable")
        rows = super()._chunk(request).actions + np.float32(offset)
        return ActionChunk(actions=rows, observed_at=request.observed_at)


def going_on(offset, *, here=(0.0, 0.0), rows=8, delay=2):
    """Ask where an arm carries out a ramp that is moved by `offset`."""
    ramp = np.arange(1, rows + 1, dtype=np.float32)[:, None] + np.asarray(here, np.float32)
    return ask(here, committed=Committed(rows=ramp + np.float32(offset), delay=delay))


def offset_of(chunk, here=0.0):
    return float(chunk.actions[0, 0]) - 1.0 - here


def test_the_chunk_that_is_answered_is_the_one_with_the_least_weighted_mismatch():
    drawing, asked = Drawing(), going_on(2.6)
    [chunk] = BestOf(drawing, samples=4).infer_batch([asked])
    drawn = drawing.infer_batch([replace(asked, draw=draw) for draw in range(4)])
    weights = prefix_weights(8, delay=2, overlap=8)[:, None]
    errors = [(weights * (one.actions - asked.committed.rows) ** 2).sum() for one in drawn]
    assert np.argmin(errors) == 3
    np.testing.assert_array_equal(chunk.actions, drawn[3].actions)


def test_rows_that_will_be_carried_out_count_more_than_the_later_ones():
    old = np.zeros((8, 1), np.float32)
    begins_well, ends_well = old.copy(), old.copy()
    begins_well[4:], ends_well[:4] = 1.0, 1.0
    assert mismatch(old, begins_well, delay=4) < mismatch(old, ends_well, delay=4)


def test_each_request_of_a_batch_is_answered_with_its_own_best():
    asked = [going_on(5.0), going_on(1.2, here=(50.0, 50.0)), ask(), going_on(9.0)]
    chunks = BestOf(Drawing(), samples=4).infer_batch(asked)
    heres = [0.0, 50.0, 1.0, 0.0]
    found = [offset_of(chunk, here) for chunk, here in zip(chunks, heres, strict=True)]
    assert found == [5.0, 1.0, 9.0, 9.0]


def test_what_has_nothing_to_go_on_with_is_drawn_once():
    drawing = Drawing()
    BestOf(drawing, samples=4).infer_batch([ask(), going_on(1.0)])
    assert [request.draw for request in drawing.asked] == [0, 0, 1, 2, 3]


def test_a_draw_without_an_answer_is_never_the_best_of_them():
    [chunk] = BestOf(Drawing((None, np.nan, 3.0)), samples=3).infer_batch([going_on(9.0)])
    assert offset_of(chunk) == 3.0


def test_where_no_draw_is_an_answer_the_reason_is_given():
    [chunk] = BestOf(Drawing((None, None)), samples=2).infer_batch([going_on(9.0)])
    assert chunk.refusal == "unreadable"


@pytest.mark.parametrize("rows", [0, 3, 12])
def test_fewer_and_more_committed_rows_than_a_chunk_are_compared_as_far_as_both_go(rows):
    asked = going_on(1.0, rows=rows, delay=min(rows, 2))
    [chunk] = BestOf(Drawing(), samples=4).infer_batch([asked])
    assert offset_of(chunk) == (1.0 if rows else 9.0)


def test_one_sample_is_the_policy_itself():
    ramp = Ramp()
    assert best_of(ramp, 1) is ramp


def test_a_policy_that_always_answers_the_same_is_refused():
    with pytest.raises(PolicyUnavailable, match="samples=3 needs a policy that draws its answers"):
        best_of(Ramp(), 3)
    with pytest.raises(PolicyUnavailable, match="samples=2 needs"):
        load_policy("scripted:reach", Device(samples=2))


@pytest.mark.parametrize("samples", [0, 9])
def test_a_number_of_samples_that_is_none_is_refused(samples):
    with pytest.raises(PolicyUnavailable, match="expected from 1 to 8"):
        best_of(Drawing(), samples)


def test_its_spec_says_that_rows_are_continued_more_or_less():
    policy = load_policy("scripted:reach?noise=0.3", Device(samples=4))
    assert policy.spec.rtc == ("prefix", "best_of")
    assert policy.spec.continues
    assert not best_of(Drawing(), 2).spec.continues
