"""Who may ask a service: pages of this site, peers with a token, and not too often in vain."""

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from robot.tokens import ANYBODY, Caller, Role, Tokens

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
FAILURES_PER_S, CHANGES_PER_S = 5, 20
"""Of wrong tokens, and of requests that change something, from one peer elsewhere."""
LOCKED_S = 60.0
_MAX_PEERS = 1024


class RefusedError(Exception):
    """A request that is answered with a reason."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Say why, to the client."""
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of its sender."""

    peer: str
    """The other end's address."""
    host: str | None
    origin: str | None
    authorization: str

    @classmethod
    def of(cls, headers: Mapping[str, str], peer: str) -> Self:
        """Return what headers say; their names are in lower case."""
        return cls(
            peer, headers.get("host"), headers.get("origin"), headers.get("authorization", "")
        )


class _Pace:
    """Tells which peers do something more often than so many times a second."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self._recent: OrderedDict[str, deque[float]] = OrderedDict()

    def exceeds(self, peer: str) -> bool:
        """Count one more of a peer and return whether that is too often."""
        # On this machine all programs have the same address: one must not lock the others out.
        if is_loopback(peer):
            return False
        now = self._clock()
        recent = self._recent.setdefault(peer, deque(maxlen=self._most))
        self._recent.move_to_end(peer)
        is_full = len(recent) == self._most and now - recent[0] < 1.0
        recent.append(now)
        if len(self._recent) > _MAX_PEERS:
            self._recent.popitem(last=False)
        return is_full


class Door:
    """Lets in who may ask: by address on this machine, else by token."""

    def __init__(
        self, tokens: Tokens | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask for one of `tokens`, or for none."""
        self.tokens = tokens
        self._clock = clock
        self._failures = _Pace(FAILURES_PER_S - 1, clock)
        self._changes = _Pace(CHANGES_PER_S, clock)
        self._locked: OrderedDict[str, float] = OrderedDict()

    def check_site(self, asked: Asked) -> None:
        """Raise `RefusedError` for a page of another site, or one that borrows this address."""
        if asked.origin is not None and asked.origin.partition("://")[2] != asked.host:
            raise RefusedError(403, "wrong_origin", "pages of other sites may not ask this service")
        if self.tokens is None:
            # A page that renames its own address to 127.0.0.1 still sends its own name.
            host = (asked.host or "").rpartition(":")[0] or asked.host
            if host not in LOOPBACK:
                raise RefusedError(403, "wrong_host", "ask for 127.0.0.1 or localhost")

    def admit(self, asked: Asked, needed: Role | None) -> Caller:
        """Return who asks; raise `RefusedError` unless they may do what needs a role."""
        self.check_site(asked)
        if needed is None:
            return ANYBODY
        scheme, _, token = asked.authorization.partition(" ")
        return self.admit_token(token if scheme.lower() == "bearer" else "", needed, asked.peer)

    def admit_token(self, token: str, needed: Role, peer: str) -> Caller:
        """Return whose a token is; raise `RefusedError` if nobody's, or if too little."""
        if self.tokens is None:
            return ANYBODY
        if self._clock() < self._locked.get(peer, 0.0):
            raise RefusedError(429, "locked", "too many wrong tokens: wait a minute")
        caller = self.tokens.caller(token)
        if caller is None:
            self._count_failure(peer)
            raise RefusedError(
                401, "unauthorised", "send the service's token as `Authorization: Bearer …`"
            )
        if caller.role < needed:
            raise RefusedError(
                403,
                "wrong_role",
                f"this token may {caller.role.name.lower()}; that needs {needed.name.lower()}",
            )
        return caller

    def check_pace(self, asked: Asked) -> None:
        """Raise `RefusedError` for a peer that asks for more changes than a person would."""
        if self._changes.exceeds(asked.peer):
            raise RefusedError(429, "too_many", f"at most {CHANGES_PER_S} changes a second")

    def _count_failure(self, peer: str) -> None:
        if self._failures.exceeds(peer):
            self._locked[peer] = self._clock() + LOCKED_S
            if len(self._locked) > _MAX_PEERS:
                self._locked.popitem(last=False)


def problem(refused: RefusedError, request_id: str) -> dict[str, str]:
    """Return what a client is told of a refusal."""
    return {"code": refused.code, "message": refused.message, "request_id": request_id}
