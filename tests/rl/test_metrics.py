import sys
from types import SimpleNamespace

import pytest

from rl.metrics import Metrics
from rl.run_folder import RunFolder


class TrackerError(Exception):
    pass


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    yield folder
    folder.close()


@pytest.fixture
def tracker(monkeypatch):
    logged = []
    run = SimpleNamespace(
        log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: None
    )
    fake = SimpleNamespace(Error=TrackerError, init=lambda **_: run, logged=logged)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "arms")
    return fake


def write(folder):
    metrics = Metrics(folder)
    metrics.write(7, {"loop/success": 0.5})
    metrics.close()
    return list(folder.lines("metrics.jsonl"))


def test_numbers_go_to_the_run_folder_and_to_the_tracker(folder, tracker):
    assert write(folder) == [{"loop/success": 0.5}]
    assert tracker.logged == [(7, {"loop/success": 0.5})]


def test_nothing_is_tracked_without_a_project(folder, tracker, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT")
    write(folder)
    assert tracker.logged == []


def test_a_tracker_that_fails_stops_nothing(folder, tracker, monkeypatch):
    def away(**_):
        raise TrackerError("no network")

    monkeypatch.setattr(tracker, "init", away)
    assert write(folder) == [{"loop/success": 0.5}]
    assert tracker.logged == []


def test_a_tracker_that_fails_on_the_way_stops_nothing(folder, tracker, monkeypatch):
    def away(*_, **__):
        raise TrackerError("no network")

    monkeypatch.setattr(tracker.init(), "log", away)
    monkeypatch.setattr(tracker.init(), "finish", away)
    assert write(folder) == [{"loop/success": 0.5}]
    metrics = Metrics(folder)
    metrics.close()
