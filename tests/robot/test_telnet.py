"""A line to a loopback port always stops the arm and never moves it."""

import socket
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.teleop.telnet import MAX_LINE, MAX_PEERS, TelnetServer


@pytest.fixture
def asked():
    return []


@pytest.fixture
def server(asked):
    def answer(word):
        return lambda: asked.append(word) or f"{word} it is"

    answers = {"s": ("start", answer("start")), "x": ("stop", answer("stop"))}
    with TelnetServer(answers, port=0) as running:
        yield running


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def ask(peer, data):
    peer.sendall(data)
    return peer.makefile("rb").readline().decode().strip()


def test_a_letter_does_what_it_stands_for(server, asked):
    with connect(server) as peer:
        assert ask(peer, b"s\r\n") == "start it is"
        assert ask(peer, b"X\n") == "stop it is"
    assert asked == ["start", "stop"]


def test_what_is_not_understood_is_answered_with_what_is(server, asked):
    with connect(server) as peer:
        assert ask(peer, b"g\n") == "not understood; known: s start, x stop"
    assert asked == []


def test_telnet_s_own_negotiation_is_no_request(server, asked):
    with connect(server) as peer:
        assert ask(peer, b"\xff\xfd\x03\xff\xfb\x18x\r\n") == "stop it is"
    assert asked == ["stop"]


def test_a_line_without_end_is_cut_off(server):
    with connect(server) as peer:
        peer.sendall(b"a" * (MAX_LINE + 1))
        received = peer.makefile("rb").read()
    assert received == b"a line has one letter; good-bye\r\n"


def test_it_listens_on_this_machine_only(server):
    assert server._server.server_address[0] == "127.0.0.1"


def test_a_stop_finds_its_way_past_peers_that_only_wait(server, asked):
    waiting = [connect(server) for _ in range(MAX_PEERS)]
    with closing(connect(server)) as peer:
        assert ask(peer, b"x\n") == "stop it is"
    for peer in waiting:
        peer.close()
    assert asked == ["stop"]


@pytest.fixture(scope="module")
def counting():
    started = []
    with TelnetServer({"s": ("start", lambda: started.append(1) or "ok")}, port=0) as running:
        yield running, started


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=40))
def test_nothing_that_is_sent_starts_anything_but_its_own_letter(counting, data):
    server, started = counting
    started.clear()
    with connect(server) as peer:
        peer.sendall(data + b"\nz\n")
        lines = peer.makefile("rb")
        while b"not understood" not in (line := lines.readline()) and line:
            pass
    letters = [
        text[:1].lower()
        for line in data.split(b"\n")
        if (text := "".join(chr(b) for b in line if 32 <= b < 127).strip())
    ]
    assert len(started) <= letters.count("s")
