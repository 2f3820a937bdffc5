"""What is sent by accident or in bad faith leaves no traceback and no deaf stop."""

import logging
import socket
from contextlib import ExitStack

import httpx
import pytest

from robot.wire import decode_map
from tests.robot.arm_rig import served, wait_until

HOST = b"Host: 127.0.0.1\r\n"
HALF_A_BODY = (
    b"POST /mode HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    b"Content-Length: 99\r\n\r\n{"
)
UPGRADE = (
    b"GET /arm HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CHUNKED = HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def rig():
    with served() as rig:
        yield rig


@pytest.fixture
def outcries(caplog):
    """Return what tells the errors that the server and its event loop have logged."""
    uvicorns = logging.getLogger("uvicorn.error")
    uvicorns.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    uvicorns.removeHandler(caplog.handler)


def connect(rig):
    return socket.create_connection(("127.0.0.1", int(rig.url.rpartition(":")[2])), timeout=10)


def all_of(link):
    parts = []
    while part := link.recv(4096):
        parts.append(part)
    return b"".join(parts)


def connections(rig):
    return rig.server._server.server_state.connections


def test_who_leaves_in_the_middle_of_a_body_is_no_failure(rig, outcries):
    with connect(rig) as link:
        link.sendall(HALF_A_BODY)
        wait_until(lambda: any(getattr(one, "cycle", None) for one in connections(rig)))
    wait_until(lambda: not connections(rig))
    assert httpx.get(f"{rig.url}/health").status_code == 200
    assert outcries() == []


@pytest.mark.parametrize("request_line", [b"GET /state", b"POST /stop", b"POST /mode"])
def test_a_body_that_is_none_is_refused_once(rig, outcries, request_line):
    with connect(rig) as link:
        link.sendall(request_line + b" HTTP/1.1\r\n" + CHUNKED + b"zzz\r\n")
        assert b" 400 " in all_of(link)[:20]
    assert outcries() == []


def test_a_body_that_turns_out_to_be_none_after_the_answer_is_hung_up_on(rig, outcries):
    with connect(rig) as link:
        link.sendall(b"POST /stop HTTP/1.1\r\n" + CHUNKED)
        assert b" 200 " in link.recv(4096)[:20]
        link.sendall(b"zzz\r\n")
        assert b" 400 " not in all_of(link)
    assert outcries() == []


def test_a_body_that_is_none_of_a_question_without_answer_is_hung_up_on(rig, outcries):
    with connect(rig) as link:
        link.sendall(b"HEAD /state HTTP/1.1\r\n" + CHUNKED + b"zzz\r\n")
        assert all_of(link) == b""
    assert outcries() == []


def test_a_text_that_is_no_text_is_nonsense_like_any_other(rig, outcries):
    with connect(rig) as link:
        link.sendall(UPGRADE + b"\r\n")
        assert b" 101 " in link.recv(4096)[:20]
        link.sendall(b"\x81\x81\0\0\0\0\xff")
        assert decode_map(link.recv(4096)[2:])["error"] == "invalid"
    assert outcries() == []


def test_a_handshake_that_is_none_is_hung_up_on(rig):
    with connect(rig) as link:
        link.sendall(UPGRADE + b"Content-Length: 5\r\n\r\n")
        assert all_of(link) == b""


@pytest.mark.parametrize("start", [HALF_A_BODY, UPGRADE + b"\r\n"], ids=["body", "websocket"])
def test_a_stop_is_heard_among_many_who_have_only_begun(start):
    with served(tick=False) as rig, ExitStack() as links:
        for _ in range(300):
            link = links.enter_context(connect(rig))
            link.sendall(start)
        wait_until(lambda: len(connections(rig)) > 64)
        assert httpx.post(f"{rig.url}/stop").json() == {"mode": "STOP"}
