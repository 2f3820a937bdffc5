"""The scripted expert records what a person would, on the twin."""

import pytest

from rl.record_scripted import main, record
from robot.journal import SOURCES, Journal, read_episode
from robot.recording import dataset

WORDS = {
    "task": "reach",
    "goal": "",
    "episodes": "1",
    "fps": "20",
    "noise": "0.1",
    "seed": "3",
    "size": "96",
}


def test_the_expert_records_a_success_with_both_cameras(tmp_path):
    record(WORDS, Journal(tmp_path))
    episode = read_episode(Journal(tmp_path).episodes()[0])
    assert set(episode.source) == {SOURCES.index("scripted")}
    assert episode.info.goal == "Reach for the red cube."
    assert sorted(episode.frames) == ["front", "side"]
    assert 10 < episode.steps < 4 * 20
    assert all(map(all, episode.frames.values()))


@pytest.mark.parametrize(
    "words", [["task=fold"], ["fps=25"], ["goal=Dance."], ["episodes=many"], ["size=0.5"]]
)
def test_words_that_mean_nothing_end_with_two(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dataset, "JOURNALS", tmp_path)
    assert main(["dataset=pick", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
