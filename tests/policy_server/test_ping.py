"""Where the time goes, and how good pictures may be for it."""

import pytest

from policy_server.link import QUALITIES, QUICK_S, SLOW_S, Quality
from policy_server.ping import PARTS, main, ping
from tests.policy_server.served import Ramp, served


def test_the_parts_of_each_request_are_timed():
    with served(Ramp()) as address:
        times, size = ping(f"ws://{address}", 5)
    assert times.shape == (5, len(PARTS))
    assert (times >= 0).all()
    assert size > 50


def test_the_budget_decides_the_exit_code(capsys):
    with served(Ramp()) as address:
        assert main([f"url=ws://{address}", "n=3"]) == 0
    assert "the budget of 110 ms holds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["url=ws://127.0.0.1:9"], 3, "make serve-pi"),
        (["n=0"], 2, "whole number"),
        (["m=3"], 2, "m"),
    ],
)
def test_what_cannot_be_asked_is_said(capsys, words, code, why):
    assert main(words) == code
    assert why in capsys.readouterr().err


def test_pictures_get_smaller_on_a_slow_way_and_better_on_a_quick_one():
    quality = Quality()
    assert quality.jpeg == QUALITIES[0]
    for _ in range(100):
        quality.took(3 * SLOW_S)
    assert quality.jpeg == QUALITIES[-1]
    for _ in range(100):
        quality.took(QUICK_S / 4)
    assert quality.jpeg == QUALITIES[0]


def test_a_way_of_ordinary_length_changes_nothing():
    quality = Quality()
    for _ in range(100):
        quality.took((SLOW_S + QUICK_S) / 2)
    assert quality.jpeg == QUALITIES[0]
