"""The fuzzer of a policy server's wire: what it sends is refused, and what is wrong is found."""

import time

import pytest

from ops import fuzz_wire
from ops.fuzz_wire import PART, Found, judged, survive
from ops.serve_checks.hostile_frames import BIG_EVERY, SPEC, frame, observation
from ops.serve_checks.policies import Seeing
from ops.serve_checks.server import serving
from ops.serve_checks.wired import over_socket
from policy_server.messages import BadRequest, question
from robot.wire import WireError, decode_map, encode


def test_a_short_run_finds_nothing():
    found = survive(0, 0, BIG_EVERY)
    assert found.findings == []
    assert sum(found.outcomes.values()) == BIG_EVERY
    assert set(found.outcomes) == {"question", "reset", "WireError", "BadRequest"}


def test_the_frame_that_the_others_are_made_of_is_understood():
    assert question(decode_map(encode(observation())), SPEC, now=0.0).seq == 3


def test_a_frame_is_the_same_whenever_it_is_made():
    assert [frame(3, number) for number in range(50)] == [frame(3, number) for number in range(50)]
    assert frame(3, 7) != frame(4, 7)


def test_a_decoder_that_raises_something_else_is_found():
    def careless(data):
        return {}[data]

    found = survive(1, 10, 3, careless)
    assert [line.partition(":")[0] for line in found.findings] == [
        f"frame={number} seed=1" for number in (10, 11, 12)
    ]
    assert found.outcomes == {"KeyError": 3}


def test_a_decoder_that_is_slow_each_time_is_found():
    def busy(_):
        ends = time.thread_time() + 0.06
        while time.thread_time() < ends:
            pass
        return "question"

    outcome, finding = judged(b"", busy)
    assert outcome == "question"
    assert finding.endswith(" ms")


@pytest.mark.parametrize("error", [WireError("no"), BadRequest("no")])
def test_a_refusal_is_no_finding(error):
    def refuse(_):
        raise error

    assert judged(b"", refuse) == (type(error).__name__, "")


def test_a_process_that_grows_is_found(monkeypatch):
    peaks = iter([0, fuzz_wire.GROWTH + 1])
    monkeypatch.setattr(fuzz_wire, "peak_bytes", lambda: next(peaks))
    assert "bytes" in survive(0, 0, 1, lambda _: "question").findings[0]


def test_a_server_answers_its_friends_while_strangers_send_nonsense():
    with serving(Seeing()) as address:
        seen = over_socket(address, ((number, frame(0, number)) for number in range(60)))
    assert seen.findings == []
    assert sum(seen.outcomes.values()) == 60
    assert seen.answered > 0


def test_one_frame_can_be_seen_again(capsys):
    assert fuzz_wire.main(["frame=7", "seed=3"]) == 0
    assert capsys.readouterr().out.startswith("frame=7 seed=3: ")


@pytest.mark.parametrize("word", ["n=many", "m=3"])
def test_a_word_that_means_nothing_is_refused(word, capsys):
    assert fuzz_wire.main([word]) == 2
    assert word.partition("=")[0] in capsys.readouterr().err


def test_findings_make_the_exit_code(capsys):
    found = Found()
    found.outcomes["question"] = PART
    assert fuzz_wire.report(found, 1000.0) == 0
    found.findings.append("frame=1 seed=0: KeyError")
    assert fuzz_wire.report(found, 1000.0) == 1
    assert "found: frame=1" in capsys.readouterr().out
