"""One JSON a line: the simplest client that there can be."""

import base64
import json
import socket
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from policy_server.host import Host
from policy_server.line_server import LineServer
from robot.camera import encode_jpeg
from tests.policy_server.served import SPEC, Ramp

TOKEN = "0123456789abcdef" * 4
PICTURE = base64.b64encode(encode_jpeg(np.full((16, 16, 3), 9, np.uint8))).decode()
GOOD = {"image": PICTURE, "state": [1.0, 2.0]}


@contextmanager
def talking(*, token=None):
    spec = replace(SPEC, images=("front",), image_size=(16, 16))
    host = Host(["it"], load=lambda _: Ramp(spec))
    host.open()
    with (
        LineServer.maybe(host, "127.0.0.1", 0, token=token) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        connection.makefile("rw") as lines,
    ):
        yield lambda message: ask(lines, message)
    host.close()


def ask(lines, message):
    lines.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
    lines.flush()
    while "ping" in (answer := json.loads(lines.readline() or "{}")):
        pass
    return answer


def test_an_observation_is_answered_by_one_action():
    with talking() as say:
        action = say(GOOD)["action"]
    assert [round(value) for value in action] == [11, 12]


def test_a_sign_of_life_is_returned():
    with talking() as say:
        assert say({"ping": 4.5}) == {"pong": 4.5}


@pytest.mark.parametrize(
    "line", ["{", "[]", {"state": [1.0, 2.0]}, {"image": "§", "state": [1, 2]}, {"image": PICTURE}]
)
def test_nonsense_is_refused_and_the_next_line_is_answered(line):
    with talking() as say:
        assert say(line)["error"] == "invalid"
        assert "action" in say(GOOD)


def test_the_token_comes_first():
    with talking(token=TOKEN) as say:
        assert say({"token": "wrong"})["error"] == "unauthorised"
    with talking(token=TOKEN) as say:
        assert "pong" in say(json.dumps({"token": TOKEN}) + "\n" + json.dumps({"ping": 1}))
