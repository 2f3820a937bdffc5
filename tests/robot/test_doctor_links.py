import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from robot.arm_config import ArmConfig
from robot.doctor import links
from robot.doctor.links import check_modes, check_process, check_service, state_of
from robot.doctor.report import Status

ARM = ArmConfig.load("arm01")
STATE = {
    "mode": "HOLD",
    "reason": "started",
    "joint_pos": [0.0] * 6,
    "sent": [0.0] * 6,
    "health": {"temperature_c": [30.0] * 6},
    "faults": [],
    "late_s": 0.001,
}


@contextmanager
def answering(status, content):
    """Serve one answer to every question; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data = content.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def by_code(checks):
    return {check.code: check for check in checks if check.status is not Status.PASS}


@pytest.fixture
def service(monkeypatch):
    def check(url):
        monkeypatch.setenv("REWARDER_URL", url)
        return check_service(
            "rewarder", "REWARDER_URL", start="make serve-rewarder", token="REWARDER_TOKEN"
        )[0]

    return check


@pytest.mark.parametrize("content", ["[]", "nonsense", ""])
def test_what_is_no_state_is_none(content):
    with answering(200, content) as port:
        assert state_of(replace(ARM, port_number=port)) is None


def test_the_state_of_a_process_is_read():
    with answering(200, json.dumps(STATE)) as port:
        assert state_of(replace(ARM, port_number=port)) == STATE


def test_an_owner_that_does_not_answer_is_told():
    check = by_code(check_process(ARM, "pid 7", None))["bus.owner"]
    assert check.sentence == "pid 7 owns the port, and http://127.0.0.1:18101 does not answer"


def test_a_hot_servo_behind_a_process_is_named():
    state = STATE | {"health": {"temperature_c": [30.0, 30.0, 66.0, 30.0, 30.0, 30.0]}}
    assert "elbow_flex is 66 °C" in by_code(check_process(ARM, "pid 7", state))["bus.hot"].sentence


def test_a_stopped_arm_is_told_with_reason_and_reset():
    found = by_code(check_modes(ARM, STATE | {"mode": "STOP", "reason": "elbow_flex stalled"}))
    assert found["safety.stopped"].sentence == "arm01 is stopped: elbow_flex stalled"
    assert found["safety.stopped"].fix.endswith("reset it on the dashboard: make dashboard")


def test_a_joint_that_stays_short_is_named_with_its_degrees():
    state = STATE | {"sent": [0.0, 0.0, 9.0, 0.0, 0.0, 0.0]}
    sentence = by_code(check_modes(ARM, state))["safety.short"].sentence
    assert sentence == "elbow_flex stays 9° short of what was sent"


def test_a_late_cycle_is_told():
    assert (
        "41 ms late" in by_code(check_modes(ARM, STATE | {"late_s": 0.041}))["safety.late"].sentence
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [(200, "rewarder.ready"), (401, "rewarder.token"), (503, "rewarder.unwell")],
)
def test_a_service_is_judged_by_its_answer(service, status, code, monkeypatch):
    monkeypatch.setattr(links, "SLOW_S", 5.0)
    with answering(status, "{}") as port:
        assert service(f"http://127.0.0.1:{port}").code == code


def test_a_slow_service_is_told(service, monkeypatch):
    monkeypatch.setattr(links, "SLOW_S", 0.0)
    with answering(200, "{}") as port:
        assert service(f"http://127.0.0.1:{port}").code == "rewarder.slow"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not an address"])
def test_a_service_that_does_not_answer_names_the_command_that_starts_it(service, url):
    check = service(url)
    assert (check.code, check.fix.startswith("make serve-rewarder")) == ("rewarder.silent", True)


def test_a_service_that_nobody_asked_for_is_no_trouble(service):
    assert service("").status is Status.PASS
