import logging
import os
import stat
import time

import pytest
import structlog

from robot.process import daemon_log
from robot.process.daemon_log import DAY_S, KEPT_S, log_to


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("LOG_DIR", str(tmp_path / "logs"))
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield lambda: log_to("arm01")
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def line(text):
    logging.getLogger("arm").info(text)


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_log_is_its_owners_and_so_is_what_it_was_before(log):
    path = log()
    line("first")
    age(path, 2 * DAY_S)
    line("second")
    earlier = path.with_name("arm01.log.1")
    assert (path.read_text(), earlier.read_text()) == ("second\n", "first\n")
    assert {mode(path), mode(earlier)} == {0o600}
    assert mode(path.parent) == 0o700


def test_a_day_has_one_file_until_it_is_full(log, monkeypatch):
    monkeypatch.setattr(daemon_log, "MAX_BYTES", 100)
    path = log()
    for _ in range(3):
        line("x" * 40)
    assert [len(file.read_text().splitlines()) for file in sorted(path.parent.iterdir())] == [1, 2]


def test_nothing_is_kept_for_more_than_a_month(log):
    path = log()
    old, young = (path.with_name(f"arm01.log.{number}") for number in (4, 3))
    for file, seconds in ((old, KEPT_S + DAY_S), (young, KEPT_S - 2 * DAY_S)):
        file.write_text("10.0.0.7\n")
        age(file, seconds)
    line("today")
    age(path, DAY_S + 10)
    line("tomorrow")
    kept = sorted(file.name for file in path.parent.iterdir())
    assert kept == ["arm01.log", "arm01.log.1", "arm01.log.4"]
    assert path.with_name("arm01.log.4").stat().st_mtime > time.time() - KEPT_S


def test_a_log_that_was_deleted_begins_anew(log):
    path = log()
    line("first")
    path.unlink()
    line("second")
    assert path.read_text() == "second\n"
