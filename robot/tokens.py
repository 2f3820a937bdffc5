"""The tokens of a service: 256 random bits each, with a role, in a file that only its owner reads.

`python -m robot.tokens rotate=operate` writes a token of a role into `run/tokens`; the one before
it stays valid until the next rotation.
"""

import hashlib
import hmac
import os
import secrets
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import structlog

from robot.arm_config import ROOT
from robot.words import UsageError, parse_words

log = structlog.get_logger(__name__)

TOKEN_FILE = ROOT / "run" / "tokens"
TOKEN_VARIABLE = "ARM_TOKEN"  # noqa: S105 - its name
TOKENS_PER_ROLE = 2
MIN_TOKEN = 32


class TokenError(Exception):
    """Tokens that a service cannot be started with; its exit code is 2."""


class Role(IntEnum):
    """What the holder of a token may do; each includes the ones before it."""

    VIEW = 1
    OPERATE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Who was let in."""

    role: Role
    token: str
    """The id of the token, or `-` where none was needed."""


ANYBODY = Caller(Role.ADMIN, "-")
"""Whoever reaches a service of this machine that has no tokens."""


class Tokens(Protocol):
    """The tokens that a service takes."""

    def caller(self, token: str) -> Caller | None:
        """Return whose a token is, if it is one."""
        ...


class TokenFile:
    """Tokens of a file, one `role token` a line; a file that changes counts at once."""

    def __init__(self, path: Path) -> None:
        """Read a file; raise `TokenError` if others can read it or it holds none."""
        self._path = path
        self._digests: dict[bytes, Caller] = {}
        self._read_at = -1
        self._refresh()

    def caller(self, token: str) -> Caller | None:
        """Return whose a token is, if it is one, in a time that does not tell."""
        try:
            self._refresh()
        except (TokenError, OSError) as error:
            log.warning("no token is taken", reason=str(error))
            return None
        return _match(self._digests, token)

    def _refresh(self) -> None:
        changed_at = self._path.stat().st_mtime_ns
        if changed_at != self._read_at:
            lines = read_tokens(self._path)
            self._digests = {_digest(t): Caller(role, token_id(t)) for role, t in lines}
            self._read_at = changed_at


class OneToken:
    """A single token, which may do everything."""

    def __init__(self, token: str) -> None:
        """Take what the environment holds."""
        self._digests = {_digest(token): Caller(Role.ADMIN, token_id(token))}

    def caller(self, token: str) -> Caller | None:
        """Return whose a token is, if it is the one."""
        return _match(self._digests, token)


def token_id(token: str) -> str:
    """Return what a log may say of a token: 8 hex digits of its SHA-256."""
    return _digest(token).hex()[:8]


def known_tokens(
    environ: Mapping[str, str] = os.environ, *, file: Path = TOKEN_FILE
) -> Tokens | None:
    """Return the tokens of the environment or of a file, or None where there are none."""
    token = environ.get(TOKEN_VARIABLE)
    if token:
        if len(token) < MIN_TOKEN:
            raise TokenError(
                f"{TOKEN_VARIABLE} has {len(token)} characters; expected {MIN_TOKEN} or more: "
                "try `openssl rand -hex 32`"
            )
        return OneToken(token)
    return TokenFile(file) if file.exists() else None


def own_token(environ: Mapping[str, str] = os.environ, *, file: Path = TOKEN_FILE) -> str | None:
    """Return the token that a client of this machine shows: the environment's, or the file's."""
    if environ.get(TOKEN_VARIABLE):
        return environ[TOKEN_VARIABLE]
    lines = read_tokens(file) if file.exists() else []
    return max(lines, default=(None, None), key=lambda line: line[0] or 0)[1]


def read_tokens(path: Path) -> list[tuple[Role, str]]:
    """Return the roles and tokens of a file; raise `TokenError` if it is open or wrong."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise TokenError(f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}")
    lines: list[tuple[Role, str]] = []
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        role, _, token = line.strip().partition(" ")
        if role.upper() not in Role.__members__ or len(token) < MIN_TOKEN:
            names = ", ".join(name.lower() for name in Role.__members__)
            raise TokenError(f"{path}:{number}: expected a role ({names}) and a token")
        lines.append((Role[role.upper()], token))
    return lines


def rotate(role: Role, path: Path = TOKEN_FILE) -> str:
    """Add a token of a role to a file, drop all but the one before it, and return it."""
    lines = read_tokens(path) if path.exists() else []
    older = [line for line in lines if line[0] == role][-(TOKENS_PER_ROLE - 1) :]
    token = secrets.token_hex(32)
    kept = [line for line in lines if line[0] != role] + older + [(role, token)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    partial.write_text("".join(f"{r.name.lower()} {t}\n" for r, t in kept), encoding="ascii")
    partial.replace(path)
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _match(digests: Mapping[bytes, Caller], token: str) -> Caller | None:
    given, found = _digest(token), None
    for digest, caller in digests.items():
        if hmac.compare_digest(digest, given):
            found = caller
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Add a token of a role to the file of tokens; return the exit code."""
    try:
        words = parse_words(sys.argv[1:] if argv is None else argv, known={"rotate": "operate"})
        role = _role(words["rotate"])
        token = rotate(role)
    except (UsageError, TokenError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"token {token_id(token)} of role {role.name.lower()} is in {TOKEN_FILE}\n")
    return 0


def _role(name: str) -> Role:
    if name.upper() not in Role.__members__:
        raise UsageError(f"rotate={name!r}; expected view, operate or admin")
    return Role[name.upper()]


if __name__ == "__main__":
    sys.exit(main())
