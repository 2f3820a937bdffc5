import json
import time
from contextlib import ExitStack, closing

import httpx
import pytest

from policy_server.host import Host
from policy_server.service import create_app
from rl import live_arms
from rl.live_dashboard import Service, main
from tests.rl.live import PICTURE, TOKEN, FakeArm, dashboard, served
from tests.robot.arm_rig import wait_until

ARM_STATE = 50
"""Events to wait for at most until an arm's state has come."""


@pytest.fixture(scope="module")
def served_arms(tmp_path_factory):
    """Serve two arms, and a dashboard of them and of a third whose process is not there."""
    arms = {"arm01": FakeArm(), "arm02": FakeArm()}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(served(arm.app)) for name, arm in arms.items()}
        everywhere = urls | {"arm03": "http://127.0.0.1:9"}
        url = stack.enter_context(dashboard(everywhere, tmp_path_factory.mktemp("runs")))
        yield arms, stack.enter_context(httpx.Client(base_url=url, timeout=20))


@pytest.fixture
def arms(served_arms):
    for arm in served_arms[0].values():
        arm.begin()
    return served_arms[0]


@pytest.fixture
def client(arms, served_arms):
    return served_arms[1]


def events(client, *, until):
    """Return the first event of which `until` is true."""
    with client.stream("GET", "/events") as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        for _, line in zip(range(ARM_STATE), lines, strict=False):
            event = {arm["arm"]: arm for arm in json.loads(line[6:])["arms"]}
            if until(event):
                return event
    raise AssertionError(event)


def test_the_state_of_every_arm_is_streamed(client):
    seen = events(client, until=lambda event: event["arm01"]["state"] and event["arm02"]["state"])
    assert seen["arm01"]["state"]["mode"] == "RUN"


def test_a_process_that_is_not_there_is_named_with_the_command_that_starts_it(client):
    seen = events(client, until=lambda event: "not asked" not in event["arm03"]["trouble"])
    assert seen["arm03"]["trouble"].endswith("make arm ARM_ID=arm03")


def test_stop_reaches_one_arm_and_no_other(client, arms):
    answer = client.post("/stop", json={"arm": "arm02"})
    assert answer.status_code == 200
    assert (len(arms["arm01"].asked), len(arms["arm02"].asked)) == (0, 1)


def test_stop_all_reaches_every_arm_and_says_which_has_no_process(client, arms):
    answer = client.post("/stop", json={"arm": None})
    said = answer.json()
    assert answer.status_code == 200
    assert {name: (each["ok"], each["absent"]) for name, each in said.items()} == {
        "arm01": (True, False),
        "arm02": (True, False),
        "arm03": (False, True),
    }
    assert all(arm.mode == "STOP" for arm in arms.values())


def test_to_stop_an_arm_without_a_process_fails(client):
    answer = client.post("/stop", json={"arm": "arm03"})
    assert (answer.status_code, answer.json()["arm03"]["ok"]) == (502, False)


def test_stop_all_of_no_process_at_all_fails(tmp_path):
    gone = "http://127.0.0.1:9"
    with dashboard({"arm01": gone, "arm02": gone}, tmp_path) as url:
        assert httpx.post(f"{url}/stop", json={"arm": None}).status_code == 502


def test_an_arm_whose_process_went_away_was_not_stopped():
    with ExitStack() as stack:
        url = stack.enter_context(served(FakeArm().app))
        address = live_arms.ArmAddress(arm_id="arm01", url=url, cameras=())
        link = live_arms.ArmLink(address)
        wait_until(lambda: link.snapshot()["state"])
    answer = link.stop()
    link.close()
    assert (answer.status, answer.absent) == (502, False)


def test_an_arm_of_another_machine_that_is_out_of_reach_was_not_stopped(monkeypatch):
    def unreachable(*_, **__):
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr(live_arms.httpx, "post", unreachable)
    address = live_arms.ArmAddress(arm_id="arm01", url="http://arm01.invalid:9", cameras=())
    with closing(live_arms.ArmLink(address)) as link:
        assert not link.stop().absent


def test_a_reset_needs_the_arms_own_token(client, arms):
    client.post("/stop", json={"arm": "arm01"})
    refused = client.post("/reset", json={"arm": "arm01", "token": "wrong"})
    assert (refused.status_code, arms["arm01"].mode) == (401, "STOP")
    client.post("/reset", json={"arm": "arm01", "token": TOKEN})
    assert arms["arm01"].mode == "HOLD"


def test_pictures_of_arms_are_handed_on(client):
    assert client.get("/frames/arm01/front.jpg").content == PICTURE


def test_a_picture_is_asked_for_once_a_period_however_many_look(client, arms, monkeypatch):
    client.get("/frames/arm02/front.jpg")
    monkeypatch.setattr(live_arms, "PICTURE_S", 60.0)
    arms["arm02"].pictures = 0
    for _ in range(3):
        assert client.get("/frames/arm02/front.jpg").content == PICTURE
    assert arms["arm02"].pictures == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/frames/arm09/front.jpg", 404),
        ("/frames/arm01/..%2f..%2fstate.jpg", 404),
        ("/frames/arm03/front.jpg", 503),
        ("/page/..%2flive_arms.py", 404),
        ("/page/nothing.js", 404),
        ("/episode/none/front/0.jpg", 404),
        ("/docs", 404),
    ],
)
def test_what_is_not_there_is_refused_without_a_trace(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("body", ["[]", "{", "null", '{"arm": "arm09"}', '{"arm": 5}', "[" * 4000])
def test_a_malformed_stop_is_refused(client, arms, body):
    answer = client.post("/stop", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert arms["arm01"].asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Content-Type": "text/plain"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["/stop", "/reset"])
def test_a_page_of_another_site_cannot_give_orders(client, arms, headers, path):
    answer = client.post(path, content='{"arm": null}', headers=headers)
    assert answer.status_code in {403, 415}
    assert arms["arm01"].asked == []


@pytest.mark.parametrize("path", ["/", "/events", "/run", "/frames/arm01/front.jpg"])
def test_a_page_of_another_site_sees_nothing(client, path):
    assert client.get(path, headers={"Host": "evil.example:80"}).status_code == 403
    assert client.get(path, headers={"Origin": "http://evil.example"}).status_code == 403


def test_every_answer_forbids_foreign_scripts_and_allows_no_other_site(client):
    for path in ("/", "/page/arms.js", "/run", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_without_a_run_there_is_room_and_no_curve(client):
    said = client.get("/run").json()
    assert said["run"] is None
    assert said["disk"]["free_gb"] > 0


def test_the_rows_that_arms_have_left_are_handed_on_from_a_policy_server_with_a_token(tmp_path):
    host = Host(["null"])
    host.open()
    host.queues.note("arm01", rows_left=7, underflows=1, now=time.monotonic())
    with ExitStack() as stack:
        stack.callback(host.close)
        server = stack.enter_context(served(create_app(host, token="secret")))
        link = Service(server.replace("http", "ws"), "secret")
        url = stack.enter_context(dashboard({}, tmp_path, links={"POLICY_SERVER": link}))
        told = httpx.get(f"{url}/run").json()["links"]["POLICY_SERVER"]
    assert told["ok"]
    assert told["arms"]["arm01"]["rows_left"] == [7]
    assert told["arms"]["arm01"]["underflows"] == 1


@pytest.mark.parametrize("words", [["port=x"], ["port=70000"], ["arms=../x"], ["colour=red"]])
def test_words_that_make_no_sense_end_with_code_2(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
