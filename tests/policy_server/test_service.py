"""The policy service as its clients know it: openpi's, OpenVLA's, ours, and hostile ones."""

import base64
import json
from dataclasses import replace

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from policy_server.messages import RT
from robot.camera import encode_jpeg
from robot.wire import decode_map, encode
from tests.policy_server.served import SPEC, Ramp, served

TOKEN = "0123456789abcdef" * 4
SEES = replace(SPEC, images=("front",), image_size=(32, 32))
PICTURE = np.full((32, 32, 3), 3, np.uint8)


def talk(address, path="/", **headers):
    return connect(f"ws://{address}{path}", additional_headers=headers, proxy=None, close_timeout=1)


@pytest.fixture(scope="module")
def address():
    with served(Ramp(SEES)) as address:
        yield address


@pytest.mark.parametrize("path", ["/", "/v1/realtime/robot/openpi"])
def test_a_stock_openpi_client_is_answered(address, path):
    with talk(address, path) as socket:
        said = decode_map(socket.recv())
        socket.send(
            encode({"observation/image": PICTURE, "observation/state": np.ones(2), "prompt": "x"})
        )
        reply = decode_map(socket.recv())
    assert (said["action_dim"], reply["actions"].shape) == (2, (8, 2))
    assert RT not in reply
    assert {"infer_ms"} <= set(reply["policy_timing"])


def test_a_stock_client_s_mistake_is_told_as_text_and_ends_the_connection(address):
    with talk(address) as socket:
        socket.recv()
        socket.send(encode({"prompt": "x"}))
        text = socket.recv()
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert "front missing" in text
    assert "Traceback" not in text
    assert closed.value.rcvd.code == 1011


def test_our_client_s_mistake_is_told_with_its_number_and_the_next_is_answered(address):
    with talk(address) as socket:
        socket.recv()
        socket.send(encode({"prompt": "x", RT: {"seq": 4}}))
        refused = decode_map(socket.recv())
        socket.send(encode({"front": PICTURE, "here": np.ones(2), RT: {"seq": 5, "step0": 9}}))
        reply = decode_map(socket.recv())
    assert (refused["error"], refused["seq"]) == ("invalid", 4)
    assert (reply[RT]["seq"], reply[RT]["step0"]) == (5, 9)


@pytest.mark.parametrize(
    ("own", "code"),
    [
        ({"seq": 4}, "old_seq"),
        ({"seq": 5}, "old_seq"),
        ({"seq": 6, "session": "arm02"}, "wrong_session"),
    ],
)
def test_an_old_question_and_another_arm_s_are_refused(address, own, code):
    question = {"front": PICTURE, "here": np.ones(2)}
    with talk(address) as socket:
        socket.recv()
        socket.send(encode({**question, RT: {"seq": 5, "session": "arm01"}}))
        assert decode_map(socket.recv())[RT]["seq"] == 5
        socket.send(encode({**question, RT: own}))
        refused = decode_map(socket.recv())
        socket.send(encode({**question, RT: {"seq": 7, "session": "arm01"}}))
        assert decode_map(socket.recv())[RT]["seq"] == 7
    assert (refused["error"], refused["seq"]) == (code, own["seq"])


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa1x", b"\x93\x01", "text", b"\xd9" * 999])
def test_what_is_no_message_disturbs_nobody_else(address, data):
    with talk(address) as good, talk(address) as bad:
        good.recv()
        bad.recv()
        bad.send(data)
        assert isinstance(bad.recv(), str)
        good.send(encode({"front": PICTURE, "here": np.ones(2), RT: {"seq": 1}}))
        assert decode_map(good.recv())[RT]["seq"] == 1


def test_an_episode_s_end_is_acknowledged(address):
    with talk(address) as socket:
        socket.recv()
        socket.send(encode({"endpoint": "reset"}))
        assert decode_map(socket.recv())["reset"] is True


def test_live_answers_with_what_it_expected_and_received(address):
    image = base64.b64encode(encode_jpeg(PICTURE)).decode()
    body = {"images": {"cam_front": image}, "state": [1.0, 2.0], "task": "Lift."}
    said = httpx.post(f"http://{address}/live", json=body, trust_env=False).json()
    assert (said["horizon"], len(said["action_chunk"])) == (8, 8)
    assert (said["expected_image_keys"], said["received_image_keys"]) == (["front"], ["cam_front"])


def packed(array):
    data = base64.b64encode(array.tobytes()).decode()
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


@pytest.mark.parametrize("encoded", [False, True])
def test_openvla_s_request_is_answered(address, encoded):
    body = {"image": packed(PICTURE), "instruction": "lift", "state": packed(np.ones(2, "f4"))}
    sent = {"encoded": json.dumps(body)} if encoded else body
    said = httpx.post(f"http://{address}/act", json=sent, trust_env=False).json()
    row = np.frombuffer(base64.b64decode(said[0]["__numpy__"]), np.float32)
    assert (len(said), row.shape) == (8, (2,))


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        json.dumps({"image": packed(PICTURE) | {"shape": [9, 9, 9]}, "instruction": "x"}).encode(),
        json.dumps({"image": packed(PICTURE) | {"dtype": "|O8"}, "instruction": "x"}).encode(),
        json.dumps({"encoded": 3}).encode(),
    ],
)
def test_openvla_s_form_refuses_nonsense(address, body):
    headers = {"Content-Type": "application/json"}
    said = httpx.post(f"http://{address}/act", content=body, headers=headers, trust_env=False)
    assert said.status_code == 422
    assert set(said.json()) == {"code", "message", "request_id"}


def test_health_says_what_answers(address):
    said = httpx.get(f"http://{address}/health", trust_env=False).json()
    assert (said["state"], said["policy"], said["spec"]["horizon"]) == ("ready", "it", 8)
    assert httpx.get(f"http://{address}/healthz", trust_env=False).text == "OK\n"
    assert "policy_chunks_total" in httpx.get(f"http://{address}/metrics", trust_env=False).text


def test_without_the_token_nobody_is_answered():
    with served(Ramp(SEES), token=TOKEN) as address:
        assert httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200
        assert httpx.get(f"http://{address}/health", trust_env=False).status_code == 401
        for wrong in ({}, {"Authorization": "Api-Key no"}):
            with pytest.raises(InvalidStatus), talk(address, **wrong):
                pass
        for scheme in ("Bearer", "Api-Key"):
            with talk(address, Authorization=f"{scheme} {TOKEN}") as socket:
                assert decode_map(socket.recv())["action_dim"] == 2
