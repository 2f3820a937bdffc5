import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rewarder.gather import Gather
from rewarder.prompts import YES_NO
from rewarder.reward import NoScore
from rewarder.vision_model import Answer, Question

PICTURE = np.zeros((24, 24, 3), np.uint8)


class Model:
    """Answers with the length of the goal; its first call waits for the gate."""

    def __init__(self):
        self.gate, self.started = threading.Event(), threading.Event()
        self.calls = []

    def ask(self, questions):
        goals = [question.goal for question in questions]
        self.calls.append(goals)
        self.started.set()
        assert self.gate.wait(20)
        if "bad" in goals:
            raise NoScore("bad goal")
        if "crash" in goals:
            raise RuntimeError("shapes differ")
        return [Answer(log_probs=np.array([-float(len(goal)), -1.0])) for goal in goals]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as found:
        yield found


def questions(*goals):
    return [Question(pictures=[PICTURE], goal=goal, prompt=YES_NO) for goal in goals]


def until(condition, tries=1000):
    never = threading.Event()
    while not condition():
        tries -= 1
        assert tries, "it did not happen in time"
        never.wait(0.01)


def asked_behind_a_first(model, threads, *sets, most=8):
    """Ask while the model is at work with a first question; return the futures of all."""
    gather = Gather(model.ask, most=most, pause=lambda: None)
    first = threads.submit(gather, questions("first"))
    assert model.started.wait(10)
    rest = []
    for number, goals in enumerate(sets, start=1):
        rest.append(threads.submit(gather, questions(*goals)))
        # Each waits before the next one comes, so that their order is known.
        until(lambda number=number: gather.waiting == number)
    model.gate.set()
    return first, *rest


def said(future):
    return [-answer.log_probs[0] for answer in future.result(10)]


def test_what_waits_while_the_model_is_at_work_is_asked_together(model, threads):
    first, *rest = asked_behind_a_first(model, threads, ["a", "bb"], ["ccc"])
    assert [said(future) for future in (first, *rest)] == [[5.0], [1.0, 2.0], [3.0]]
    assert model.calls == [["first"], ["a", "bb", "ccc"]]


def test_no_more_than_a_batch_is_asked_at_once(model, threads):
    asked = asked_behind_a_first(model, threads, ["a", "bb"], ["ccc"], ["dddd"], most=3)
    assert [said(future) for future in asked[1:]] == [[1.0, 2.0], [3.0], [4.0]]
    assert model.calls == [["first"], ["a", "bb", "ccc"], ["dddd"]]


def test_one_thread_may_have_more_questions_than_a_batch(model):
    model.gate.set()
    gather = Gather(model.ask, most=2)
    assert len(gather(questions("a", "b", "c"))) == 3


@pytest.mark.parametrize(("goal", "error"), [("bad", NoScore), ("crash", RuntimeError)])
def test_a_question_that_makes_the_model_fail_costs_the_others_nothing(model, threads, goal, error):
    _, good, wrong, other = asked_behind_a_first(model, threads, ["a"], [goal], ["ccc"])
    assert (said(good), said(other)) == ([1.0], [3.0])
    with pytest.raises(error):
        wrong.result(10)


def test_the_model_is_asked_by_one_thread_at_a_time_and_goes_on_after_a_failure(model):
    model.gate.set()
    gather = Gather(model.ask, most=2)
    with pytest.raises(NoScore):
        gather(questions("bad"))
    assert len(gather(questions("good"))) == 1


def test_nobody_pauses_who_is_alone_and_somebody_does_after_company(model, threads):
    pauses, inside, go_on = [], threading.Event(), threading.Event()

    def pause():
        pauses.append(gather.waiting)
        inside.set()
        assert go_on.wait(10)

    gather = Gather(model.ask, most=8, pause=pause)
    company = [threads.submit(gather, questions("a"))]
    assert model.started.wait(10)
    company += [threads.submit(gather, questions(goal)) for goal in ("a", "a")]
    until(lambda: gather.waiting == 2)
    model.gate.set()
    assert [len(future.result(10)) for future in company] == [1, 1, 1]
    assert pauses == []
    first = threads.submit(gather, questions("b"))
    assert inside.wait(10)
    second = threads.submit(gather, questions("c"))
    until(lambda: gather.waiting == 2)
    go_on.set()
    assert (len(first.result(10)), len(second.result(10))) == (1, 1)
    assert model.calls[-1] == ["b", "c"]
