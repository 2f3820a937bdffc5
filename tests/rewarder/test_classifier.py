import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rewarder.classifier import (
    DESCRIPTION,
    GOAL_SIZE,
    WEIGHTS,
    Classifier,
    ClassifierDamaged,
    Facts,
    Network,
    encoded,
    judged,
    save_classifier,
)
from rewarder.goal import closed_goals, paraphrases, parse_goal
from rewarder.labelled import Labelled, append_moments
from rewarder.reward import NoScore
from rewarder.train_classifier import main
from rewarder.view import View

SIZE = (24, 24)
RGB = {"red": (204, 20, 20), "green": (15, 150, 30), "blue": (15, 40, 204)}
GOALS = ("Lift the red cube.", "Lift the blue cube.")
FACTS = Facts(height=96, width=192, trained_on="0", accuracy=0.5, auc=0.5)


def drawn(count, *, seed=0, goals=GOALS):
    """Return moments in which a square of the goal's colour that is high up is a success."""
    rng = np.random.default_rng(seed)
    said, high = rng.choice(goals, count), rng.random(count) < 0.5
    colour = rng.choice(["red", "blue"], count)
    pictures = rng.integers(90, 130, (count, *SIZE, 3), np.uint8)
    for row, (up, name) in enumerate(zip(high, colour, strict=True)):
        at = 2 if up else 16
        left = rng.integers(2, 16)
        pictures[row, at : at + 6, left : left + 6] = RGB[name]
    named = np.array([parse_goal(str(goal)).thing.colour for goal in said])
    success = high & (named == colour)
    progress = np.where(success, 1.0, 0.3).astype(np.float32)
    return Labelled(pictures=pictures, goals=said, success=success, progress=progress)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    append_moments(folder / "data", drawn(500))
    said = []
    words = [f"data={folder / 'data'}", f"out={folder / 'out'}", "epochs=8", "held=0.2"]
    assert main(words, said.append) == 0
    return folder / "out", "".join(said)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_classifier(tmp_path, Network(96, 192), FACTS)
    return tmp_path


def test_it_learns_from_labelled_moments_and_says_how_well(trained):
    folder, said = trained
    about = json.loads((folder / DESCRIPTION).read_text())
    assert about["accuracy"] >= 0.9
    assert about["auc"] >= 0.95
    assert f"accuracy {about['accuracy']:.3f}" in said
    assert f"reward=classifier reward.folder={folder}" in said


def test_the_goal_decides_what_it_takes_for_a_success(trained):
    from rewarder.classifier import load_classifier  # noqa: PLC0415

    network = load_classifier(trained[0])[0]
    red = np.full((1, *SIZE, 3), 110, np.uint8)
    red[0, 2:8, 9:15] = RGB["red"]
    for goal, reached in zip(GOALS, (True, False), strict=True):
        logit = judged(network, red, encoded([parse_goal(goal)]))[0, 0]
        assert (logit > 0.0) is np.bool_(reached)


def test_it_is_small():
    assert sum(value.numel() for value in Network(96, 192).parameters()) <= 1_000_000


def test_every_goal_has_a_code_of_its_own_and_its_paraphrases_share_it():
    codes = encoded(closed_goals())
    assert codes.shape == (24, GOAL_SIZE)
    assert len({tuple(row) for row in codes.tolist()}) == 24
    for goal, code in zip(closed_goals(), codes, strict=True):
        alike = encoded([parse_goal(sentence) for sentence in paraphrases(goal)])
        assert (alike == code).all()


def test_a_batch_is_judged_as_one_by_one():
    torch.manual_seed(1)
    network = Network(*SIZE).eval()
    moments = drawn(70)
    goals = encoded([parse_goal(str(goal)) for goal in moments.goals])
    single = [judged(network, moments.pictures[[i]], goals[[i]])[0] for i in range(70)]
    assert np.allclose(judged(network, moments.pictures, goals), single, atol=1e-4)


def test_a_score_has_log_odds_and_progress_of_every_sound_moment(folder, clip):
    score = Classifier(folder, view=View()).score(clip)
    assert score.valid.all()
    assert np.array_equal(score.success, score.logit > 0.0)
    assert ((score.progress >= 0.0) & (score.progress <= 1.0)).all()
    assert score.model.startswith("classifier/")


def test_a_moment_with_a_fault_is_not_judged(folder, clip):
    pictures = [*clip.frames["side"][:2], b""]
    score = Classifier(folder, view=View()).score(
        replace(clip, frames={**clip.frames, "side": pictures})
    )
    assert score.valid.tolist() == [True, True, False]
    assert not score.success[2]
    assert np.isnan(score.logit[2])


def test_where_nothing_can_be_judged_the_score_says_why(folder, clip):
    missing = dict.fromkeys(clip.frames, [b""] * 3)
    score = Classifier(folder, view=View()).score(replace(clip, frames=missing))
    assert not score.valid.any()
    assert score.notes["why"] == "missing"


@pytest.mark.parametrize(
    "goal",
    [
        "Do not reach for the red cube.",
        "Put the yellow banana in the drawer.",
        "Hebe den roten Würfel hoch.",
        "Lift the red cube and lift the blue cube.",
    ],
)
def test_a_goal_that_it_does_not_know_is_no_score(folder, clip, goal):
    with pytest.raises(NoScore, match="not understood"):
        Classifier(folder, view=View()).score(replace(clip, goal=goal))


def test_another_view_than_that_of_its_training_is_no_score(folder, clip):
    with pytest.raises(NoScore, match="trained on 96x192"):
        Classifier(folder, view=View(height=72)).score(clip)


def spoil_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])


def spoil_format(folder):
    said = json.loads((folder / DESCRIPTION).read_text()) | {"format": 0}
    (folder / DESCRIPTION).write_text(json.dumps(said))


def spoil_size(folder):
    said = json.loads((folder / DESCRIPTION).read_text()) | {"height": 48}
    (folder / DESCRIPTION).write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_weights, "not the file"),
        (spoil_format, "another version"),
        (spoil_size, "nonsense"),
        (lambda folder: (folder / DESCRIPTION).write_text("{"), "nonsense"),
        (lambda folder: (folder / WEIGHTS).unlink(), "is missing"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder, spoil, why):
    spoil(folder)
    with pytest.raises(ClassifierDamaged, match=why):
        Classifier(folder, view=View())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "DATA="),
        (["data=x", "out=y", "epochs=many"], "are numbers"),
        (["data=x", "out=y", "held=0.9"], "held= above 0 to 0.5"),
        (["data=nowhere", "out=y"], "holds no moments"),
        (["where=x"], "known words"),
    ],
)
def test_words_that_make_no_sense_end_with_2(words, why, capsys):
    assert main(words) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("moments", "why"),
    [
        (drawn(30), "not enough"),
        (replace(drawn(200), success=np.zeros(200, bool)), "not enough"),
        (replace(drawn(60), goals=np.array(["Fold the shirt."] * 60)), "known goals only"),
    ],
)
def test_a_set_that_nothing_can_be_learnt_from_ends_with_2(tmp_path, moments, why, capsys):
    append_moments(tmp_path / "data", moments)
    assert main([f"data={tmp_path / 'data'}", f"out={tmp_path / 'out'}"]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_seam_to_it_needs_no_torch():
    import subprocess  # noqa: PLC0415

    check = "import sys, rewarder.client, rewarder.view, rewarder.blend, rewarder.labelled;"
    done = subprocess.run(
        [sys.executable, "-c", f"{check} sys.exit('torch' in sys.modules)"], check=True, timeout=60
    )
    assert done.returncode == 0
