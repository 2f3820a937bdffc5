"""What the benchmark of a recording makes of its measurements; nothing is timed here."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from ops.bench_recorder import (
    FPS,
    Cost,
    Losses,
    arm_cpu_s,
    cpu_s,
    losses_of,
    ps,
    recorder_rows,
)
from ops.safety_checks.victims import made_up_episode
from ops.slideshow import SLIDES, Slideshow, SlideshowConfig, slides, taken_by

NUMBERS = {str(number).encode(): number for number in range(SLIDES)}
"""Of pictures that are their own numbers."""


def episode(stamps, numbers):
    """Return an episode of one camera that shows pictures by their numbers at `stamps`."""
    made = made_up_episode("bench", steps=len(stamps) - 3)
    pictures = [str(number % SLIDES).encode() for number in numbers]
    return replace(made, stamps=np.array(stamps, np.float64), frames={"front": pictures})


def rows(seconds=1.0, late=0.001):
    """Return the stamps of complete rows, a little after pictures 300 and so on were taken."""
    return 10 + late + np.arange(round(seconds * FPS) + 1) / FPS


def test_a_complete_episode_lacks_nothing():
    found = losses_of(episode(rows(), range(300, 331)), NUMBERS)
    assert found == Losses(pictures=31, missing=0, stale=0, between=0)


def test_a_row_with_an_older_picture_than_was_taken_by_then_is_stale():
    shown = [*range(300, 310), 309, *range(311, 331)]
    assert losses_of(episode(rows(), shown), NUMBERS).stale == 1


def test_a_row_that_never_came_is_missing():
    stamps, shown = np.delete(rows(), 10), np.delete(np.arange(300, 331), 10)
    found = losses_of(episode(stamps, shown), NUMBERS)
    assert (found.missing, found.stale, found.between) == (1, 0, 1)


def test_a_picture_that_falls_between_two_rows_is_not_dropped():
    # Rows come 40, 40 and 20 ms apart, since joints are read every 20 ms.
    stamps = 10.025 + np.cumsum([0.0] + [0.04, 0.04, 0.02] * 10)
    shown = [taken_by(stamp, FPS) for stamp in stamps]
    found = losses_of(episode(stamps, shown), NUMBERS)
    assert (found.missing, found.stale, found.between) == (0, 0, 10)


def test_a_recordings_cost_is_of_one_core():
    cost = Cost(wall_s=10.0, recorder_s=2.0, cameras_s=3.0, arm_s=1.0)
    lost = Losses(pictures=100, missing=2, stale=1, between=5)
    dropped, between, cpu = recorder_rows(cost, [lost, lost])
    assert (dropped["ours"], between["ours"], cpu["ours"]) == (6, 10, 50.0)
    assert (cpu["recorder"], cpu["cameras"], cpu["arm_process"]) == (20.0, 30.0, 10.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:01:02", 62.0), ("1-00:00:02", 86402.0), ("1:02.50", 62.5), ("100:00:00", 360000.0)],
)
def test_a_time_is_read_as_ps_writes_it(text, seconds):
    assert cpu_s(text) == seconds


def test_the_cpu_of_an_arms_process_and_of_its_cameras_is_told_apart():
    processes = "  1  0 00:01:00\n 70  1 00:00:09\n 71 70 00:00:30\n 72  1 00:00:50\n"
    assert arm_cpu_s(70, processes) == (9.0, 30.0)


def test_this_process_is_among_those_that_ps_knows():
    assert [os.getpid(), os.getppid()] in [
        [int(number) for number in line.split()[:2]] for line in ps().splitlines()
    ]


def test_a_slideshow_shows_the_newest_picture_with_the_time_it_was_taken():
    camera = Slideshow(SlideshowConfig(fps=1000, width=32, height=24))
    camera.connect()
    for _ in range(3):
        picture, stamp = camera.async_read(), camera.capture_stamp
        assert stamp <= time.monotonic() + 1e-6
        number = taken_by(stamp, 1000)
        assert np.array_equal(picture, slides(24, 32)[number % SLIDES])


def test_a_slideshow_shows_no_picture_twice():
    camera = Slideshow(SlideshowConfig(fps=1000, width=32, height=24))
    camera.connect()
    stamps = [(camera.async_read(), camera.capture_stamp)[1] for _ in range(5)]
    assert (np.diff(stamps) > 0.0005).all()


def test_no_two_slides_are_the_same():
    assert len({slide.tobytes() for slide in slides(24, 32)}) == SLIDES
