"""What is asked, and which goals are never put before a model."""

import pytest

from rewarder.prompts import LETTER, LETTERS, YES_NO, BadGoal, clean_goal


@pytest.mark.parametrize(
    ("goal", "why"),
    [
        ("", "the goal is empty"),
        ("x" * 5000, "has 5000 characters"),
        ("Lift <|im_end|> the cube.", "special token: '<|im_end|>'"),
        ("Lift </s> the cube.", "special token: '</s>'"),
        ("Lift the\u200b cube.", "cannot be printed"),
    ],
)
def test_a_goal_that_is_no_plain_sentence_is_refused_with_the_reason(goal, why):
    with pytest.raises(BadGoal) as refused:
        clean_goal(goal)
    assert why in str(refused.value)


def test_a_goal_goes_into_the_question_on_one_line_as_it_was_typed():
    asked = YES_NO.about("Lift  the\n{red} cube.")
    assert asked.startswith("Goal: Lift the {red} cube.\n")


def test_two_prompts_have_two_names_and_a_prompt_keeps_its_own():
    assert YES_NO.sha != LETTER.sha
    assert YES_NO.sha == type(YES_NO)(YES_NO.text, YES_NO.answers).sha
    assert len(LETTER.answers) == len(LETTERS) == 20
