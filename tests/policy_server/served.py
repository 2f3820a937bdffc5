"""A policy server in this process, and policies that are told what to do."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np

from policy_server.host import Host
from policy_server.policy import ActionChunk, Policy, PolicyRequest, PolicySpec
from policy_server.service import create_app
from robot.http_server import listen, server_of
from robot.wire import MAX_BYTES

SPEC = PolicySpec(
    action_space="joint_pos", action_dim=2, state={"here": 2}, horizon=8, hz=20.0, reads_goal=False
)


class Ramp:
    """Answers rows that count from where the arm is; it waits where a gate is closed."""

    def __init__(self, spec: PolicySpec = SPEC) -> None:
        self.spec = spec
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.asked: list[PolicyRequest] = []

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        self.gate.wait(10.0)
        self.batches.append(len(requests))
        self.asked += requests
        return [self._chunk(request) for request in requests]

    def _chunk(self, request: PolicyRequest) -> ActionChunk:
        steps = np.arange(1, self.spec.horizon + 1, dtype=np.float32)[:, None]
        steps = np.repeat(steps, self.spec.action_dim, axis=1)
        looks = sum(float(image.mean()) for image in request.images.values())
        rows = request.state.get("here", 0.0) + steps + looks
        return ActionChunk(actions=rows.astype(np.float32), observed_at=request.observed_at)


def ask(here=(1.0, 2.0), **more) -> PolicyRequest:
    state = {"here": np.asarray(here, np.float32)}
    return PolicyRequest(**{"state": state, "goal": "Lift.", "observed_at": 0.0, **more})


@contextmanager
def served(policy: Policy, *, token: str | None = None, port: int = 0) -> Generator[str]:
    """Serve a policy and yield its address, `127.0.0.1:port`."""
    host = Host(["it"], load=lambda _: policy)
    host.open()
    with listen("127.0.0.1", port, guarded=True) as listening:
        server = server_of(create_app(host, token=token), max_message=MAX_BYTES)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            host.close()
            server.should_exit = server.force_exit = True
            thread.join(timeout=10.0)
