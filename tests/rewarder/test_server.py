import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarder.desk import Limits
from rewarder.heuristic import HeuristicReward
from rewarder.messages import MAX_BYTES, clip_message
from rewarder.reward import NoScore, Score
from rewarder.server import SERVICE, main
from robot.http_server import ServiceError
from robot.service_main import announce

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4
JSON = {"Content-Type": "application/json"}


class Failing:
    """A model that always raises."""

    def __init__(self, error):
        self.error = error

    def score(self, clip):
        raise self.error


class Gated:
    """A model that waits for its gate."""

    def __init__(self):
        self.started, self.gate = threading.Event(), threading.Event()

    def score(self, clip):
        self.started.set()
        self.gate.wait(10)
        count = len(clip)
        nothing = np.zeros(count, bool)
        return Score(success=nothing, progress=np.zeros(count), valid=nothing, model="gated/1")


@pytest.fixture(scope="module")
def client_of(served):
    """Make clients of services that run until the last test of this file."""
    with ExitStack() as stack:

        def make(model, **options):
            url = stack.enter_context(served(model, **options))
            return stack.enter_context(httpx.Client(base_url=url, timeout=20))

        yield make


@pytest.fixture(scope="module")
def client(client_of, cameras):
    return client_of(HeuristicReward(cameras))


@pytest.fixture(scope="module")
def guarded(client_of, cameras):
    return client_of(HeuristicReward(cameras), token=TOKEN)


@pytest.fixture
def message(clip):
    return clip_message(clip)


def assert_refused(answer, status, code=None):
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem.keys() == {"code", "message", "request_id"}
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["message"]
    assert "Traceback" not in answer.text
    assert code is None or problem["code"] == code


def changed(message, path, value):
    """Return the message with one value replaced, or taken away where it is None."""
    message = json.loads(json.dumps(message))
    *parents, last = path
    inner = message
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return message


def test_a_clip_is_scored_observation_by_observation(client, message):
    answer = client.post("/score", json=message)
    assert answer.status_code == 200
    assert answer.json()["success"] == [False, False, True]
    assert answer.json()["valid"] == [True] * 3
    assert answer.json()["model"] == "heuristic/1"


BOMB = base64.b64encode(
    b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00\x02\x11\x01"
).decode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["goal"], None),
        (["goal"], 7),
        (["goal"], ""),
        (["goal"], "x" * 201),
        (["goal"], "Put the yellow banana in the drawer."),
        (["stamps"], []),
        (["stamps"], [0.0, 0.1]),
        (["stamps"], [0.0, 0.2, 0.1]),
        (["stamps"], [0.0, 0.1, "0.2"]),
        (["stamps"], [0.0, 0.1, 1e300]),
        (["stamps"], [0.0, 0.1, True]),
        (["stamps"], list(range(257))),
        (["joint_pos"], None),
        (["joint_pos", 0], [0.0] * 5),
        (["joint_pos", 0], [[0.0]] * 6),
        (["joint_target", 2, 5], 1e9),
        (["joint_target"], "none"),
        (["frames"], {}),
        (["frames"], {"top": ["", "", ""]}),
        (["frames", "front"], [""]),
        (["frames", "front", 0], "not base64!"),
        (["frames", "front", 0], base64.b64encode(b"not a jpeg").decode()),
        (["frames", "front", 0], BOMB),
        (["frames", "../../etc"], ["", "", ""]),
        (["cameras"], {"front": {"width": 96}}),
        (["unknown"], 1),
    ],
)
def test_a_wrong_clip_is_refused_and_named(client, message, path, value):
    assert_refused(client.post("/score", json=changed(message, path, value)), 422)


def test_an_unknown_goal_is_answered_with_the_known_forms(client, message):
    answer = client.post("/score", json=message | {"goal": "Fold the shirt."})
    assert "Put the COLOUR cube in the COLOUR bowl." in answer.json()["message"]


def test_a_camera_that_is_bent_is_refused(client, message, clip, cameras):
    message["cameras"] = {
        "front": clip_message_camera(cameras["front"]) | {"rot": [[1.0, 0, 0]] * 3}
    }
    assert_refused(client.post("/score", json=message), 422, "invalid")


def clip_message_camera(camera):
    numbers = {name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
    return numbers | {"pos": camera.pos.tolist(), "rot": camera.rot.tolist()}


def test_a_clip_may_bring_its_own_cameras(client, message, cameras):
    message["cameras"] = {name: clip_message_camera(c) for name, c in cameras.items()}
    assert client.post("/score", json=message).json()["success"] == [False, False, True]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"goal": "\\ud800"}'])
@pytest.mark.parametrize("path", ["/score", "/score_batch"])
def test_what_is_not_json_is_a_bad_request(client, path, body):
    assert_refused(client.post(path, content=body, headers=JSON), 400, "not_json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_a_number_that_is_not_finite_is_refused(client, message, number):
    text = json.dumps(message | {"stamps": [0.0, 0.1, 12345.5]}).replace("12345.5", number)
    answer = client.post("/score", content=text, headers=JSON)
    assert answer.status_code in {400, 422}
    assert_refused(answer, answer.status_code)


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", ""])
def test_another_content_type_is_refused(client, kind):
    answer = client.post("/score", content=b"{}", headers={"Content-Type": kind})
    assert_refused(answer, 415, "not_json")


def test_a_request_over_the_limit_is_refused(client):
    answer = client.post("/score", content=b" " * (MAX_BYTES + 1), headers=JSON)
    assert_refused(answer, 413, "too_large")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("GET", "/score", 405)])
def test_unknown_paths_and_methods_are_refused_in_the_same_form(client, method, path, status):
    assert_refused(client.request(method, path), status)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
FIELDS = ("goal", "stamps", "frames", "joint_pos", "joint_target", "cameras")


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values, min_size=1))
def test_no_json_makes_the_service_fail(client, clip, changes):
    text = json.dumps(clip_message(clip) | changes)
    answer = client.post("/score", content=text, headers=JSON)
    assert answer.status_code in {200, 400, 422}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_service_fail(client, body):
    assert client.post("/score_batch", content=body, headers=JSON).status_code in {400, 422}


def test_a_batch_has_an_error_for_each_wrong_clip(client, message):
    answer = client.post("/score_batch", json={"clips": [message, {}, message | {"goal": "?"}]})
    good, empty, unknown = answer.json()["results"]
    assert good["success"] == [False, False, True]
    assert empty["error"]["code"] == "invalid"
    assert unknown["error"]["code"] == "no_score"


def test_a_batch_of_too_many_is_refused(client):
    assert_refused(client.post("/score_batch", json={"clips": [{}] * 17}), 422)


def test_a_model_that_may_answer_later_is_unavailable_not_wrong(client_of, message):
    client = client_of(Failing(NoScore("warming up", retry=True)))
    answer = client.post("/score", json=message)
    assert_refused(answer, 503, "no_score")
    assert answer.headers["Retry-After"]


def test_a_fault_of_the_model_stays_inside(client_of, message):
    answer = client_of(Failing(RuntimeError("secret path /root"))).post("/score", json=message)
    assert_refused(answer, 500, "internal")
    assert "secret" not in answer.text


def test_health_answers_and_a_full_queue_refuses_while_a_clip_is_scored(served, message):
    model = Gated()
    with served(model, limits=Limits(max_pending=1)) as url, httpx.Client(base_url=url) as http:
        first = threading.Thread(
            target=httpx.post, args=(f"{url}/score",), kwargs={"json": message}
        )
        first.start()
        assert model.started.wait(10)
        health, busy = http.get("/health"), http.post("/score", json=message)
        model.gate.set()
        first.join(10)
    assert health.json() == {"status": "ok"}
    assert_refused(busy, 429, "busy")


def test_metrics_count_requests_and_clips(client_of, cameras, message):
    client = client_of(HeuristicReward(cameras))
    client.post("/score", json=message)
    client.get("/made/up/path")
    text = client.get("/metrics").text
    assert 'rewarder_requests_total{path="/score",status="200"} 1.0' in text
    assert 'rewarder_clips_total{outcome="scored"} 1.0' in text
    assert "made/up" not in text


@pytest.mark.parametrize("path", ["/score", "/score_batch", "/ready", "/metrics", "/nothing"])
@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Basic " + TOKEN, "Bearer " + TOKEN + "x"]
)
def test_with_a_token_every_path_but_health_asks_for_it(guarded, path, header):
    headers = {} if header is None else {"Authorization": header}
    assert_refused(guarded.post(path, headers=headers), 401, "unauthorised")
    assert guarded.get("/health").status_code == 200


def test_the_right_token_is_let_in(guarded):
    good = guarded.get("/ready", headers={"Authorization": f"Bearer {TOKEN}"})
    assert good.json() == {"ready": True}


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example:18080"}]
)
def test_pages_of_other_sites_are_kept_out(client, headers):
    assert_refused(client.get("/ready", headers=headers), 403)


@pytest.mark.parametrize(("token", "allow_remote"), [(None, True), (TOKEN, False), ("", True)])
def test_other_machines_may_ask_only_with_a_token_and_when_allowed(token, allow_remote):
    with pytest.raises(ServiceError, match="REWARDER_TOKEN") as error:
        SERVICE.listen("0.0.0.0", 0, token=token, allow_remote=allow_remote)
    assert error.value.code == 2


def test_the_port_file_says_where_the_service_listens(tmp_path):
    with SERVICE.listen("127.0.0.1", 0, token=None, allow_remote=False) as listening:
        announce(tmp_path / "port", listening)
        port = listening.getsockname()[1]
    assert (tmp_path / "port").read_text() == f"127.0.0.1:{port}"


def run_server(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "rewarder.server", *arguments],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "environment", "code", "said"),
    [
        (["foo=1"], {}, 2, "foo"),
        (["reward=nix"], {}, 2, "heuristic ladder lerobot"),
        (["reward=qwen"], {"MODEL": "nobody/nothing"}, 3, "hf download nobody/nothing"),
        (["--nix"], {}, 2, "NAME=VALUE"),
        (["workers=0"], {}, 2, "workers=0"),
        (["log.days=0"], {}, 2, "log.days=0"),
        ([], {"REWARDER_PORT": "abc"}, 2, "not a number"),
        ([], {"REWARDER_PORT": "70000"}, 2, "65535"),
        ([], {"REWARDER_HOST": "0.0.0.0"}, 2, "REWARDER_TOKEN"),
        (["reward.cameras.path._args_=[nothing.yaml]"], {}, 1, "make calibrate-camera"),
    ],
)
def test_a_wrong_setting_is_named_with_its_exit_code(
    monkeypatch, capsys, words, environment, code, said
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["rewarder.server", *words])
    with pytest.raises(SystemExit) as end:
        sys.exit(main())
    assert end.value.code == code
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line_and_exit_code_1():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_server(REWARDER_PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "REWARDER_PORT" in done.stderr


def test_the_program_serves_until_it_is_interrupted(tmp_path, message):
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "rewarder.server", "port=0", f"port_file={port_file}"]
    command.append(f"log.folder={tmp_path}/log")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        # The first line is written once the port is known.
        assert "serving" in process.stdout.readline()
        answer = httpx.post(f"http://{port_file.read_text()}/score", json=message, timeout=20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert answer.status_code == 200
    [path] = (tmp_path / "log").glob("scores-*.jsonl")
    assert json.loads(path.read_text())["request_id"] == answer.headers["X-Request-Id"]


def test_the_service_needs_neither_torch_nor_ray_nor_a_simulator():
    code = "import sys, rewarder.server; print({'torch', 'ray', 'mujoco'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"
