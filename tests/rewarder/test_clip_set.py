import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewarder.clip_set import (
    BadSet,
    Label,
    SetClip,
    SetInfo,
    add_clip,
    append_label,
    create_set,
    freeze,
    open_set,
)
from rewarder.reward import Clip

INFO = SetInfo(
    name="bench",
    raters={"anna": "a person at the bench"},
    reference="anna",
    command="by hand",
    seed=None,
    cameras=("front",),
    tasks=("lift",),
)


def item(number: int = 0, *, frames: dict[str, list[bytes]] | None = None) -> SetClip:
    pictures = {"front": [b"one", b"", b"three"]} if frames is None else frames
    clip = Clip(
        goal="Lift the red cube.",
        stamps=np.arange(3.0),
        frames=pictures,
        joint_pos=np.full((3, 6), float(number)),
        joint_target=np.zeros((3, 6)),
    )
    return SetClip(clip=clip, task="lift", kind="hover", origin={"seed": number})


@pytest.fixture
def bench(tmp_path) -> Path:
    """Return a set of four clips, half of them labelled a success by anna."""
    folder = tmp_path / "bench"
    create_set(folder, INFO)
    for number in range(4):
        name = add_clip(folder, item(number))
        append_label(folder, "anna", Label(clip=name, success=number % 2 == 0))
    return folder


def test_a_clip_comes_back_as_it_was_put_in(bench):
    name = add_clip(bench, item(7))
    found = open_set(bench).clips[name]
    assert found.clip.frames == {"front": [b"one", b"", b"three"]}
    assert (found.clip.goal, found.task, found.kind) == ("Lift the red cube.", "lift", "hover")
    assert found.origin == {"seed": 7}
    np.testing.assert_array_equal(found.clip.joint_pos, np.full((3, 6), 7.0))


def test_the_same_clip_twice_is_one_clip(bench):
    assert add_clip(bench, item(1)) == add_clip(bench, item(1))
    assert len(open_set(bench).names) == 4


def test_a_later_label_replaces_an_earlier_one_of_the_same_pass(bench):
    [name, *_] = open_set(bench).names
    append_label(bench, "bob", Label(clip=name, success=True, stars=4))
    append_label(bench, "bob", Label(clip=name, success=False, pass_number=2))
    append_label(bench, "bob", Label(clip=name, success=None))
    found = open_set(bench)
    assert found.labels("bob")[name].success is None
    assert found.truth("bob") == {}
    assert found.labels("bob", pass_number=2)[name].success is False


def test_labels_are_lines_that_anybody_can_read(bench):
    [name, *_] = open_set(bench).names
    append_label(bench, "bob", Label(clip=name, success=True, stars=5, at="2026-01-01T00:00:00"))
    said = json.loads((bench / "labels" / "bob.jsonl").read_text())
    assert said == {
        "clip": name, "success": True, "stars": 5, "at": "2026-01-01T00:00:00", "pass": 1,
    }  # fmt: skip


def test_two_raters_agree_as_far_as_kappa_says(bench):
    for label in open_set(bench).labels("anna").values():
        append_label(bench, "bob", replace(label, success=True))
    kappa = open_set(bench).between("anna", "bob")
    assert (kappa.count, kappa.share, kappa.kappa) == (4, 0.5, 0.0)


def test_a_second_look_is_compared_with_the_first(bench):
    names = list(open_set(bench).labels("anna").values())
    for label in names[:2]:
        append_label(bench, "anna", replace(label, pass_number=2))
    append_label(bench, "anna", replace(names[2], pass_number=2, success=None))
    kappa = open_set(bench).second_look("anna")
    assert (kappa.count, kappa.share, kappa.kappa) == (2, 1.0, 1.0)


def test_a_frozen_set_opens_as_long_as_nothing_is_changed(bench):
    digest = freeze(bench)
    assert open_set(bench).frozen == digest


def relabel(folder: Path) -> None:
    path = folder / "labels" / "anna.jsonl"
    path.write_text(path.read_text().replace("true", "false", 1))


def take_a_clip_away(folder: Path) -> None:
    min((folder / "clips").iterdir()).unlink()


def add_a_rater(folder: Path) -> None:
    shutil.copy(folder / "labels" / "anna.jsonl", folder / "labels" / "bob.jsonl")


def rename_it(folder: Path) -> None:
    path = folder / "set.json"
    path.write_text(path.read_text().replace('"bench"', '"human50"'))


@pytest.mark.parametrize("change", [relabel, take_a_clip_away, add_a_rater, rename_it])
def test_a_frozen_set_that_was_changed_is_refused(bench, change):
    freeze(bench)
    change(bench)
    with pytest.raises(BadSet, match="changed after it was frozen"):
        open_set(bench)


def test_a_clip_whose_bytes_were_changed_is_refused(bench):
    path = min((bench / "clips").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BadSet, match="no longer has the hash"):
        open_set(bench)


def test_a_frozen_set_takes_no_labels_and_no_clips(bench):
    freeze(bench)
    [name, *_] = open_set(bench).names
    with pytest.raises(BadSet, match="is frozen; work on a copy: cp -r"):
        append_label(bench, "bob", Label(clip=name, success=True))
    with pytest.raises(BadSet, match="is frozen"):
        add_clip(bench, item(9))


def test_a_set_of_one_verdict_cannot_be_frozen(tmp_path):
    create_set(tmp_path, INFO)
    append_label(tmp_path, "anna", Label(clip=add_clip(tmp_path, item()), success=False))
    with pytest.raises(BadSet, match="0 clips a success and 1 a failure"):
        freeze(tmp_path)


def test_a_folder_without_a_set_is_named(tmp_path):
    with pytest.raises(BadSet, match="holds no set of clips"):
        open_set(tmp_path)


def test_a_set_is_not_made_over_another(bench):
    with pytest.raises(BadSet, match="holds a set already"):
        create_set(bench, INFO)


@pytest.mark.parametrize("rater", ["", "../anna", "Anna", "a/b", "a" * 40])
def test_a_rater_has_a_name_that_is_no_path(bench, rater):
    [name, *_] = open_set(bench).names
    with pytest.raises(BadSet, match="no name of a rater"):
        append_label(bench, rater, Label(clip=name, success=True))


@pytest.mark.parametrize("clip", ["", "../../etc/passwd", "0" * 16])
def test_a_label_of_no_clip_is_refused(bench, clip):
    with pytest.raises(BadSet, match=r"no (name of a )?clip"):
        append_label(bench, "anna", Label(clip=clip, success=True))


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"clip": "x"}', '{"clip": "x", "success": 1, "pass": 1}']
)
def test_a_line_that_is_no_label_is_named(bench, line):
    with (bench / "labels" / "anna.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadSet, match=r"anna.jsonl, line 5, is no label"):
        open_set(bench).labels("anna")


@pytest.mark.parametrize("wrong", [{"stars": 0}, {"stars": 6}, {"pass_number": 3}])
def test_stars_and_passes_have_bounds(wrong):
    with pytest.raises(BadSet):
        Label(clip="0" * 16, success=True, **wrong)


def test_a_clip_of_no_moments_is_refused(bench):
    empty = replace(item().clip, stamps=np.zeros(0), frames={"front": []})
    with pytest.raises(BadSet, match="0 moments"):
        add_clip(bench, replace(item(), clip=empty))
