import numpy as np
import pytest

from ops.bench_preferences import (
    MOMENTS,
    TELLS,
    Played,
    held_out,
    learn,
    main,
    make_pool,
    needed,
    needs,
    vlm,
)
from rewarder.preference import FEATURES


@pytest.fixture(scope="module")
def played():
    """Return episodes that say in their features how well they went."""
    rng = np.random.default_rng(0)
    truth = rng.random(30)
    clips = rng.normal(size=(30, MOMENTS, len(FEATURES)))
    clips[:, :, 0] = truth[:, None]
    return Played(clips=clips, truth=truth, seen=truth)


@pytest.mark.parametrize(
    ("curve", "labels"),
    [([0.9, 0.9], 0), ([0.7, 0.9, 0.8], 10), ([0.9, 0.7, 0.9], 20), ([0.9, 0.7], None)],
)
def test_an_accuracy_is_reached_where_it_is_not_lost_again(curve, labels):
    assert needed(curve, 0.8) == labels


def test_every_way_is_held_against_where_random_labels_end():
    curves = {"random": [[0.5, 0.6], [0.7, 0.8]], "gated": [[0.7, 0.7], [0.7, 0.7]]}
    assert needs(curves)["0.7"] == {"random": 10, "gated": 0}


def test_the_simulated_person_errs_seldom_and_ties_what_is_alike(played):
    pool = make_pool(played, np.arange(30), np.random.default_rng(0))
    gaps = played.truth[pool.pairs.first] - played.truth[pool.pairs.second]
    apart = np.abs(gaps) >= TELLS
    assert (pool.person[~apart] == 0.5).all()
    assert 0.9 < ((pool.person == 1.0) == (gaps > 0.0))[apart].mean() < 1.0


def test_the_simulated_model_decides_large_gaps_and_ties_small_ones():
    rng = np.random.default_rng(0)
    assert {vlm(0.9, rng).preferred for _ in range(20)} == {"first"}
    assert "tie" in {vlm(0.0, rng).preferred for _ in range(20)}


def test_held_out_pairs_are_of_other_clips_and_can_be_told_apart(played):
    held = held_out(played, np.arange(20, 30), np.random.default_rng(0))
    assert min(held.first.min(), held.second.min()) >= 20
    assert (np.abs(played.truth[held.first] - played.truth[held.second]) >= TELLS).all()


def test_all_ways_begin_alike(played):
    curves = [learn(arm, played, labels=0, seed=0) for arm in ("random", "gated")]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("word", ["task=fly", "colour=red", "seeds=many"])
def test_wrong_words_end_with_2(capsys, word):
    assert main([word]) == 2
    assert capsys.readouterr().err
