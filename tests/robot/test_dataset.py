"""A journal becomes a LeRobot v3 dataset, again and again the same."""

import json
import shutil

import numpy as np
import pyarrow
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from pyarrow import parquet

from robot.journal import Journal
from robot.recording import dataset as dataset_module
from robot.recording.dataset import DatasetError, actions_of, export
from robot.recording.dataset import main as export_main
from robot.recording.dataset_check import check
from robot.recording.dataset_check import main as check_main
from robot.recording.dataset_repair import main as repair_main
from robot.recording.dataset_repair import repair
from robot.recording.motion_quality import motion_of
from tests.robot.recorded import FPS, STEPS, make_episode


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "pick")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pick" / "lerobot"


@pytest.mark.parametrize("first", [0, 1])
def test_absolute_actions_are_what_was_sent(first):
    episode = make_episode(0, first=first)
    sent = episode.joint_target[first + 1 :]
    np.testing.assert_allclose(actions_of(episode, "absolute"), sent, atol=1e-4)


def test_delta_actions_add_up_to_what_was_sent():
    episode = make_episode(0)
    way = episode.joint_target[0] + np.cumsum(actions_of(episode, "delta"), axis=0)
    np.testing.assert_allclose(way[:, :5], episode.joint_target[1:, :5], atol=1e-4)


def test_relative_actions_count_from_where_the_arm_is():
    episode = make_episode(0)
    reached = episode.joint_pos[:-1] + actions_of(episode, "relative")
    np.testing.assert_allclose(reached[:, :5], episode.joint_target[1:, :5], atol=1e-4)


@pytest.mark.parametrize("kind", ["delta", "relative"])
def test_the_gripper_stays_absolute(kind):
    episode = make_episode(0)
    sent = episode.joint_target[1:, 5]
    np.testing.assert_allclose(actions_of(episode, kind)[:, 5], sent, atol=1e-4)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two exported episodes, and a video that is too short for them."""
    folder = tmp_path_factory.mktemp("original")
    journal = Journal(folder / "pick")
    for number in range(2):
        journal.seal(make_episode(number, goal=f"Goal {number}."))
    export(journal, folder / "pick" / "lerobot")
    short = Journal(folder / "one")
    short.seal(make_episode(0))
    export(short, folder / "one" / "lerobot")
    shutil.move(
        folder / "one" / "lerobot" / VIDEO / "chunk-000" / "file-000.mp4", folder / "short.mp4"
    )
    return folder


@pytest.fixture
def made(original, tmp_path):
    """A journal and its dataset, to be damaged."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return Journal(tmp_path / "pick"), tmp_path / "pick" / "lerobot"


def test_lerobot_reads_what_was_exported(made):
    _, root = made
    dataset = LeRobotDataset("local/pick", root=root, video_backend="pyav")
    assert (dataset.num_episodes, len(dataset), dataset.fps) == (2, 2 * STEPS, FPS)
    item = dataset[STEPS + 3]
    episode = make_episode(1)
    assert item["task"] == "Goal 1."
    np.testing.assert_allclose(item["observation.state"], episode.joint_pos[3], atol=1e-4)
    np.testing.assert_allclose(item["action"], episode.joint_target[4], atol=1e-4)
    np.testing.assert_allclose(item["observation.images.side"].mean() * 255, 60, atol=4)


def contents(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_exporting_twice_changes_nothing(made):
    journal, root = made
    before = contents(root)
    export(journal, root)
    assert contents(root) == before


def test_an_export_goes_on_where_the_last_one_ended(made):
    journal, root = made
    before = contents(root)
    journal.seal(make_episode(2))
    manifest = export(journal, root)
    assert manifest.episodes == tuple(path.stem for path in journal.episodes())
    assert check(root, journal).defects == ()
    kept = [path for path in before if path.parts[-4:-2] == ("videos", "observation.images.front")]
    assert all(path.read_bytes() == before[path] for path in kept)
    assert LeRobotDataset("local/pick", root=root, video_backend="pyav").num_episodes == 3


def test_an_export_of_another_kind_is_made_anew(made):
    journal, root = made
    assert export(journal, root, actions="delta").actions == "delta"
    item = LeRobotDataset("local/pick", root=root, video_backend="pyav")[0]
    np.testing.assert_allclose(item["action"], actions_of(make_episode(0), "delta")[0], atol=1e-4)


def test_an_export_keeps_the_kind_of_actions(made):
    journal, root = made
    export(journal, root, actions="delta")
    journal.seal(make_episode(2))
    assert export(journal, root).actions == "delta"
    item = LeRobotDataset("local/pick", root=root, video_backend="pyav")[2 * STEPS]
    np.testing.assert_allclose(item["action"], actions_of(make_episode(2), "delta")[0], atol=1e-4)


def test_an_export_that_died_before_it_was_whole_keeps_the_kind_of_actions(made):
    journal, root = made
    export(journal, root, actions="delta")
    root.rename(root.with_name(".lerobot.old"))
    assert export(journal, root).actions == "delta"


def test_an_export_that_died_leaves_the_dataset_of_before(made):
    journal, root = made
    before = contents(root)
    shutil.copytree(root, root.with_name(".lerobot.partial"))
    root.rename(root.with_name(".lerobot.old"))
    export(journal, root)
    assert contents(root) == before
    assert [path.name for path in root.parent.glob(".lerobot.*")] == []


@pytest.mark.parametrize(
    ("changes", "what"), [({"fps": 20}, "20 fps"), ({"cameras": ("front",)}, "'front'")]
)
def test_episodes_of_two_kinds_are_not_mixed(made, changes, what):
    journal, root = made
    before = contents(root)
    journal.seal(make_episode(2, **changes))
    with pytest.raises(DatasetError, match=f"000002.*{what}.*different datasets"):
        export(journal, root)
    assert contents(root) == before


def test_a_journal_without_episodes_is_no_dataset(journal, root):
    with pytest.raises(DatasetError, match="no sealed episode"):
        export(journal, root)


# What a check finds, and a repair mends


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def rewrite(path, change):
    table = parquet.read_table(path)
    parquet.write_table(change(table), path)


def with_nan(table):
    rows = table.column("action").to_pylist()
    rows[3][2] = float("nan")
    return replaced(table, "action", pyarrow.array(rows, table.schema.field("action").type))


def with_late_row(table):
    stamps = table.column("timestamp").to_pylist()
    stamps[5] += 0.04
    return replaced(table, "timestamp", pyarrow.array(stamps, pyarrow.float32()))


def with_second_like_first(table):
    for name in ("observation.state", "action"):
        half = table.column(name).to_pylist()[:STEPS]
        table = replaced(table, name, pyarrow.array(half * 2, table.schema.field(name).type))
    return table


def replaced(table, name, column):
    return table.set_column(table.column_names.index(name), name, column)


def without_statistics(path):
    statistics = json.loads(path.read_text())
    del statistics["action"]["std"]
    path.write_text(json.dumps(statistics))


DATA, VIDEO = "data/chunk-000/file-000.parquet", "videos/observation.images.side"
DAMAGES = {
    "unreadable": lambda root: cut(root / DATA),
    "video_missing": lambda root: shutil.rmtree(root / VIDEO),
    "video_unequal": lambda root: shutil.copy(
        root.parents[1] / "short.mp4", root / VIDEO / "chunk-000" / "file-000.mp4"
    ),
    "not_finite": lambda root: rewrite(root / DATA, with_nan),
    "timestamps": lambda root: rewrite(root / DATA, with_late_row),
    "length": lambda root: rewrite(root / DATA, lambda table: table.slice(0, 2 * STEPS - 1)),
    "duplicate": lambda root: rewrite(root / DATA, with_second_like_first),
    "stats": lambda root: without_statistics(root / "meta" / "stats.json"),
    "journal": lambda root: (root / "meta" / "journal.json").unlink(),
    "totals": lambda root: shutil.rmtree(root / "meta" / "episodes"),
}


def test_a_sound_dataset_has_no_defects(made):
    journal, root = made
    findings = check(root, journal)
    assert (findings.defects, findings.episodes, findings.frames) == ((), 2, 2 * STEPS)


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_found_and_named(made, kind):
    journal, root = made
    DAMAGES[kind](root)
    assert kind in {defect.kind for defect in check(root, journal).defects}


def test_a_repair_makes_a_dataset_again_from_its_journal(made):
    journal, root = made
    cut(root / DATA)
    manifest, aside = repair(journal, root)
    assert (len(manifest.episodes), aside) == (2, [])
    assert check(root, journal).defects == ()


def test_a_repair_sets_damaged_episodes_aside(made):
    journal, root = made
    cut(journal.episodes()[0])
    manifest, aside = repair(journal, root)
    assert aside == ["000000-0a1b2c3d.npz"]
    assert (journal.folder / "damaged" / aside[0]).exists()
    assert manifest.episodes == ("000001-0a1b2c3d",)


def test_a_repair_keeps_the_kind_of_actions(made):
    journal, root = made
    export(journal, root, actions="relative")
    assert repair(journal, root)[0].actions == "relative"


def test_the_table_ends_with_one_when_there_are_defects(made, tmp_path):
    _, root = made
    said = []
    assert check_main([f"root={root}"], said.append) == 0
    cut(root / DATA)
    assert check_main([f"root={root}", f"json={tmp_path / 'check.json'}"], said.append) == 1
    assert "DEFECT unreadable" in said[-1]
    assert json.loads((tmp_path / "check.json").read_text())["defects"][0]["kind"] == "unreadable"


@pytest.mark.parametrize("program", [check_main, repair_main, export_main])
def test_words_that_mean_nothing_end_with_two(program, capsys):
    assert program(["dataset=../etc"]) == 2
    assert "expected letters" in capsys.readouterr().err


@pytest.mark.parametrize("program", [repair_main, export_main])
def test_a_dataset_that_is_not_there_is_told_and_not_made(program, tmp_path, monkeypatch, capsys):
    Journal(tmp_path / "pick-cube")
    monkeypatch.setattr(dataset_module, "JOURNALS", tmp_path)
    assert program(["dataset=pick-cub"]) == 2
    assert capsys.readouterr().err.endswith("pick-cub is no folder; datasets there: pick-cube\n")
    assert [path.name for path in tmp_path.iterdir()] == ["pick-cube"]


# How a motion is


def smooth(seconds=4.0, fps=30, speed=20.0):
    moments = np.arange(round(seconds * fps)) / fps
    return np.column_stack([speed * np.sin(moments)] * 6)


def test_a_smooth_motion_that_is_followed_is_neither_jerky_nor_idle():
    state = smooth()
    motion = motion_of(state, np.vstack([state[1:], state[-1:]]), fps=30, actions="absolute")
    assert motion.jerk < 30
    assert motion.tracking < 0.1
    assert (motion.saturated, motion.seconds) == (0.0, 4.0)


def test_a_trembling_hand_is_jerky():
    state = smooth() + 0.5 * (-1.0) ** np.arange(120)[:, None]
    assert motion_of(state, state, fps=30, actions="absolute").jerk > 50_000


def test_an_arm_that_is_left_behind_saturates():
    state = smooth()
    motion = motion_of(state, state + 14.0, fps=30, actions="absolute")
    assert motion.saturated == 1.0
    assert motion.tracking == pytest.approx(14.0, abs=1.0)


def test_waiting_at_both_ends_is_idle():
    still = np.zeros((30, 6))
    state = np.vstack([still, np.linspace(0, 30, 60)[:, None] * np.ones(6), still + 30])
    motion = motion_of(state, state, fps=30, actions="absolute")
    assert motion.idle == pytest.approx(0.5, abs=0.02)
    assert motion.idle_ends_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("kind", ["absolute", "relative", "delta"])
def test_the_kind_of_actions_does_not_change_how_a_motion_is(kind):
    episode = make_episode(0)
    motion = motion_of(episode.joint_pos[:-1], actions_of(episode, kind), fps=FPS, actions=kind)
    assert motion.tracking == pytest.approx(1.0, abs=0.01 if kind != "delta" else 1.1)
