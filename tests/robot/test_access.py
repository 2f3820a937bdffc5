import os
import stat

import pytest

from robot import tokens
from robot.access import LOCKED_S, Asked, Door, RefusedError, is_loopback
from robot.tokens import (
    ANYBODY,
    Caller,
    OneToken,
    Role,
    TokenError,
    TokenFile,
    known_tokens,
    own_token,
    rotate,
    token_id,
)

VIEW, OPERATE, ADMIN, WRONG = ("v" * 64, "o" * 64, "a" * 64, "w" * 64)


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"view {VIEW}\noperate {OPERATE}\nadmin {ADMIN}\n")
    return path


class SetClock:
    time = 0.0

    def __call__(self):
        return self.time


def asked(token=None, *, host="127.0.0.1:18101", origin=None, peer="10.0.0.7"):
    return Asked(
        peer=peer, host=host, origin=origin, authorization=f"Bearer {token}" if token else ""
    )


def refusal(door, *arguments):
    with pytest.raises(RefusedError) as refused:
        door.admit(*arguments)
    return refused.value.status, refused.value.code


@pytest.mark.parametrize(
    ("token", "needed", "answer"),
    [
        (None, Role.VIEW, (401, "unauthorised")),
        (WRONG, Role.VIEW, (401, "unauthorised")),
        ("", Role.OPERATE, (401, "unauthorised")),
        (VIEW, Role.OPERATE, (403, "wrong_role")),
        (VIEW, Role.ADMIN, (403, "wrong_role")),
        (OPERATE, Role.ADMIN, (403, "wrong_role")),
    ],
)
def test_who_may_not_is_refused(token_file, token, needed, answer):
    assert refusal(Door(TokenFile(token_file)), asked(token), needed) == answer


@pytest.mark.parametrize(
    ("token", "needed", "role"),
    [
        (VIEW, Role.VIEW, Role.VIEW),
        (OPERATE, Role.VIEW, Role.OPERATE),
        (OPERATE, Role.OPERATE, Role.OPERATE),
        (ADMIN, Role.OPERATE, Role.ADMIN),
        (ADMIN, Role.ADMIN, Role.ADMIN),
    ],
)
def test_who_may_is_let_in(token_file, token, needed, role):
    caller = Door(TokenFile(token_file)).admit(asked(token), needed)
    assert caller == Caller(role, token_id(token))


def test_what_needs_nothing_is_open_to_all(token_file):
    assert Door(TokenFile(token_file)).admit(asked(WRONG), None) == ANYBODY


def test_only_the_bearer_scheme_is_taken(token_file):
    door = Door(TokenFile(token_file))
    basic = Asked(peer="x", host="h", origin=None, authorization=f"Basic {ADMIN}")
    assert refusal(door, basic, Role.VIEW) == (401, "unauthorised")


@pytest.mark.parametrize(
    ("host", "origin", "answer"),
    [
        ("127.0.0.1:18101", None, None),
        ("localhost:18101", None, None),
        ("localhost", None, None),
        ("[::1]:18101", None, None),
        ("127.0.0.1:18101", "http://127.0.0.1:18101", None),
        ("evil.example:18101", None, "wrong_host"),
        ("127.0.0.1.evil.example", None, "wrong_host"),
        (None, None, "wrong_host"),
        ("127.0.0.1:18101", "http://evil.example", "wrong_origin"),
        ("127.0.0.1:18101", "http://127.0.0.1:9999", "wrong_origin"),
        ("127.0.0.1:18101", "null", "wrong_origin"),
        ("evil.example", "http://evil.example", "wrong_host"),
    ],
)
@pytest.mark.parametrize("needed", [None, Role.VIEW, Role.OPERATE])
def test_pages_of_other_sites_are_kept_out(host, origin, answer, needed):
    door = Door(None)
    if answer is None:
        assert door.admit(asked(host=host, origin=origin), needed) == ANYBODY
    else:
        assert refusal(door, asked(host=host, origin=origin), needed) == (403, answer)


def test_a_service_with_tokens_answers_to_any_name_but_its_own_pages_only(token_file):
    door = Door(TokenFile(token_file))
    assert door.admit(asked(VIEW, host="arm.lan:18101"), Role.VIEW).role is Role.VIEW
    page = asked(VIEW, host="arm.lan:18101", origin="http://evil.example")
    assert refusal(door, page, Role.VIEW) == (403, "wrong_origin")


def test_five_wrong_tokens_within_a_second_lock_a_peer_out(token_file):
    clock = SetClock()
    door = Door(TokenFile(token_file), clock=clock)
    for _ in range(5):
        assert refusal(door, asked(WRONG), Role.VIEW)[0] == 401
    assert refusal(door, asked(ADMIN), Role.VIEW) == (429, "locked")
    assert door.admit(asked(ADMIN, peer="10.0.0.8"), Role.VIEW)
    assert door.admit(asked(WRONG), None) == ANYBODY
    clock.time = LOCKED_S
    assert door.admit(asked(ADMIN), Role.VIEW)


def test_programs_of_this_machine_lock_each_other_out_never(token_file):
    door = Door(TokenFile(token_file))
    for _ in range(20):
        assert refusal(door, asked(WRONG, peer="127.0.0.1"), Role.VIEW)[0] == 401
    assert door.admit(asked(ADMIN, peer="127.0.0.1"), Role.VIEW)


def test_seldom_wrong_tokens_lock_nobody_out(token_file):
    clock = SetClock()
    door = Door(TokenFile(token_file), clock=clock)
    for _ in range(20):
        clock.time += 0.3
        assert refusal(door, asked(WRONG), Role.VIEW)[0] == 401


def test_many_peers_take_no_more_memory(token_file):
    door = Door(TokenFile(token_file))
    for peer in range(3000):
        refusal(door, asked(WRONG, peer=str(peer)), Role.VIEW)
    assert len(door._failures._recent) <= 1024


def test_a_rotation_keeps_the_token_before_it_and_no_more(tmp_path):
    path = tmp_path / "run" / "tokens"
    first = rotate(Role.OPERATE, path)
    door = Door(TokenFile(path))
    second = rotate(Role.OPERATE, path)
    _age(path)
    for token in (first, second):
        assert door.admit(asked(token), Role.OPERATE).token == token_id(token)
    third = rotate(Role.OPERATE, path)
    _age(path, seconds=20)
    assert refusal(door, asked(first), Role.OPERATE) == (401, "unauthorised")
    assert door.admit(asked(third), Role.OPERATE)
    assert len({first, second, third}) == 3


def test_a_rotation_leaves_other_roles_alone(token_file):
    rotate(Role.VIEW, token_file)
    assert TokenFile(token_file).caller(ADMIN) == Caller(Role.ADMIN, token_id(ADMIN))


def test_a_token_has_256_bits_and_its_file_one_reader(tmp_path):
    path = tmp_path / "tokens"
    assert len(bytes.fromhex(rotate(Role.VIEW, path))) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused(token_file, mode):
    token_file.chmod(mode)
    with pytest.raises(TokenError, match="chmod 600"):
        TokenFile(token_file)


@pytest.mark.parametrize("line", ["root " + ADMIN, "admin short", ADMIN, "admin"])
def test_a_line_that_is_no_token_is_named_without_its_text(token_file, line):
    token_file.write_text(f"view {VIEW}\n{line}\n")
    with pytest.raises(TokenError, match=":2: expected a role") as error:
        TokenFile(token_file)
    assert ADMIN not in str(error.value)


def test_a_file_that_is_gone_lets_nobody_in(token_file):
    known = TokenFile(token_file)
    token_file.unlink()
    assert known.caller(ADMIN) is None


def test_the_environments_token_comes_before_the_file(token_file):
    known = known_tokens({"ARM_TOKEN": WRONG}, file=token_file)
    assert isinstance(known, OneToken)
    assert known.caller(WRONG) == Caller(Role.ADMIN, token_id(WRONG))
    assert known.caller(ADMIN) is None
    assert own_token({"ARM_TOKEN": WRONG}, file=token_file) == WRONG


def test_a_client_shows_the_token_that_may_most(token_file):
    assert own_token({}, file=token_file) == ADMIN


def test_without_tokens_there_are_none(tmp_path):
    assert known_tokens({}, file=tmp_path / "none") is None
    assert own_token({}, file=tmp_path / "none") is None


def test_a_short_token_is_refused_without_saying_it():
    with pytest.raises(TokenError, match="expected 32 or more") as error:
        known_tokens({"ARM_TOKEN": "hunter2"})
    assert "hunter2" not in str(error.value)


def test_the_id_of_a_token_does_not_tell_it():
    assert len(token_id(ADMIN)) == 8
    assert token_id(ADMIN) not in ADMIN


def test_the_command_writes_a_token_and_does_not_show_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "tokens"
    monkeypatch.setattr(tokens, "TOKEN_FILE", path)
    monkeypatch.setattr(tokens.rotate, "__defaults__", (path,))
    assert tokens.main(["rotate=view"]) == 0
    role, token = path.read_text().split()
    out = capsys.readouterr().out
    assert role == "view"
    assert token_id(token) in out
    assert token not in out


@pytest.mark.parametrize("word", ["rotate=root", "rotate", "role=view"])
def test_the_command_refuses_other_words(word, capsys):
    assert tokens.main([word]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.7", "example.com", "")],
)
def test_a_loopback_address_is_known(host, answer):
    assert is_loopback(host) is answer


def _age(path, *, seconds=10):
    """Make a file that was written at once after another one as young as it is."""
    later = path.stat().st_mtime + seconds
    os.utime(path, (later, later))


def too_many(door, peer="10.0.0.7"):
    try:
        door.check_pace(asked(peer=peer))
    except RefusedError as refused:
        return refused.status, refused.code
    return None


def test_a_peer_elsewhere_changes_something_twenty_times_a_second_at_most():
    clock = SetClock()
    door = Door(None, clock=clock)
    assert [too_many(door) for _ in range(20)] == [None] * 20
    assert too_many(door) == (429, "too_many")
    assert too_many(door, peer="10.0.0.8") is None
    assert [too_many(door, peer="127.0.0.1") for _ in range(30)] == [None] * 30
    clock.time = 1.0
    assert too_many(door) is None
