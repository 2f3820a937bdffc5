"""How fast servers answer: one client, four clients, and whether they still say that they live."""

import http.client
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import connect

from ops.serve_checks.effort import Effort
from ops.serve_checks.peers import LEROBOT, OPENPI, PeerMissing, lerobot_figures, openpi_server
from ops.serve_checks.policies import SIZE
from ops.serve_checks.row import STORED, Row, not_measured
from ops.serve_checks.server import Served
from policy_server.link import Inquiry, PolicyLink
from policy_server.policy import PolicyRequest
from robot.wire import MAX_BYTES, decode_map, encode

CLIENTS = 4
TAKES = "40+6"
"""Milliseconds that a policy takes for a batch, and for each request of it."""
ROUNDS, WARM_UP = 10, 20
HEALTH_EVERY_S = 0.05
TIMEOUT_S = 10.0
UPLINK_KB = 40.0
STORED_OPENPI = {"p50": 0.51, "p99": 0.72, "rate": 22.8, "crowd_p50": 178.0, "health": 237.0}
STORED_LEROBOT = {"p50": 28.3, "rate": 18.1}

type Image = NDArray[np.uint8]
type Times = NDArray[np.float64]
"""Milliseconds, shape (requests,)."""


def noise(count: int) -> list[Image]:
    """Return blurred noise, (224, 224, 3) each: as JPEGs, as large as a desk before a webcam."""
    from ops.slideshow import slides  # noqa: PLC0415 - brings LeRobot, which takes seconds

    return list(slides(*SIZE)[:count])


def plain_pictures(count: int) -> list[Image]:
    """Return pictures that nobody compresses, shape (224, 224, 3) each."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(count)]


class Asker:
    """openpi's wire and no more: the same client for every server that speaks it."""

    def __init__(self, address: str) -> None:
        """Connect to `host:port`."""
        self._stack = ExitStack()
        opening = connect(f"ws://{address}", compression=None, max_size=MAX_BYTES, proxy=None)
        self._connection = self._stack.enter_context(opening)
        self._connection.recv(timeout=TIMEOUT_S)
        base, wrist = plain_pictures(2)
        self._message: dict[str, object] = {
            "observation/image": base,
            "observation/wrist_image": wrist,
            "observation/state": np.zeros(6, np.float32),
            "prompt": "Lift the red cube.",
        }

    def ask(self) -> float:
        """Return the milliseconds from an observation to its rows."""
        began = time.perf_counter()
        self._connection.send(encode(self._message))
        said = self._connection.recv(timeout=TIMEOUT_S)
        rows = decode_map(said if isinstance(said, bytes) else b"")["actions"]
        took = 1e3 * (time.perf_counter() - began)
        if not len(cast("NDArray[np.float32]", rows)):
            raise RuntimeError("an answer without rows")
        return took

    def close(self) -> None:
        """Hang up."""
        self._stack.close()


def alternating(asks: Sequence[Callable[[], float]], count: int) -> list[Times]:
    """Return the times of `count` requests of each, in rounds that take turns."""
    for ask in asks:
        for _ in range(WARM_UP):
            ask()
    times: list[list[float]] = [[] for _ in asks]
    per_round = max(1, count // ROUNDS)
    for _, (ask, own) in itertools.product(range(ROUNDS), zip(asks, times, strict=True)):
        own += [ask() for _ in range(per_round)]
    return [np.array(own) for own in times]


def one_client(effort: Effort) -> list[Row]:
    """Compare one client that sends two raw pictures to a policy that takes no time."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Served.ours("seeing")).address]
        try:
            servers.append(stack.enter_context(openpi_server(effort.peers, "0+0")).address)
            than = OPENPI
        except PeerMissing:
            than = f"{OPENPI}, {STORED}"
        askers = [stack.enter_context(closing(Asker(address))) for address in servers]
        times = alternating([asker.ask for asker in askers], effort.requests)
    return [*one_client_rows(times, than), *_lerobot_latency(effort, times[0])]


def one_client_rows(times: Sequence[Times], than: str) -> list[Row]:
    """Return p50 and p99 of ours beside openpi's, the stored ones where there are no others."""
    rows: list[Row] = []
    for name, percent in (("p50", 50), ("p99", 99)):
        ours = round(float(np.percentile(times[0], percent)), 3)
        other = STORED_OPENPI[name]
        if len(times) > 1:
            other = round(float(np.percentile(times[1], percent)), 3)
        holds = ours <= 1.5 * other if name == "p50" else ours <= 2.0
        rows.append(
            Row(
                what=f"one client, 2 raw pictures of 224x224, {name}, ms",
                ours=ours,
                other=other,
                than=than,
                asked="ratio <= 1.5" if name == "p50" else "<= 2 ms",
                holds=holds,
                more={"requests": len(times[0])},
            )
        )
    return rows


def _lerobot_latency(effort: Effort, ours: Times) -> list[Row]:
    figures, than = _lerobot(effort, clients=1, takes_ms=0.0)
    what = "one client, 2 raw pictures of 224x224, p50, ms"
    p50 = round(float(np.percentile(ours, 50)), 3)
    return [Row(what=what, ours=p50, other=figures["p50"], than=than, more=figures)]


def _lerobot(effort: Effort, *, clients: int, takes_ms: float) -> tuple[Mapping[str, float], str]:
    seconds = min(10.0, effort.crowd_s)
    try:
        return lerobot_figures(effort.peers, clients, takes_ms, seconds), LEROBOT
    except PeerMissing as missing:
        return STORED_LEROBOT, f"{LEROBOT}, {STORED}: {missing}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crowd:
    """What clients got that each ask again as soon as they have an answer."""

    seconds: float
    times: Sequence[Times]
    """Of each client."""
    health: Times
    """Of `/healthz` meanwhile."""

    @property
    def rate(self) -> float:
        """Return requests a second of all together."""
        return sum(len(own) for own in self.times) / self.seconds

    @property
    def fairness(self) -> float:
        """Return how many times as many answers the luckiest had as the unluckiest."""
        counts = [len(own) for own in self.times]
        return max(counts) / max(1, min(counts))


def crowd(address: str, seconds: float, clients: int = CLIENTS) -> Crowd:
    """Have clients ask a server for so long, and look at its `/healthz` meanwhile."""
    began = time.monotonic() + 0.5
    with ThreadPoolExecutor(clients + 1) as pool:
        asking = [pool.submit(_closed_loop, address, began, seconds) for _ in range(clients)]
        health = pool.submit(_health, address, began, seconds)
        times = [one.result() for one in asking]
        return Crowd(seconds=seconds, times=times, health=health.result())


def _closed_loop(address: str, began: float, seconds: float) -> Times:
    with closing(Asker(address)) as asker:
        asker.ask()
        threading.Event().wait(max(0.0, began - time.monotonic()))
        times: list[float] = []
        while time.monotonic() < began + seconds:
            times.append(asker.ask())
    return np.array(times)


def _health(address: str, began: float, seconds: float) -> Times:
    threading.Event().wait(max(0.0, began - time.monotonic()))
    times: list[float] = []
    while time.monotonic() < began + seconds:
        times.append(healthz(address))
        time.sleep(HEALTH_EVERY_S)
    return np.array(times)


def healthz(address: str) -> float:
    """Return the milliseconds that `/healthz` takes, with a connection of its own."""
    began = time.perf_counter()
    with closing(http.client.HTTPConnection(address, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", "/healthz")
        if connection.getresponse().status != 200:
            raise RuntimeError(f"/healthz of {address} does not say 200")
    return 1e3 * (time.perf_counter() - began)


def four_clients(effort: Effort) -> list[Row]:
    """Compare four arms that ask at once, of a policy that takes 40 ms and 6 ms a request."""
    with Served.ours(f"seeing:{TAKES}") as server:
        ours = crowd(server.address, effort.crowd_s)
    try:
        with openpi_server(effort.peers, TAKES) as server:
            other, than = crowd(server.address, effort.crowd_s), OPENPI
    except PeerMissing:
        other, than = None, f"{OPENPI}, {STORED}"
    lerobot, said = _lerobot(effort, clients=CLIENTS, takes_ms=46.0)
    what = f"{CLIENTS} clients, 40 ms + 6 ms a request, requests/s"
    rate = round(ours.rate, 1)
    rows = crowd_rows(ours, other, than)
    return [*rows, Row(what=what, ours=rate, other=lerobot["rate"], than=said, more=lerobot)]


def crowd_rows(ours: Crowd, other: Crowd | None, than: str) -> list[Row]:
    """Return how many answers there were, how soon, how fairly, and how `/healthz` did."""
    what = f"{CLIENTS} clients, 40 ms + 6 ms a request"
    rate, p50, health = _figures(ours)
    stored = (STORED_OPENPI["rate"], STORED_OPENPI["crowd_p50"], STORED_OPENPI["health"])
    theirs = _figures(other) if other else stored
    fairness, unfair = round(ours.fairness, 3), round(other.fairness, 3) if other else None

    def row(name: str, figures: tuple[float, float | None], asked: str, *, holds: bool) -> Row:
        return Row(
            what=f"{what}, {name}",
            ours=figures[0],
            other=figures[1],
            than=than,
            asked=asked,
            holds=holds,
            more={"requests": [len(own) for own in ours.times]},
        )

    return [
        row("requests/s", (rate, theirs[0]), "ratio >= 1.8", holds=rate >= 1.8 * theirs[0]),
        row("p50, ms", (p50, theirs[1]), "ratio <= 0.5", holds=p50 <= 0.5 * theirs[1]),
        row("most/least answers", (fairness, unfair), "<= 1.1", holds=fairness <= 1.1),
        row("/healthz p99, ms", (health, theirs[2]), "<= 20 ms", holds=health <= 20.0),
    ]


def _figures(seen: Crowd) -> tuple[float, float, float]:
    p50 = float(np.percentile(np.concatenate(list(seen.times)), 50))
    return round(seen.rate, 1), round(p50, 1), round(float(np.percentile(seen.health, 99)), 2)


def uplink(_: Effort) -> list[Row]:
    """Count the bytes of an observation with two compressed pictures."""
    try:
        pictures = noise(12)
    except ImportError as error:
        return [not_measured("uplink of an observation, kB", error)]
    with (
        Served.ours("seeing") as server,
        closing(PolicyLink(f"ws://{server.address}", jpeg=True)) as link,
    ):
        sizes = [_bytes_of(link, pictures[n], pictures[n + 1], step=n) for n in range(11)]
    most = round(max(sizes) / 1e3, 1)
    return [
        Row(
            what="uplink of an observation with 2 JPEGs of 224x224, kB, the largest",
            ours=most,
            other=301.0,
            than="the same, raw",
            asked="<= 40 kB",
            holds=most <= UPLINK_KB,
            more={"mean_kb": round(statistics.fmean(sizes) / 1e3, 1), "pictures": "blurred noise"},
        )
    ]


def _bytes_of(link: PolicyLink, base: Image, wrist: Image, *, step: int) -> float:
    request = PolicyRequest(
        state={"joint_pos": np.zeros(6, np.float32)},
        goal="Lift the red cube.",
        observed_at=0.0,
        images={"base": base, "wrist": wrist},
    )
    cameras = {"base": "base", "wrist": "wrist"}
    link.ask(Inquiry(request=request, episode=0, step=step, cameras=cameras))
    arrived, lost = link.poll(wait_s=TIMEOUT_S)
    if lost or not arrived or arrived[0].rows is None:
        raise RuntimeError(f"no rows: {lost or arrived}")
    return arrived[0].timing["bytes"]
