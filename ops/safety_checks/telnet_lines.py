"""N1 by telnet: whatever comes on its port, letters do what they stand for and a stop is heard."""

import io
import random
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial

from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row
from robot.teleop.telnet import MAX_LINE, TelnetServer

LETTERS = {"s": "start", "a": "abort", "q": "quit", "?": "state"}
LINES = 500
"""Of one connection."""
LINE_BYTES = 24
"""At most so many: a longer line ends the connection, which some do on purpose."""
WAIT_S = 5.0
STOP = "x"
_NEGOTIATION = (b"\xff\xfd\x03", b"\xff\xfb\x18", b"\xff\xf4\xff\xfd\x06", b"\xff\xfa\x18\x00")
_KINDS = ("noise", "letter", "letters", "negotiation", "blank", "text")


def hostile_lines(
    effort: Effort, make_server: Callable[..., TelnetServer] = TelnetServer
) -> list[Row]:
    """N1: send lines of all sorts; count what they set off, and whether a stop is heard after."""
    count = effort.count(quick=20_000, full=1_000_000)
    rng = random.Random(effort.seed)  # noqa: S311 - lines, no secrets
    done, asked, wrong = 0, Counter[str](), list[str]()
    cries = io.StringIO()
    with redirect_stderr(cries), make_server(answers(asked), port=0) as server:
        visits = range(-(-count // LINES))
        for visit in effort.progress(visits, f"N1 telnet, {LINES} lines each"):
            lines = [line_of(rng) for _ in range(LINES)]
            fault = visited(server.port, lines, asked)
            done += len(lines)
            if fault:
                wrong.append(f"seed={effort.seed} visit {visit}: {fault}")
    wrong += [f"logged: {line}" for line in cries.getvalue().splitlines() if line.strip()]
    return [
        Row(
            id="N1",
            promise="the same of what comes by telnet",
            asked="0 of 1 M lines that do what they do not say, tracebacks, deaf ports",
            measured=f"{len(wrong)} of {done:,} lines; {sum(asked.values()):,} did what they say",
            trials=done,
            full=1_000_000,
            broken=len(wrong),
            how=f"Lines of up to {LINE_BYTES} random bytes, letters, telnet's own negotiation, "
            f"blanks and sentences, {LINES} a connection, some ended by a line that is too long; "
            "what each set off is compared with what a second reader makes of it, and a stop on a "
            "new connection must be answered.",
            examples=tuple(wrong[:MOST_EXAMPLES]),
        )
    ]


def answers(asked: Counter[str]) -> dict[str, tuple[str, partial[str]]]:
    """Return a server's answers, which count what they are asked."""

    def answer(letter: str) -> str:
        asked[letter] += 1
        return f"{letter} it is"

    words = {**LETTERS, STOP: "stop"}
    return {letter: (word, partial(answer, letter)) for letter, word in words.items()}


def line_of(rng: random.Random) -> bytes:
    """Return a line of some sort, without its end."""
    match rng.choice(_KINDS):
        case "noise":
            return rng.randbytes(rng.randrange(LINE_BYTES)).replace(b"\n", b"")
        case "letter":
            return rng.choice([*LETTERS, "S", "A", "Q"]).encode() + rng.choice([b"", b"\r", b" "])
        case "letters":
            return "".join(rng.choices("saqxz? ", k=rng.randrange(LINE_BYTES))).encode()
        case "negotiation":
            return rng.choice(_NEGOTIATION) + rng.choice([b"s", b"\x00", b"hello", b""])
        case "blank":
            return rng.choice([b"", b"\r", b"\x00\x00", b"   ", b"\t"])
        case _:
            return rng.choice([b"start now", b"GET / HTTP/1.1", b"quit;", b"'; --", b"\xc3\xa9"])


def visited(port: int, lines: list[bytes], asked: Counter[str]) -> str:
    """Send lines on one connection and press stop on another; return what was wrong, if anything.

    Every fifth visitor leaves with a line that never ends.
    """
    before = asked.copy()
    endless = b"a" * (MAX_LINE + 1) if len(lines[0]) % 5 == 0 else b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as peer:
            peer.sendall(b"\n".join(lines) + b"\n" + endless)
            peer.shutdown(socket.SHUT_WR)
            _read_all(peer)
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as peer:
            peer.sendall(f"{STOP}\n".encode())
            heard = peer.makefile("rb").readline().startswith(STOP.encode())
    except OSError as error:
        return f"no answer: {error}"
    if not heard:
        return "a stop is not heard any more"
    expected = Counter(letter for line in lines if (letter := meant(line)))
    expected[STOP] += 1
    did = asked - before
    return "" if did == expected else f"did {dict(did)} where lines say {dict(expected)}"


def meant(line: bytes) -> str:
    """Return the letter that a line stands for, nothing where it is none."""
    seen = line.translate(None, bytes([*range(32), *range(127, 256)])).decode("ascii").strip()
    letter = seen[:1].lower()
    return letter if letter in LETTERS or letter == STOP else ""


def _read_all(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass
