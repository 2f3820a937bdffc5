"""One device, several arms: who is answered, when, and together with whom."""

from concurrent.futures import CancelledError

import numpy as np
import pytest

from policy_server.policy import ActionChunk
from policy_server.scheduler import NotAnswered, Scheduler, unusable
from tests.policy_server.served import SPEC, Ramp, ask

WAIT_S = 10.0


@pytest.fixture
def policy():
    return Ramp()


@pytest.fixture
def scheduler(policy):
    scheduler = Scheduler(policy, max_batch=4)
    yield scheduler
    policy.gate.set()
    scheduler.close()


def test_a_request_is_answered(scheduler):
    answer = scheduler.submit("a", ask((1.0, 2.0))).result(WAIT_S)
    np.testing.assert_array_equal(answer.chunk.actions[0], (2.0, 3.0))


def test_of_one_arm_only_the_newest_request_is_answered(policy, scheduler):
    policy.gate.clear()
    scheduler.submit("busy", ask())
    while scheduler.waiting:
        pass
    older, newer = (scheduler.submit("a", ask((k, k))) for k in (1.0, 5.0))
    policy.gate.set()
    assert newer.result(WAIT_S).chunk.actions[0, 0] == 6.0
    with pytest.raises(NotAnswered, match="newer observation"):
        older.result(WAIT_S)


def test_arms_that_wait_are_answered_together_and_each_its_own(policy, scheduler):
    policy.gate.clear()
    scheduler.submit("busy", ask())
    while scheduler.waiting:
        pass
    answers = [scheduler.submit(f"arm{k}", ask((k, k))) for k in range(6)]
    policy.gate.set()
    got = [answer.result(WAIT_S).chunk.actions[0, 0] for answer in answers]
    assert (got, policy.batches) == ([k + 1.0 for k in range(6)], [1, 4, 2])


def test_who_has_waited_long_still_waits_a_moment_for_an_arm_that_is_about_to_ask(policy):
    now = [0.0]
    scheduler = Scheduler(policy, gather_s=4.0, clock=lambda: now[0])
    scheduler.submit("often", ask()).result(WAIT_S)
    now[0] = 3.0
    scheduler.submit("often", ask()).result(WAIT_S)
    policy.gate.clear()
    busy = scheduler.submit("busy", ask())
    while scheduler.waiting:
        pass
    long = scheduler.submit("long", ask())
    # Longer than a batch waits for others, and "often" asks again at 6 s by its habit.
    now[0] = 7.5
    policy.gate.set()
    busy.result(WAIT_S)
    scheduler.submit("often", ask()).result(WAIT_S)
    scheduler.close()
    assert (long.result(WAIT_S).batch, policy.batches) == (2, [1, 1, 1, 2])


def test_the_most_urgent_request_comes_first(policy, scheduler):
    policy.gate.clear()
    scheduler.submit("busy", ask())
    while scheduler.waiting:
        pass
    slacks = {"slow": 100.0, "quick": 1.0, "middle": 10.0, "b": 50.0, "c": 60.0}
    answers = [
        scheduler.submit(name, ask((slack, 0.0)), slack_s=slack) for name, slack in slacks.items()
    ]
    policy.gate.set()
    for answer in answers:
        answer.result(WAIT_S)
    order = [request.state["here"][0] for request in policy.asked[1:]]
    assert order == sorted(slacks.values())


def test_an_answer_that_would_come_too_late_is_refused(policy):
    times = iter([0.0, 0.0, 0.0, 0.0, 5.0, 5.0, *[6.0] * 50])
    scheduler = Scheduler(policy, clock=lambda: next(times, 6.0))
    scheduler.submit("a", ask()).result(WAIT_S)
    late = scheduler.submit("b", ask(), slack_s=0.001)
    with pytest.raises(NotAnswered) as caught:
        late.result(WAIT_S)
    scheduler.close()
    assert caught.value.code == "late"


def test_a_policy_that_fails_ends_nothing(policy, scheduler):
    policy.infer_batch, works = None, policy.infer_batch
    with pytest.raises(NotAnswered, match="see the server's log"):
        scheduler.submit("a", ask()).result(WAIT_S)
    policy.infer_batch = works
    assert len(scheduler.submit("a", ask()).result(WAIT_S).chunk.actions) == SPEC.horizon


def test_who_hangs_up_is_not_answered(policy, scheduler):
    policy.gate.clear()
    scheduler.submit("busy", ask())
    while scheduler.waiting:
        pass
    gone = scheduler.submit("a", ask())
    scheduler.forget("a")
    policy.gate.set()
    with pytest.raises(CancelledError):
        gone.result(WAIT_S)


def test_closing_answers_what_waits_and_takes_nothing_more(policy, scheduler):
    waiting = scheduler.submit("a", ask())
    scheduler.close()
    assert len(waiting.result(WAIT_S).chunk.actions) == SPEC.horizon
    with pytest.raises(NotAnswered, match="shutting down"):
        scheduler.submit("a", ask()).result(WAIT_S)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (np.zeros((4, 2)), "nothing but zeros"),
        (np.full((4, 2), np.nan), "not finite"),
        (np.ones((4, 3)), "expected (n, 2)"),
        (np.empty((0, 2)), "has no answer"),
    ],
)
def test_no_arm_gets_a_chunk_that_is_of_no_use(rows, why):
    chunk = ActionChunk(actions=rows.astype(np.float32), observed_at=0.0)
    assert why in unusable(chunk, 2)
