from types import SimpleNamespace

import numpy as np
import pytest

from ops.bench_rtc import row_of

STREAM = {"steps": 40, "starved_steps": 0, "delay_steps_max": 2, "seam_jump_mean": 0.1}


def episode(step_s, *, underflows=0, steps=40):
    """Return an episode of even steps, with a look before it and one after it."""
    stamps = np.concatenate([[-9.0], step_s * np.arange(steps + 1), [99.0]])
    streaming = {**STREAM, "underflows": underflows}
    info = SimpleNamespace(truth={"success": True}, config={"streaming": streaming})
    return SimpleNamespace(info=info, stamps=stamps, first_step=1, steps=steps)


def test_the_loop_is_as_quick_as_the_stamps_between_its_steps_say():
    row = row_of([episode(0.05), episode(0.1)], rtc=True, delay_ms=0)
    assert row["loop_hz"] == pytest.approx(80 / 6, abs=0.01)
    assert row["loop_hz_slowest"] == 10.0


def test_underflows_are_counted_beside_the_minutes_that_they_are_of():
    row = row_of([episode(0.05, underflows=1), episode(0.05, underflows=2)], rtc=True, delay_ms=0)
    assert (row["underflows"], row["minutes"]) == (3, round(80 / 20 / 60, 3))


def test_an_episode_of_no_step_has_no_pace():
    row = row_of([episode(0.05), episode(0.05, steps=0)], rtc=True, delay_ms=0)
    assert row["loop_hz_slowest"] == 20.0
