"""Feed a policy server's decoder hostile frames: `make fuzz-wire N=10000000 SEED=0`.

`python -m ops.fuzz_wire n=100000 seed=0 jobs=2`: each frame must be understood, or refused with
`WireError` or `BadRequest`, within 50 ms of CPU and little memory. `wired` of them (one in 1000
unless given) go to a server over a socket, while a friend's questions are to be answered.
`frame=7 seed=0` shows one frame again.
"""

import logging
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ops.serve_checks.hostile_frames import SPEC, frame
from ops.serve_checks.server import Served
from ops.serve_checks.wired import over_socket
from policy_server.messages import BadRequest, is_reset, question, rows_of, seq_of
from robot.wire import WireError, decode_map
from robot.words import UsageError, parse_words

KNOWN = {"n": "100000", "seed": "0", "jobs": "", "wired": "", "frame": ""}
PART = 2000
SLOW_S = 0.05
"""CPU time of one frame."""
TRIES = 3
"""A frame is slow only if it is so each time."""
GROWTH = 256 * 2**20
"""Bytes that a process may grow while it decodes."""
WIRED_EVERY, MOST_WIRED = 1000, 5000
MOST_SHOWN = 20

type Ask = Callable[[bytes], str]


@dataclass(slots=True)
class Found:
    """What became of some frames."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    findings: list[str] = field(default_factory=list[str])

    def add(self, other: "Found") -> None:
        """Count others' as well."""
        self.outcomes.update(other.outcomes)
        self.findings += other.findings


def asked(data: bytes) -> str:
    """Read a frame as the service does, and as a client reads a reply; return what it is."""
    message = decode_map(data)
    seq_of(message)
    with suppress(BadRequest):
        rows_of(message, SPEC)
    if is_reset(message):
        return "reset"
    question(message, SPEC, now=0.0)
    return "question"


def outcome_of(data: bytes, ask: Ask = asked) -> tuple[str, str]:
    """Return what a frame came to, and what is wrong with that; nothing is, as a rule."""
    began = time.thread_time()
    try:
        outcome, finding = ask(data), ""
    except WireError:
        outcome, finding = "WireError", ""
    except BadRequest:
        outcome, finding = "BadRequest", ""
    except BaseException as error:  # noqa: BLE001 - any other is what is looked for
        return type(error).__name__, f"{type(error).__name__}: {error}"[:120]
    took = time.thread_time() - began
    return outcome, f"{1e3 * took:.0f} ms" if took > SLOW_S else finding


def judged(data: bytes, ask: Ask = asked) -> tuple[str, str]:
    """Return the same; a frame that is slow is tried again."""
    for _ in range(TRIES - 1):
        outcome, finding = outcome_of(data, ask)
        if not finding.endswith(" ms"):
            return outcome, finding
    return outcome_of(data, ask)


def survive(seed: int, first: int, count: int, ask: Ask = asked) -> Found:
    """Read frames by number, and look at how much memory that took."""
    found, before = Found(), peak_bytes()
    for number in range(first, first + count):
        data = frame(seed, number)
        outcome, finding = judged(data, ask)
        found.outcomes[outcome] += 1
        if finding:
            found.findings.append(f"frame={number} seed={seed}: {finding}, {len(data):,} bytes")
    grown = peak_bytes() - before
    if grown > GROWTH:
        found.findings.append(f"frames {first} to {first + count} seed={seed}: {grown:,} bytes")
    return found


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fuzz(seed: int, count: int, jobs: int) -> Found:
    """Read so many frames in processes of their own; show how far that is."""
    found, parts = Found(), [(at, min(PART, count - at)) for at in range(0, count, PART)]
    spawn = get_context("spawn")
    with (
        _bar() as bar,
        ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_silence) as pool,
    ):
        work = bar.add_task("frames", total=count)
        running: dict[Future[Found], int] = {
            pool.submit(survive, seed, first, size): first for first, size in parts
        }
        for done in as_completed(running):
            try:
                found.add(done.result())
            except BrokenProcessPool:
                found.findings.append(f"seed={seed}: a process died, from frame {running[done]} on")
                break
            bar.advance(work, PART)
    return found


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


def _silence() -> None:
    """Say nothing: libjpeg has something to say of each broken picture."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def wired(seed: int, count: int, of: int) -> Found:
    """Send every so-manieth frame to a server's process; add what a friend saw."""
    numbers = range(0, of, max(1, of // max(1, count)))[:count]
    with ExitStack() as stack:
        server = stack.enter_context(Served.ours("seeing"))
        seen = over_socket(server.address, ((number, frame(seed, number)) for number in numbers))
    outcomes = Counter({f"socket: {name}": times for name, times in seen.outcomes.items()})
    outcomes["socket: friend answered"] = seen.answered
    print(f"a friend's slowest answer meanwhile: {1e3 * seen.slowest_s:.0f} ms")
    return Found(outcomes=outcomes, findings=[f"{one} (seed={seed})" for one in seen.findings])


def show_frame(seed: int, number: int) -> int:
    """Show one frame and what becomes of it; return 1 if that is wrong."""
    data = frame(seed, number)
    outcome, finding = judged(data)
    print(f"frame={number} seed={seed}: {len(data):,} bytes, {data[:64].hex()}")
    print(finding or outcome)
    return int(bool(finding))


def main(words: Sequence[str]) -> int:
    """Fuzz and print; return 1 where something was found."""
    try:
        given = parse_words(words, known=KNOWN)
        numbers = _numbers(given)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seed, count = numbers["seed"] or 0, numbers["n"] or 0
    if (number := numbers["frame"]) is not None:
        return show_frame(seed, number)
    began = time.monotonic()
    found = fuzz(seed, count, numbers["jobs"] or os.cpu_count() or 1)
    rate = count / (time.monotonic() - began)
    most = numbers["wired"]
    found.add(wired(seed, min(MOST_WIRED, count // WIRED_EVERY) if most is None else most, count))
    return report(found, rate)


def report(found: Found, rate: float) -> int:
    """Print the counts and what was found; return 1 where something was."""
    print(f"{rate:,.0f} frames/s")
    for outcome, times in found.outcomes.most_common():
        print(f"{times:>14,}  {outcome}")
    for finding in found.findings[:MOST_SHOWN]:
        print(f"found: {finding}")
    print(f"{len(found.findings)} findings")
    return int(bool(found.findings))


def _numbers(given: Mapping[str, str]) -> dict[str, int | None]:
    """Return the words' numbers, None where nothing was given; raise `UsageError`."""
    for name, value in given.items():
        if value and not value.isdigit():
            raise UsageError(f"{name}={value!r}; expected a whole number")
    return {name: int(value) if value else None for name, value in given.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
