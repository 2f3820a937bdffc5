"""Show where the time goes between a policy server and an arm: `make ping-policy`.

`python -m policy_server.ping url=ws://127.0.0.1:8080 n=50`: from an observation that is ready to
its chunk in the queue, against a budget of 110 ms. With a camera's age, 17 ms at 30 frames a
second, and half a tick at 20 Hz less what overlaps, that is 120 ms from picture to motion.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from policy_server.link import Arrived, Inquiry, PolicyLink
from policy_server.policy import PolicyUnavailable
from policy_server.self_test import probe
from robot.words import UsageError, parse_words

BUDGET_S = 0.110
PARTS = ("encode", "network", "wait", "infer", "total")
PATIENCE_S = 30.0
WARM_UP = 3
KNOWN = {"url": "", "n": "50"}
UNAVAILABLE = 3


def default_url() -> str:
    """Return the address that the environment names."""
    host = os.environ.get("POLICY_SERVER_HOST") or "127.0.0.1"
    port = os.environ.get("POLICY_SERVER_PORT") or "8080"
    return os.environ.get("POLICY_SERVER_URL") or f"ws://{host}:{port}"


def ping(url: str, count: int) -> tuple[NDArray[np.float64], float]:
    """Return the seconds of each part, shape (count, parts), and the bytes of a request."""
    times: list[list[float]] = []
    token = os.environ.get("POLICY_SERVER_TOKEN") or None
    with closing(PolicyLink(url, token=token, timeout_s=PATIENCE_S)) as link:
        cameras = {name: name for name in link.spec.images}
        size = 0.0
        for step in range(WARM_UP + count):
            request = probe(link.spec)
            link.ask(Inquiry(request=request, episode=0, step=step, cameras=cameras))
            timing = _answer(link).timing
            size = timing["bytes"]
            if step >= WARM_UP:
                times.append([timing[part] for part in PARTS])
    return np.array(times), size


def _answer(link: PolicyLink) -> Arrived:
    deadline = time.monotonic() + PATIENCE_S
    while (left := deadline - time.monotonic()) > 0:
        arrived, lost = link.poll(wait_s=left)
        if lost:
            raise PolicyUnavailable(f"{link.url}: {lost}")
        for one in arrived:
            if one.rows is None:
                raise PolicyUnavailable(f"{link.url} gives no rows: {one.refusal}")
            return one
    raise PolicyUnavailable(f"{link.url} gave no answer within {PATIENCE_S:g} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, print the table and return the exit code: 1 where the budget does not hold."""
    try:
        words = parse_words(sys.argv[1:] if argv is None else argv, known=KNOWN)
        if not words["n"].isdigit() or not int(words["n"]):
            raise UsageError(f"n={words['n']!r}; expected a whole number from 1 up")  # noqa: TRY301
        url = words["url"] or default_url()
        times, size = ping(url, int(words["n"]))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except PolicyUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return UNAVAILABLE
    _show(url, times, size)
    return int(np.percentile(times[:, -1], 99) > BUDGET_S)


def _show(url: str, times: NDArray[np.float64], size: float) -> None:
    table = Table(title=f"{url}, {len(times)} requests of {size / 1e3:.1f} kB, ms")
    for name in ("part", "p50", "p95", "p99"):
        table.add_column(name, justify="right" if name != "part" else "left")
    for name, column in zip(PARTS, times.T, strict=True):
        table.add_row(name, *(f"{1e3 * np.percentile(column, p):.1f}" for p in (50, 95, 99)))
    Console().print(table)
    p99 = 1e3 * float(np.percentile(times[:, -1], 99))
    verdict = "holds" if p99 <= 1e3 * BUDGET_S else "does not hold"
    Console().print(f"p99 {p99:.1f} ms: the budget of {1e3 * BUDGET_S:.0f} ms {verdict}")


if __name__ == "__main__":
    sys.exit(main())
