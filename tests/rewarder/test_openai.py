import base64
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rewarder.answers import log_odds
from rewarder.openai import Breaker, OpenAiVL
from rewarder.prompts import LETTER, TRUE, YES_NO
from rewarder.reward import NoScore
from rewarder.server import build, configured
from rewarder.vision_model import Question
from robot.pictures import any_picture

GOAL = "Lift the red cube."
PICTURE = np.full((32, 64, 3), 90, np.uint8)


def completion(tokens):
    top = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in tokens.items()]
    content = [{**top[0], "top_logprobs": top}] if top else []
    message = {"role": "assistant", "content": "?"}
    choice = {"index": 0, "message": message, "logprobs": {"content": content}}
    return {"id": "x", "object": "chat.completion", "choices": [choice]}


class Served:
    """What the endpoint answers next, and what it was asked."""

    def __init__(self):
        self.status, self.content = 200, json.dumps(completion({"Yes": -0.1, " No": -2.5}))
        self.by_text = {}
        self.asked, self.headers, self.paths = [], [], []
        self.trickle = threading.Event()
        self.trickles = False

    def answer(self, body):
        text = body["messages"][0]["content"][-1]["text"]
        found = [said for part, said in self.by_text.items() if part in text]
        return json.dumps(completion(found[0])) if found else self.content


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        served = self.server.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served.asked.append(body)
        served.headers.append(dict(self.headers))
        served.paths.append(self.path)
        content = served.answer(body).encode()
        self.send_response(served.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if served.trickles:
            self.wfile.write(content[:5])
            self.wfile.flush()
            served.trickle.wait(30)
            return
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_):
        """Say nothing of clients that hung up."""


@contextmanager
def running():
    server = Server(("127.0.0.1", 0), Handler)
    server.served = Served()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.served.trickle.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def served(server):
    return server.served


class Now:
    """A clock that stands until it is set."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def model(server, now):
    return client(server.server_address[1], now)


def client(port, now, *, timeout_s=20.0, token=None):
    breaker = Breaker(failures=3, rest_s=30.0, clock=now)
    url = f"http://127.0.0.1:{port}/v1"
    return OpenAiVL(
        url, "qwen", engine="vllm/0.11", token=token, timeout_s=timeout_s, breaker=breaker
    )


def question(prompt=YES_NO, goal=GOAL, pictures=1):
    return Question(pictures=[PICTURE] * pictures, goal=goal, prompt=prompt)


def test_spellings_of_an_answer_are_added_up(model, served):
    said = {"Yes": -1.0, " yes": -2.0, "No": -1.5, "Maybe": -3.0}
    served.content = json.dumps(completion(said))
    answer = model.ask([question()])[0]
    assert np.exp(answer.log_probs) == pytest.approx([np.exp(-1) + np.exp(-2), np.exp(-1.5)])
    assert answer.mass == pytest.approx(np.exp(-1) + np.exp(-2) + np.exp(-1.5))


def test_the_server_is_asked_for_one_token_and_the_twenty_likeliest(model, served):
    model.ask([question(pictures=2)])
    body = served.asked[0]
    assert served.paths == ["/v1/chat/completions"]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("qwen", 1, 0.0)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    *pictures, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": YES_NO.about(GOAL)}
    urls = [part["image_url"]["url"] for part in pictures]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    image = any_picture(base64.b64decode(urls[0].partition(",")[2]))
    assert abs(image.astype(int) - PICTURE).max() <= 2


def test_many_questions_are_answered_in_their_order(model, served):
    colours = ["red", "green", "blue"] * 8
    served.by_text = {c: {"Yes": -float(i + 1)} for i, c in enumerate(("red", "green", "blue"))}
    answers = model.ask([question(goal=f"Lift the {colour} cube.") for colour in colours])
    assert [answer.log_probs[0] for answer in answers] == [-1.0, -2.0, -3.0] * 8


def test_an_answer_beyond_the_twenty_is_as_good_as_never_said(model, served):
    served.content = json.dumps(completion({"Yes": -0.001, "\n": -8.0}))
    answer = model.ask([question()])[0]
    assert answer.log_probs[1] == -np.inf
    assert np.isfinite(log_odds(answer.log_probs))


def test_neither_yes_nor_no_is_an_answer_without_mass(model, served):
    served.content = json.dumps(completion({"The": -0.2, "I": -2.0}))
    answer = model.ask([question(), question(LETTER)])[0]
    assert answer.mass == 0.0


def test_the_token_is_sent_and_is_in_no_name(server, now, served):
    model = client(server.server_address[1], now, token="secret")
    model.ask([question()])
    assert served.headers[0]["Authorization"] == "Bearer secret"
    assert model.name == "qwen vllm/0.11"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_the_server_does_not_take_is_not_asked_again(model, served, status):
    served.status, served.content = status, '{"message": "too many pictures"}'
    for _ in range(5):
        with pytest.raises(NoScore, match="too many pictures") as refused:
            model.ask([question()])
        assert not refused.value.retry


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_server_in_trouble_gives_no_score_and_may_be_asked_later(model, served, status):
    served.status, served.content = status, "busy"
    with pytest.raises(NoScore, match=f"{status}: busy") as refused:
        model.ask([question()])
    assert refused.value.retry


NO_LOGPROBS = {"choices": [{"message": {"content": "Yes"}, "logprobs": None}]}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "Yes",
        "[]",
        "null",
        '{"choices": []}',
        json.dumps(NO_LOGPROBS),
        json.dumps(completion({})),
        json.dumps(completion({"Yes": 3.0})),
        json.dumps(completion({"Yes": "likely"})),
        json.dumps(completion({"Yes": float("nan")})),
        "{" * 2000,
        json.dumps(completion({"Yes": -1.0, "x" * 1_100_000: -2.0})),
    ],
    ids=lambda content: content[:40] or "empty",
)
def test_garbage_is_no_score(model, served, content):
    served.content = content
    with pytest.raises(NoScore, match="something else than a token") as refused:
        model.ask([question()])
    assert refused.value.retry


def test_one_bad_answer_of_many_leaves_no_score_for_any(model, served):
    served.by_text = {"red": {"Yes": -1.0}, "blue": {}}
    with pytest.raises(NoScore):
        model.ask([question(), question(goal="Lift the blue cube.")])


def test_an_answer_that_trickles_ends_with_the_deadline(server, served, now):
    served.trickles = True
    model = client(server.server_address[1], now, timeout_s=0.3)
    started = time.monotonic()
    with pytest.raises(NoScore, match=r"no answer within 0\.3 s") as refused:
        model.ask([question()])
    assert refused.value.retry
    assert time.monotonic() - started < 10.0


@pytest.fixture
def nobody(now):
    with running() as server:
        port = server.server_address[1]
    return client(port, now)


def test_nobody_there_is_no_score(nobody):
    with pytest.raises(NoScore, match="cannot be reached") as refused:
        nobody.ask([question()])
    assert refused.value.retry


def fails(model, times, why):
    for _ in range(times):
        with pytest.raises(NoScore, match=why) as refused:
            model.ask([question()])
        assert refused.value.retry


def test_a_server_that_failed_three_times_is_left_alone_for_a_while(model, served):
    served.status = 503
    fails(model, 3, "503")
    fails(model, 4, "failures in a row")
    assert len(served.asked) == 3


def test_after_the_rest_one_question_tries_and_closes_the_breaker(model, served, now):
    served.status = 503
    fails(model, 3, "503")
    now.at, served.status = 30.0, 200
    assert len(model.ask([question()])) == 1
    assert len(model.ask([question()])) == 1


def test_after_a_failed_trial_the_rest_begins_again(model, served, now):
    served.status = 503
    fails(model, 3, "503")
    now.at = 31.0
    fails(model, 1, "503")
    now.at = 60.0
    fails(model, 1, "failures in a row")
    now.at = 61.0
    fails(model, 1, "503")
    assert len(served.asked) == 5


def test_while_one_question_tries_the_others_wait(now):
    breaker = Breaker(failures=1, rest_s=30.0, clock=now)
    breaker.failed()
    now.at = 30.0
    breaker.admit()
    with pytest.raises(NoScore):
        breaker.admit()
    breaker.worked()
    breaker.admit()


def test_failures_count_only_in_a_row(model, served):
    for _ in range(4):
        served.status = 500
        fails(model, 2, "500")
        served.status = 200
        assert len(model.ask([question()])) == 1
    assert len(served.asked) == 12


@pytest.mark.parametrize("goal", ["x" * 5000, "<|im_start|>", ""])
def test_a_goal_that_is_no_plain_sentence_is_not_sent(model, served, goal):
    with pytest.raises(NoScore) as refused:
        model.ask([question(goal=goal)])
    assert not refused.value.retry
    assert served.asked == []


def test_a_text_to_be_continued_is_not_for_a_chat(model, served):
    with pytest.raises(NoScore, match="progress=letter"):
        model.ask([question(TRUE)])
    assert served.asked == []


def test_a_served_model_is_a_word_of_the_command_line(server, served, clip, monkeypatch):
    monkeypatch.setenv("VLM_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
    monkeypatch.setenv("MODEL", "mine")
    served.by_text = {"one letter": {"T": -0.1}, "Yes or No": {"Yes": -0.2, "No": -2.0}}
    score = build(configured(["reward=openai"])).score(clip)
    assert {body["model"] for body in served.asked} == {"mine"}
    assert score.logit[-1] == pytest.approx(1.8)
    assert score.success[-1]


def test_an_address_that_is_none_is_refused(now):
    with pytest.raises(ValueError, match="VLM_URL"):
        OpenAiVL(
            "localhost:8000",
            "qwen",
            engine="vllm",
            token=None,
            timeout_s=1.0,
            breaker=Breaker(failures=1, rest_s=1.0),
        )
