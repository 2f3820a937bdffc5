import json
import threading
from contextlib import ExitStack

import httpx
import numpy as np
import pytest

from rewarder.admin_api import Records
from rewarder.client import RemoteReward
from rewarder.desk import Limits
from rewarder.messages import PATIENCE, clip_message
from rewarder.reward import NoScore, Score
from rewarder.score_log import ScoreLog


class Gated:
    """A model that waits for its gate, and fails over goals that say so."""

    def __init__(self):
        self.gate, self.asked = threading.Event(), threading.Semaphore(0)
        self.fails = {}

    def score(self, clip):
        self.asked.release()
        assert self.gate.wait(20)
        if clip.goal in self.fails:
            raise self.fails[clip.goal]
        nothing = np.zeros(len(clip), bool)
        return Score(success=nothing, progress=np.zeros(len(clip)), valid=nothing, model="gated/1")


@pytest.fixture
def model():
    found = Gated()
    yield found
    found.gate.set()


@pytest.fixture
def client_of(served, model):
    with ExitStack() as stack:

        def make(**options):
            limits = Limits(**options.pop("limits", {}))
            url = stack.enter_context(served(model, limits=limits, **options))
            # Leaves before the server: what is still being scored is let go.
            stack.callback(model.gate.set)
            return stack.enter_context(httpx.Client(base_url=url, timeout=30))

        yield make


@pytest.fixture
def message(clip):
    return clip_message(clip)


def in_background(call):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return lambda: (thread.join(20), answers[0])[1]


def figure(client, name):
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name + " ")), 0.0)


def until(condition, tries=1000):
    """Wait until a condition holds; say so where it does not."""
    never = threading.Event()
    while not condition():
        tries -= 1
        assert tries, "it did not happen in time"
        never.wait(0.01)


def test_a_late_clip_is_no_label_and_never_a_zero(client_of, model, message):
    answer = client_of().post("/score", json=message, headers={PATIENCE: "0.2"})
    assert (answer.status_code, answer.json()["code"]) == (503, "late")
    assert answer.headers["Retry-After"]
    assert "progress" not in answer.text


def test_the_services_own_deadline_counts_where_a_request_has_none(client_of, message):
    answer = client_of(limits={"deadline_s": 0.2}).post("/score", json=message)
    assert answer.json()["code"] == "late"


def test_what_was_late_is_there_for_whoever_asks_again(client_of, model, message):
    client = client_of()
    client.post("/score", json=message, headers={PATIENCE: "0.2"})
    model.gate.set()
    again = client.post("/score", json=message)
    assert again.status_code == 200
    until(lambda: not figure(client, "rewarder_pending"))
    assert client.post("/score", json=message).json()["cached"]


def test_a_late_clip_holds_its_place_until_it_is_scored(client_of, model, message):
    client = client_of(limits={"max_pending": 1})
    client.post("/score", json=message, headers={PATIENCE: "0.2"})
    assert client.post("/score", json=message).status_code == 429
    assert figure(client, "rewarder_pending") == 1
    assert figure(client, 'rewarder_refused_total{why="busy"}') == 1
    assert figure(client, 'rewarder_refused_total{why="late"}') == 1


def test_what_is_late_before_its_turn_is_not_scored_at_all(client_of, model, message):
    client = client_of(limits={"workers": 1})
    first = in_background(lambda: client.post("/score", json=message))
    assert model.asked.acquire(timeout=10)
    late = client.post("/score", json=message | {"goal": "2"}, headers={PATIENCE: "0.2"})
    model.gate.set()
    assert (first().status_code, late.status_code) == (200, 503)
    assert client.post("/score", json=message | {"goal": "3"}).status_code == 200
    assert model.asked.acquire(timeout=10)
    assert not model.asked.acquire(blocking=False)


@pytest.mark.parametrize("patience", ["0", "-1", "nan", "inf", "601", "soon", ""])
def test_a_patience_that_makes_no_sense_is_refused(client_of, message, patience):
    answer = client_of().post("/score", json=message, headers={PATIENCE: patience})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


def test_a_client_says_how_long_it_waits(client_of, model, clip):
    client = client_of()
    remote = RemoteReward(str(client.base_url), timeout_s=0.3)
    with pytest.raises(NoScore) as refusal:
        remote.score(clip)
    remote.close()
    assert refusal.value.retry
    until(lambda: figure(client, 'rewarder_refused_total{why="late"}') == 1)


def test_the_clips_of_a_batch_are_scored_side_by_side(client_of, model, message):
    client = client_of(limits={"workers": 3})
    clips = [message | {"goal": f"Goal {n}."} for n in range(3)]
    answer = in_background(lambda: client.post("/score_batch", json={"clips": clips}))
    for _ in clips:
        assert model.asked.acquire(timeout=10)
    model.gate.set()
    assert [one["model"] for one in answer().json()["results"]] == ["gated/1"] * 3


def test_one_bad_clip_of_a_batch_does_not_hurt_the_others(client_of, model, message):
    model.fails = {"away": NoScore("away", retry=True), "odd": NoScore("odd goal")}
    model.gate.set()
    clips = [message, message | {"goal": "away"}, {}, message | {"goal": "odd"}]
    results = client_of().post("/score_batch", json={"clips": clips}).json()["results"]
    assert results[0]["model"] == "gated/1"
    codes = [one["error"]["code"] for one in results[1:]]
    assert codes == ["no_score", "invalid", "no_score"]


def test_every_clip_has_a_line_in_the_log(client_of, model, message, tmp_path):
    model.fails = {"odd": NoScore("odd goal")}
    model.gate.set()
    score_log = ScoreLog(tmp_path, days=1, most_mb=1, secrets=[])
    client = client_of(records=Records(score_log=score_log))
    answers = [client.post("/score", json=m) for m in (message, message, message | {"goal": "odd"})]
    score_log.close()
    [path] = tmp_path.glob("scores-*")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["cached"], line["why"]) for line in lines] == [
        (False, None), (True, None), (False, "odd goal"),
    ]  # fmt: skip
    assert [line["request_id"] for line in lines] == [a.headers["X-Request-Id"] for a in answers]
    assert lines[0]["clip"] == answers[0].json()["clip"]
    assert (tmp_path / lines[0]["thumbnail"]).exists()


def test_a_log_that_cannot_be_written_fails_no_score(client_of, model, message, tmp_path):
    model.gate.set()
    (tmp_path / "log").write_text("in the way")
    score_log = ScoreLog(tmp_path / "log", days=1, most_mb=1, secrets=[])
    assert (
        client_of(records=Records(score_log=score_log)).post("/score", json=message).status_code
        == 200
    )
    score_log.close()


@pytest.mark.parametrize("how", [{"workers": 0}, {"max_pending": 0}, {"deadline_s": 0.0}])
def test_limits_that_make_no_sense_are_refused(how):
    with pytest.raises(ValueError, match="deadline_s"):
        Limits(**how)
