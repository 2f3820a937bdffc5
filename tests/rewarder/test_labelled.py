from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarder.labelled import BadSet, Labelled, append_moments, joined, load_moments, split

GOAL = "Lift the red cube."


def moments(count, *, seed=0, scenes=None, size=(24, 48)):
    rng = np.random.default_rng(seed)
    return Labelled(
        pictures=rng.integers(0, 256, (count, *size, 3), np.uint8),
        goals=np.array([GOAL] * count, "U60"),
        success=rng.random(count) < 0.5,
        progress=rng.random(count).astype(np.float32),
        scenes=None if scenes is None else np.array(scenes, np.int64),
    )


def test_what_was_added_is_read_in_its_order(tmp_path):
    first, second = moments(3, seed=1), moments(2, seed=2)
    for part in (first, second):
        append_moments(tmp_path / "set", part)
    found = load_moments(tmp_path / "set")
    assert np.array_equal(found.pictures, np.concatenate([first.pictures, second.pictures]))
    assert np.array_equal(found.progress, np.concatenate([first.progress, second.progress]))
    assert found.success.tolist() == [*first.success, *second.success]
    assert set(found.goals) == {GOAL}


def test_moments_without_a_scene_have_one_each_beside_those_of_other_chunks():
    both = joined([moments(3, scenes=[7, 7, 2]), moments(2)])
    assert both.scenes.tolist() == [7, 7, 2, 11, 12]


@given(st.integers(0, 1000), st.lists(st.integers(0, 9), min_size=20, max_size=60))
def test_a_split_tears_no_scene_apart_and_loses_nothing(seed, scenes):
    if len(set(scenes)) < 4:
        return
    whole = moments(len(scenes), scenes=scenes, size=(2, 2))
    kept, held = split(whole, share=0.3, seed=seed)
    assert not set(kept.scenes) & set(held.scenes)
    assert len(kept) + len(held) == len(whole)


def test_too_few_scenes_for_a_split_are_refused():
    with pytest.raises(BadSet, match="1 scenes are too few"):
        split(moments(9, scenes=[3] * 9), share=0.2, seed=0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pictures": np.zeros((3, 24, 48), np.uint8)}, "pictures are uint8"),
        ({"pictures": np.zeros((3, 24, 48, 3))}, "pictures are float64"),
        ({"success": np.zeros(3)}, "success are float64"),
        ({"success": np.zeros(2, bool)}, "success are bool"),
        ({"goals": np.array([b"x"] * 3)}, "goals are"),
        ({"progress": np.full(3, 1.5, np.float32)}, "from 0 to 1"),
        ({"progress": np.full(3, np.nan, np.float32)}, "from 0 to 1"),
        ({"scenes": np.zeros(3)}, "scenes are"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, why):
    with pytest.raises(BadSet, match=why):
        replace(moments(3), **change)


def test_chunks_of_other_sizes_do_not_go_together(tmp_path):
    append_moments(tmp_path, moments(2))
    append_moments(tmp_path, moments(2, size=(48, 48)))
    with pytest.raises(BadSet, match="2 sizes"):
        load_moments(tmp_path)


def test_a_folder_without_moments_is_refused(tmp_path):
    with pytest.raises(BadSet, match="holds no moments"):
        load_moments(tmp_path)


def test_a_chunk_that_was_cut_is_refused_by_its_name(tmp_path):
    path = append_moments(tmp_path, moments(2))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadSet, match=r"moments-00000\.npz.*damaged"):
        load_moments(tmp_path)


def test_a_chunk_with_other_arrays_is_refused(tmp_path):
    with (tmp_path / "moments-00000.npz").open("wb") as file:
        np.savez(file, pictures=moments(2).pictures, mood=np.zeros(2))
    with pytest.raises(BadSet, match="missing or unknown: goals, mood"):
        load_moments(tmp_path)
