import json
import socketserver
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from http.client import parse_headers

import numpy as np
import pytest

from rewarder.client import RemoteReward
from rewarder.heuristic import HeuristicReward
from rewarder.messages import ScoreBody, score_message
from rewarder.reward import NoScore, Score


@contextmanager
def answering(answer: bytes, *, then_hang: bool = False):
    """Serve raw bytes to every request, and then close the connection or leave it open."""
    released = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            headers = parse_headers(self.rfile)
            self.rfile.read(int(headers["Content-Length"]))
            self.request.sendall(answer)
            if then_hang:
                released.wait(10)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            released.set()
            server.shutdown()
            thread.join(10)


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    length = str(len(body)).encode()
    return (
        b"HTTP/1.1 "
        + status
        + b"\r\nConnection: close\r\nContent-Length: "
        + length
        + b"\r\n\r\n"
        + body
    )


@pytest.fixture
def remote():
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(closing(RemoteReward(url, **options)))


@pytest.fixture(params=["local", "remote"])
def model(request, cameras, served, remote):
    """The same model in process and behind a real socket: both keep one contract."""
    local = HeuristicReward(cameras)
    if request.param == "local":
        yield local
    else:
        with served(local) as url:
            yield remote(url)


def test_a_score_is_that_of_the_clip(model, clip, cameras):
    score, local = model.score(clip), HeuristicReward(cameras).score(clip)
    assert score.success.tolist() == [False, False, True]
    assert np.array_equal(score.progress, local.progress)
    assert np.array_equal(score.valid, local.valid)
    assert (score.model, score.evidence) == (local.model, local.evidence)


def test_missing_pictures_are_not_valid(model, clip):
    score = model.score(replace(clip, frames={**clip.frames, "front": [b""] * 3}))
    assert not score.valid.any()


def test_cameras_of_the_clip_come_first(model, clip, cameras):
    moved = {name: replace(camera, pos=camera.pos + 0.1) for name, camera in cameras.items()}
    assert not model.score(replace(clip, cameras=moved)).success.any()


@pytest.mark.parametrize(
    "change",
    [
        {"goal": "Fold the shirt."},
        {"frames": {"top": [b"", b"", b""]}},
        {"joint_pos": np.full((3, 6), np.nan)},
    ],
)
def test_a_clip_that_cannot_be_judged_is_no_score_and_no_use_to_repeat(model, clip, change):
    with pytest.raises(NoScore) as refusal:
        model.score(replace(clip, **change))
    assert not refusal.value.retry


def test_a_token_is_sent(served, cameras, clip, remote):
    with served(HeuristicReward(cameras), token="secret") as url:
        assert remote(url, token="secret").score(clip).success[-1]
        with pytest.raises(NoScore, match="401") as refusal:
            remote(url, token="wrong").score(clip)
    assert refusal.value.retry


def test_a_clip_over_the_limit_is_not_even_sent(clip, remote):
    large = replace(clip, frames={"front": [b"x" * 3_000_000] * 3})
    with pytest.raises(NoScore, match="bytes") as refusal:
        remote("http://127.0.0.1:1").score(large)
    assert not refusal.value.retry


def test_log_odds_and_notes_come_over_the_wire():
    nothing = np.zeros(3, bool)
    logit = np.array([-1.5, np.nan, 2.0])
    score = Score(
        success=nothing,
        progress=np.zeros(3),
        valid=nothing,
        model="fake/1",
        logit=logit,
        notes={"why": "black"},
    )
    answer = json.dumps(score_message(score, latency_ms=1.0, request_id="0"))
    found = ScoreBody.model_validate_json(answer).score(3)
    assert np.array_equal(found.logit, logit, equal_nan=True)
    assert found.notes == {"why": "black"}


def good_answer(count=3, **changes):
    nothing = np.zeros(count, bool)
    score = Score(success=nothing, progress=np.zeros(count), valid=nothing, model="fake/1")
    return score_message(score, latency_ms=1.0, request_id="0") | changes


def encoded(answer) -> bytes:
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"\xff\xfe",
        encoded(good_answer(count=2)),
        encoded(good_answer(progress=[0.0, 0.5, 1.5])),
        encoded(good_answer(progress=[0.0, float("nan"), 0.0])),
        encoded(good_answer(success=[0, 1, 0])),
        encoded(good_answer(valid=None)),
        b" " * 2_000_000,
    ],
)
def test_garbage_is_no_score_and_may_be_asked_again(clip, remote, body):
    with answering(http(body)) as url, pytest.raises(NoScore, match="something else") as refusal:
        remote(url).score(clip)
    assert refusal.value.retry


@pytest.mark.parametrize(
    ("status", "retry"),
    [(b"500 Oops", True), (b"503 Busy", True), (b"429 Many", True), (b"504 Late", True),
     (b"302 Found", False), (b"422 Wrong", False), (b"404 Gone", False)],
)  # fmt: skip
def test_an_answer_that_is_not_200_is_no_score(clip, remote, status, retry):
    answer = http(b'{"message": "why\\u001b[31m"}', status)
    with answering(answer) as url, pytest.raises(NoScore, match=r"why\[31m") as refusal:
        remote(url).score(clip)
    assert refusal.value.retry is retry


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_an_answer_that_does_not_come_is_no_score(clip, remote, start):
    with answering(start, then_hang=True) as url, pytest.raises(NoScore, match="within") as refusal:
        remote(url, timeout_s=0.2).score(clip)
    assert refusal.value.retry


@pytest.mark.parametrize(
    "start", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"]
)
def test_a_broken_connection_is_no_score(clip, remote, start):
    with answering(start) as url, pytest.raises(NoScore, match="cannot be reached") as refusal:
        remote(url).score(clip)
    assert refusal.value.retry


def test_a_service_that_is_down_is_no_score_and_not_available(clip, remote):
    down = remote("http://127.0.0.1:1")
    with pytest.raises(NoScore, match="cannot be reached") as refusal:
        down.score(clip)
    assert refusal.value.retry
    assert not down.available()


def test_a_service_that_is_up_is_available(served, cameras, remote):
    with served(HeuristicReward(cameras)) as url:
        assert remote(url).available()


def test_an_address_that_is_none_is_refused_at_once():
    with pytest.raises(ValueError, match="REWARDER_URL"):
        RemoteReward("127.0.0.1:18080")
