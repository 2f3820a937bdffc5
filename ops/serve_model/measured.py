"""The same arms as real clients of a real server that serves the null policy."""

import multiprocessing
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np

from ops.serve_model.serving import Figures, Serving, Tally
from ops.serve_model.simulated import Arm
from policy_server.host import Host
from policy_server.link import Arrived, Inquiry, PolicyLink
from policy_server.self_test import probe
from policy_server.service import create_app
from robot.http_server import listen, server_of
from robot.wire import MAX_BYTES

FIRST_S = 10.0
READY_S, STOP_S = 60.0, 10.0


@contextmanager
def null_server(takes: str) -> Generator[str]:
    """Serve `null:40+6` from a process of its own and yield its address."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(takes, there))
    server.start()
    try:
        if not here.poll(READY_S):
            raise SystemExit("the policy server did not come up")
        yield f"ws://127.0.0.1:{here.recv()}"
    finally:
        server.terminate()
        server.join(timeout=STOP_S)
        server.kill()


def _serve(takes: str, port: Connection) -> None:
    """Serve the null policy as `make serve-pi` does, on a free port."""
    host = Host([f"null:{takes}"])
    host.open()
    with listen("127.0.0.1", 0, guarded=True) as listening:
        port.send(listening.getsockname()[1])
        server_of(create_app(host), max_message=MAX_BYTES).run(sockets=[listening])


class Client:
    """One arm as `Arm` has it, at its pace, that asks a real server."""

    def __init__(self, link: PolicyLink, serving: Serving) -> None:
        """Ask over a link of its own."""
        self._link, self._serving, self._tally = link, serving, Tally()
        self._arm = Arm(link.spec.horizon, serving.threshold)
        # A server takes an answer of nothing but zeros for a fault.
        state = {name: np.ones(size, np.float32) for name, size in link.spec.state.items()}
        self._request = replace(probe(link.spec), state=state)

    def run(self, start: float, began: float) -> Tally:
        """Begin `start` after the moment `began` and return what was seen after the warm-up."""
        counts_from = began + self._serving.warm_up_s
        ends = counts_from + self._serving.seconds
        time.sleep(max(0.0, began + start - time.monotonic()))
        self._ask()
        self._take_in(wait_s=FIRST_S, counts=False)
        due = time.monotonic()
        while due < ends:
            time.sleep(max(0.0, due - time.monotonic()))
            counts = time.monotonic() >= counts_from
            self._take_in(counts=counts)
            if self._arm.is_due():
                self._ask()
            self._arm.take(self._tally if counts else None)
            due += 1.0 / self._serving.hz
        return self._tally

    def _ask(self) -> None:
        self._arm.ask()
        self._link.ask(Inquiry(request=self._request, episode=0, step=self._arm.step, cameras={}))

    def _take_in(self, *, wait_s: float = 0.0, counts: bool) -> None:
        arrived, lost = self._link.poll(wait_s=wait_s)
        if lost or any(one.rows is None for one in arrived):
            raise SystemExit(f"the policy server gave no rows: {lost or arrived[0].refusal}")
        for one in arrived:
            self._arm.answered()
            if counts:
                self._tally.latencies.append(_total_s(one))


def _total_s(one: Arrived) -> float:
    return one.timing["total"]


def measure(url: str, serving: Serving) -> Figures:
    """Return what becomes of real clients of a real server; its device is not looked into."""
    links = [PolicyLink(url) for _ in range(serving.arms)]
    began, tally = time.monotonic(), Tally()
    with ThreadPoolExecutor(serving.arms) as pool:
        seen = [
            pool.submit(Client(link, serving).run, start, began)
            for link, start in zip(links, serving.starts(), strict=True)
        ]
        for one in seen:
            tally.add(one.result())
    for link in links:
        link.close()
    return tally.figures(serving)
