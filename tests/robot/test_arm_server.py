import asyncio
import socket
import time
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest
import websockets.sync.client
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from robot.access import Asked, Door
from robot.http_server import ServiceError, listen
from robot.process import arm_server
from robot.process.arm_messages import VERSION
from robot.process.arm_server import MAX_CONTROL_BYTES
from robot.process.arm_session import Desk, Session
from robot.process.arm_state import Mode
from robot.tokens import TokenFile, token_id
from robot.wire import decode_map, encode
from tests.robot.arm_rig import (
    JPEG,
    START,
    Pictures,
    make_process,
    served,
    served_patiently,
    wait_until,
)

VIEW, OPERATE, WRONG = "v" * 64, "o" * 64, "w" * 64
GETS = ("/health", "/ready", "/metrics", "/state", "/frames/front.jpg", "/frames/x.jpg", "/else")
POSTS = ("/stop", "/reset", "/mode", "/else")
OPEN = {("GET", "/health"), ("POST", "/stop")}
ROUTES = [("GET", path) for path in GETS] + [("POST", path) for path in POSTS]


@pytest.fixture(scope="module")
def rig():
    with served_patiently() as rig:
        yield rig


@pytest.fixture
def http(rig):
    rig.process.reset()
    with httpx.Client(base_url=rig.url) as client:
        yield client


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """Return an arm that asks for tokens."""
    path = tmp_path_factory.mktemp("run") / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"view {VIEW}\noperate {OPERATE}\n")
    with served(tokens=TokenFile(path)) as rig:
        yield rig


def test_health_says_which_arm_it_is(http):
    assert http.get("/health").json() == {"status": "ok", "arm_id": "arm01"}


def test_an_arm_is_ready_unless_it_is_stopped(rig, http):
    assert http.get("/ready").json()["ready"] is True
    rig.process.stop("the test")
    answer = http.get("/ready")
    assert (answer.status_code, answer.json()["mode"]) == (503, "STOP")


def test_state_is_json(http):
    state = http.get("/state").json()
    assert (state["arm_id"], state["mode"], state["calibration"]) == (
        "arm01",
        "HOLD",
        "c0ffee123456",
    )
    assert len(state["joint_pos"]) == 6
    assert state["cameras"]["front"] < 0.5


def test_frames_are_jpeg_with_their_stamp(http):
    answer = http.get("/frames/front.jpg")
    assert (answer.content, answer.headers["content-type"]) == (JPEG, "image/jpeg")
    assert abs(time.monotonic() - float(answer.headers["x-stamp"])) < 5


def test_a_dark_camera_has_no_picture_to_show(rig, http):
    rig.pictures.dark = True
    try:
        answer = http.get("/frames/front.jpg")
        assert (answer.status_code, answer.json()["code"]) == (404, "no_picture")
        assert http.get("/state").json()["cameras"] == {"front": None}
        assert 'arm_camera_age_seconds{camera="front"} +Inf' in http.get("/metrics").text
    finally:
        rig.pictures.dark = False


def test_metrics_tell_mode_and_lateness(http):
    text = http.get("/metrics").text
    assert 'arm_mode{mode="HOLD"} 1.0' in text
    assert 'arm_mode{mode="RUN"} 0.0' in text
    assert "arm_late_seconds" in text


@pytest.mark.parametrize("body", [{}, {"json": {"reason": "x"}}, {"content": b"\xff" * 100_000}])
def test_anything_posted_to_stop_stops_the_arm(rig, http, body):
    assert http.post("/stop", **body).json() == {"mode": "STOP"}
    assert rig.process.state().reason == "127.0.0.1 stopped it: by HTTP"


def test_nobody_stops_the_arm_in_another_peers_name(rig, http):
    http.post("/stop", headers={"X-Forwarded-For": "10.9.8.7"})
    assert rig.process.state().reason == "127.0.0.1 stopped it: by HTTP"


def test_a_reset_leaves_the_stop_for_hold(http):
    http.post("/stop")
    assert http.post("/mode", json={"mode": "PARK"}).status_code == 409
    assert http.post("/reset").json() == {"mode": "HOLD"}


def test_a_mode_is_asked_for_by_name(http):
    assert http.post("/mode", json={"mode": "PARK"}).json() == {"mode": "PARK"}
    assert http.post("/mode", json={"mode": "HOLD"}).json() == {"mode": "HOLD"}


@pytest.mark.parametrize("mode", ["RUN", "TAKEOVER"])
def test_nobody_drives_who_is_not_heard_of_again(http, mode):
    answer = http.post("/mode", json={"mode": mode})
    assert (answer.status_code, answer.json()["code"]) == (409, "mode_refused")
    assert "WebSocket" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"json": {"mode": "FLY"}}, 422, "invalid"),
        ({"json": {"mode": 3}}, 422, "invalid"),
        ({"json": {}}, 422, "invalid"),
        ({"json": ["RUN"]}, 422, "invalid"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "invalid"),
        ({"content": b"[" * 9000, "headers": {"Content-Type": "application/json"}}, 422, "invalid"),
        ({"content": b"mode=RUN"}, 415, "not_json"),
        ({"json": {"mode": "x" * MAX_CONTROL_BYTES}}, 413, "too_large"),
    ],
)
def test_a_body_that_is_none_is_refused_with_code_and_request_id(http, body, status, code):
    answer = http.post("/mode", **body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/else", 404), ("GET", "/stop", 405)]
)
def test_what_is_not_there_is_refused_likewise(http, method, path, status):
    answer = http.request(method, path)
    assert (answer.status_code, set(answer.json())) == (status, {"code", "message", "request_id"})


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("token", [None, WRONG])
def test_without_a_token_nothing_answers_but_health_and_stop(locked, method, path, token):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.request(method, f"{locked.url}{path}", headers=headers, json=None)
    if (method, path) in OPEN:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_who_may_only_look_changes_nothing(locked, method, path):
    headers = {"Authorization": f"Bearer {VIEW}"}
    answer = httpx.request(method, f"{locked.url}{path}", headers=headers)
    if method == "POST" and (method, path) not in OPEN:
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_role")
    else:
        assert answer.status_code in {200, 404, 503}


class Log:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))


def test_who_may_operate_resets_and_is_named_in_the_log(locked, monkeypatch):
    httpx.post(f"{locked.url}/stop")
    log = Log()
    monkeypatch.setattr("robot.http_server.log", log)
    headers = {"Authorization": f"Bearer {OPERATE}"}
    assert httpx.post(f"{locked.url}/reset", headers=headers).json() == {"mode": "HOLD"}
    said = {"path": "/reset", "peer": "127.0.0.1", "token": token_id(OPERATE)}
    assert log.lines == [("control", said)]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_pages_of_other_sites_get_nothing(http, method, path):
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert http.request(method, path, headers=headers).status_code == 403


def test_pages_of_other_sites_get_no_socket(rig):
    with pytest.raises(InvalidStatus), connected(rig, origin="http://evil.example"):
        pass


def test_a_hello_is_due_before_all_but_a_stop(rig):
    with connected(rig) as link:
        assert ask(link, {"op": "observe"})["error"] == "unauthorised"
        with pytest.raises(ConnectionClosed):
            link.recv(timeout=5)


def test_a_stop_needs_neither_hello_nor_token(locked):
    with connected(locked) as link:
        assert ask(link, {"op": "stop", "reason": "help"}) == {"mode": "STOP"}
    assert locked.process.state().reason == "127.0.0.1 stopped it: help"
    locked.process.reset()


@pytest.mark.parametrize("token", [None, WRONG, 7, b"x"])
def test_a_hello_without_a_valid_token_is_hung_up_on(locked, token):
    with connected(locked) as link:
        reply = ask(link, hello(token=token))
        assert (reply["error"], "limits" in reply) == ("unauthorised", False)
        with pytest.raises(ConnectionClosed):
            link.recv(timeout=5)


OPERATIONS = [
    {"op": "command", "joint_target": np.zeros(6), "stamp": 1.0},
    {"op": "mode", "mode": "RUN"},
    {"op": "latch"},
    {"op": "reset"},
]


@pytest.mark.parametrize("message", OPERATIONS)
def test_who_may_only_look_drives_nothing(locked, message):
    with connected(locked) as link:
        assert ask(link, hello(token=VIEW))["arm_id"] == "arm01"
        assert ask(link, message)["error"] == "wrong_role"
        link.send(encode({"op": "beat"}))
        assert ask(link, {"op": "state"})["mode"] == "HOLD"


NONSENSE = [
    {},
    {"op": "fly"},
    {"op": 7},
    {"op": ["observe"]},
    {"op": "command", "joint_target": np.zeros(6)},
    {"op": "command", "joint_target": np.zeros(6), "stamp": "now"},
    {"op": "command", "joint_target": np.zeros(6), "stamp": float("nan")},
    {"op": "mode"},
    {"op": "mode", "mode": "FLY"},
    [1, 2],
]


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_answered_with_code_sentence_and_request_id(rig, message):
    with connected(rig) as link:
        ask(link, hello())
        reply = ask(link, message)
        assert set(reply) == {"error", "message", "request_id"}
        assert reply["error"] == "invalid"
        assert "joint_pos" in ask(link, {"op": "observe"})


@pytest.mark.parametrize(
    ("goal", "detail"),
    [
        ("home", "not_an_array"),
        (None, "not_an_array"),
        ([1.0] * 6, "not_an_array"),
        (np.zeros(5), "wrong_shape"),
        (np.full(6, np.nan), "not_finite"),
        (np.zeros(6, bool), "wrong_dtype"),
    ],
)
def test_a_goal_that_is_none_is_refused_by_the_guard(rig, goal, detail):
    rig.process.reset()
    with connected(rig) as link:
        ask(link, hello())
        assert ask(link, {"op": "mode", "mode": "RUN"}) == {"mode": "RUN"}
        link.send(encode({"op": "beat"}))
        stamp = ask(link, {"op": "observe"})["stamp"]
        reply = ask(link, {"op": "command", "joint_target": goal, "stamp": stamp})
        assert reply["events"] == [["refused", detail]]


def test_an_observation_that_is_old_moves_nothing(rig):
    rig.process.reset()
    with connected(rig) as link:
        ask(link, hello())
        ask(link, {"op": "mode", "mode": "RUN"})
        stamp = ask(link, {"op": "observe"})["stamp"]
        reply = ask(link, {"op": "command", "joint_target": START, "stamp": stamp - 10})
        assert reply["events"] == [["refused", "stale"]]


def test_a_message_that_is_too_long_hangs_up(rig):
    with connected(rig) as link:
        ask(link, hello())
        with pytest.raises(ConnectionClosed):
            ask(link, {"op": "stop", "reason": "x" * 70_000})


def test_many_messages_that_are_none_leave_the_service_alive(rig, http):
    with connected(rig) as link:
        ask(link, hello())
        for data in (b"", b"\xc1", b"\x91" * 60_000, b"\x81" * 9, bytes(60_000)):
            link.send(data)
            assert decode_map(link.recv(timeout=5))["error"] == "invalid"
        link.send("text")
        assert decode_map(link.recv(timeout=5))["error"] == "invalid"
    assert http.get("/health").status_code == 200


NAMES = ("op", "version", "client", "token", "mode", "stamp", "joint_target", "frames", "reason")
WORDS = ("hello", "observe", "command", "mode", "latch", "stop", "reset", "state", "beat", "RUN")
VALUES = (
    st.none()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=9)
    | st.binary(max_size=9)
)
MESSAGES = st.dictionaries(st.sampled_from(NAMES), VALUES).map(encode)


@settings(max_examples=100, deadline=None)
@given(MESSAGES | st.binary(max_size=100))
def test_any_message_is_answered_or_passed_over(data):
    session = SESSIONS["known"]
    reply = session.answer(data)
    assert reply is None or decode_map(reply)


def _session():
    desk = Desk(
        arm_id="arm01",
        process=make_process(),
        pictures=Pictures(),
        door=Door(None),
        clock=time.monotonic,
    )
    session = Session(desk, Asked(peer="127.0.0.1", host=None, origin=None, authorization=""))
    session.answer(encode(hello()))
    return session


def test_slow_requests_are_cut_off(monkeypatch):
    monkeypatch.setattr("robot.http_server.READ_TIMEOUT_S", 0.2)
    with served(tick=False) as rig:
        for start in (b"", b"POST /mode HT", b"POST /mode HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"):
            with raw(rig, start) as link:
                link.settimeout(10)
                assert _all(link) == b"" or start.endswith(b"{")


def test_headers_that_are_too_long_are_refused(rig):
    with raw(rig, b"GET /health HTTP/1.1\r\nX: " + b"x" * 20_000) as link:
        link.settimeout(10)
        assert b" 400 " in _all(link)[:20]


def test_a_peer_from_elsewhere_gets_a_few_connections_only(monkeypatch):
    monkeypatch.setattr("robot.http_server.is_loopback", lambda host: False)
    with served(tick=False) as rig:
        links = [socket.create_connection(_address(rig)) for _ in range(8)]
        wait_until(lambda: len(_open(rig)) == 8)
        ninth = socket.create_connection(_address(rig))
        ninth.settimeout(10)
        assert _all(ninth) == b""
        for link in (*links, ninth):
            link.close()


def test_a_stop_is_heard_among_a_thousand_open_connections(rig, http):
    with ExitStack() as links:
        for _ in range(1000):
            links.enter_context(socket.create_connection(_address(rig)))
        assert http.post("/stop").json() == {"mode": "STOP"}
        wait_until(lambda: len(_open(rig)) <= 256)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com"])
def test_an_open_address_needs_a_token_and_leave(host):
    with pytest.raises(ServiceError, match="set a token and allow_remote=true") as error:
        listen(host, 0, guarded=False)
    assert error.value.code == 2


def test_the_arm_holds_when_its_driver_is_gone(rig):
    rig.process.reset()
    with connected(rig) as link:
        ask(link, hello())
        assert ask(link, {"op": "mode", "mode": "RUN"})["mode"] == "RUN"
    wait_until(lambda: rig.process.mode is Mode.HOLD)
    assert rig.process.mode is Mode.HOLD


def hello(**changes):
    return {"op": "hello", "version": VERSION, "client": "test", "human": False} | changes


def ask(link, message):
    link.send(encode(message))
    return decode_map(link.recv(timeout=10))


@contextmanager
def connected(rig, **options):
    address = f"ws{rig.url.removeprefix('http')}/arm"
    with websockets.sync.client.connect(address, proxy=None, open_timeout=30, **options) as link:
        yield link


@contextmanager
def raw(rig, data):
    with socket.create_connection(_address(rig)) as link:
        link.sendall(data)
        yield link


def _address(rig):
    return ("127.0.0.1", int(rig.url.rpartition(":")[2]))


def _open(rig):
    return rig.server._server.server_state.connections


def _all(link):
    parts = []
    try:
        while part := link.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


SESSIONS = {"known": _session()}


class Gone:
    """A WebSocket whose other end is gone by the time that it is answered or hung up on."""

    def __init__(self, error, said):
        self.error, self.said, self.failed = error, said, 0

    async def accept(self):
        pass

    async def receive(self):
        if self.said is None:
            await asyncio.sleep(60.0)
        return {"type": "websocket.receive", "bytes": self.said}

    async def send_bytes(self, data):
        self.failed += 1
        raise self.error

    async def close(self, code):
        self.failed += 1
        raise self.error


@pytest.mark.parametrize("said", [None, b"nonsense"])
@pytest.mark.parametrize("error", [RuntimeError("closed already"), WebSocketDisconnect(1006)])
def test_whoever_is_gone_before_the_server_hangs_up_is_no_error(rig, monkeypatch, error, said):
    monkeypatch.setattr(arm_server, "READ_TIMEOUT_S", 0.01)
    desk = Desk(
        arm_id="arm01", process=rig.process, pictures=Pictures(), door=Door(None), clock=lambda: 0.0
    )
    session, gone = Session(desk, Asked.of({}, "")), Gone(error, said)
    asyncio.run(asyncio.wait_for(arm_server._converse(gone, session), 5.0))
    assert gone.failed == 1
