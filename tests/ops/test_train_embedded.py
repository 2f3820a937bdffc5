"""What the embedded model is taught: the questions, and the same sums as transformers' own."""

import numpy as np
import pytest
import torch

from ops.reward_scenes import Stage, layouts, save
from ops.train_embedded import (
    Asked,
    Scenes,
    Student,
    absent_goal,
    main,
    patches_of,
    questions,
    train,
    where_loss,
)
from rewarder.goal import parse_goal
from rewarder.prompts import LETTER, YES_NO
from rewarder.tiny_qwen import make_tiny


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Scenes:
    folder = tmp_path_factory.mktemp("scenes")
    stage = Stage(layouts()[1], variation=1.0)
    rng = np.random.default_rng(0)
    save(folder / "0.npz", [stage.scene(rng) for _ in range(40)])
    return Scenes.load(folder)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Student:
    return Student(make_tiny(tmp_path_factory.mktemp("tiny") / "model"))


def test_pictures_are_cut_as_the_image_processor_cuts_them(scenes, student):
    pictures = torch.from_numpy(scenes.pictures[:2].astype(np.float32) / 127.5 - 1.0)
    given = student.processor.image_processor(
        list(scenes.pictures[:2]), do_resize=False, return_tensors="pt"
    )
    assert torch.allclose(patches_of(pictures), given["pixel_values"], atol=1e-5)


def test_packed_questions_are_answered_as_by_the_model_itself(scenes, student):
    rng = np.random.default_rng(0)
    asked = [(i, one) for i in range(3) for one in questions(scenes, i, rng)]
    pictures = torch.from_numpy(scenes.pictures[:3].astype(np.float32) / 127.5 - 1.0)
    with torch.inference_mode():
        said = student.answer(*student.look(pictures), asked)
        for row, (i, one) in enumerate(asked):
            alone = student.model(**_inputs(student, scenes, i, one), logits_to_keep=1)
            expected = alone.logits[0, -1].log_softmax(-1)
            assert torch.allclose(said[row], expected, atol=1e-4)


def _inputs(student: Student, scenes: Scenes, row: int, one: Asked):
    content = [{"type": "image"}, {"type": "text", "text": one.prompt.about(one.goal)}]
    chat = student.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return student.processor(
        text=[chat], images=[scenes.pictures[row]], do_resize=False, return_tensors="pt"
    )


def test_letters_expect_the_true_progress(scenes):
    rng = np.random.default_rng(0)
    for row in range(len(scenes)):
        for one in questions(scenes, row, rng):
            assert one.target.sum() == pytest.approx(1.0)
            if one.prompt is LETTER:
                expected = one.target @ np.linspace(0, 1, 20)
                progress = [*scenes.progress[row], 0.0]
                assert min(abs(expected - progress)) < 1e-5
            else:
                assert one.prompt is YES_NO


def test_an_absent_goal_needs_something_that_is_not_there():
    rng = np.random.default_rng(0)
    for _ in range(50):
        goal = parse_goal(absent_goal("red", "blue bowl", rng))
        needed = {str(goal.thing), *([str(goal.place)] if goal.place else [])}
        assert not needed <= {"red cube", "blue bowl"}


def test_tokens_that_say_where_a_point_is_have_no_loss():
    points = np.full((1, 2, 3, 2), np.nan, np.float32)
    points[0, 1, 0] = 2.25, 1.5
    told = torch.zeros(1, 32, 9)
    # Rows of eight tokens: the second view begins at the fifth.
    told[0, 8 + 4 + 2, 0] = 50.0
    told[0, 8 + 4 + 2, 3], told[0, 8 + 4 + 2, 6] = 0.25, 0.5
    assert float(where_loss(told, points)) < 1e-4
    told[0, 8 + 4 + 2, 3] = 0.5
    assert float(where_loss(told, points)) > 0.1


def test_a_moment_of_training_changes_the_model(scenes, tmp_path):
    student = Student(make_tiny(tmp_path / "model"))
    before = student.model.lm_head.weight.clone()
    train(student, scenes, minutes=0.1, seed=0)
    assert not torch.equal(before, student.model.lm_head.weight)


def test_a_base_that_is_none_ends_with_two_and_writes_nothing(tmp_path, capsys):
    assert main([f"out={tmp_path / 'out'}", f"base={tmp_path / 'nowhere'}"]) == 2
    assert "is no checkpoint of this kind" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
