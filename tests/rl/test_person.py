from types import SimpleNamespace

import numpy as np
import pytest

from rl.person import PersonJudge
from rl.run_record import BadRun
from robot.scene import Item, Layout

LAYOUT = Layout(thing=Item("cube", "red"), place=Item("bowl", "blue"))
TRUTH = SimpleNamespace(thing_start=np.array([0.213, -0.042, 0]), place=np.array([0.2, 0.15, 0]))
ENV = SimpleNamespace(
    goal=SimpleNamespace(layout=LAYOUT), scene=SimpleNamespace(truth=lambda: TRUTH)
)


def judge(*answers):
    asked, left = [], iter(answers)

    def ask(question):
        asked.append(question)
        return next(left)

    return PersonJudge(total=3, ask=ask, terminal=lambda: True), asked


def test_a_person_is_told_where_everything_belongs_but_not_who_acts():
    person, asked = judge("")
    person.begin(ENV)
    assert asked == [
        "Trial 1 of 3: put the red cube 213 mm ahead of the base and 42 mm to its right and the "
        "blue bowl 200 mm ahead of the base and 150 mm to its left. Press Enter when it is done. "
    ]


@pytest.mark.parametrize(("answer", "success"), [("y", True), ("N", False), (" yes ", True)])
def test_the_answer_is_the_verdict(answer, success):
    assert judge(answer)[0].success() is success


def test_an_answer_that_is_neither_is_asked_again():
    person, asked = judge("", "maybe", "n")
    assert not person.success()
    assert len(asked) == 3


def test_a_trial_before_a_person_runs_to_its_end():
    assert judge()[0].done() is False


def test_without_a_terminal_nobody_can_be_asked():
    with pytest.raises(BadRun, match="no terminal") as error:
        PersonJudge(total=3, terminal=lambda: False)
    assert error.value.code == 2
