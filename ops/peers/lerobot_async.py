"""LeRobot's async policy server, asked by clients as its own robot client asks.

`python lerobot_async.py CLIENTS MILLISECONDS SECONDS` prints JSON: p50 and p99 in ms, answers a
second, and the share of answers that were made from another client's observation. The policy knows
nothing and takes so many milliseconds; pictures are two of 224x224.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportMissingModuleSource=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Neither LeRobot nor gRPC says its types.

import json
import logging
import pickle
import socket
import sys
import time
from concurrent import futures
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import grpc  # deptry: ignore[DEP003]
import numpy as np
import torch
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import TimedObservation
from lerobot.async_inference.policy_server import PolicyServer
from lerobot.transport import services_pb2 as their_messages
from lerobot.transport import services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks

services_pb2: Any = their_messages
HORIZON, SIDE = 40, 224
CAMERAS = ("base", "wrist")
JOINTS = tuple(f"joint{k}.pos" for k in range(6))
ARM_STEPS = 1_000_000
"""An observation's number begins here for each client, so that an answer says whose it is."""


class Null:
    """A policy that answers zeros."""

    def __init__(self, takes_ms: float) -> None:
        """Take so many milliseconds."""
        self._takes_s = takes_ms / 1e3
        shape = SimpleNamespace(shape=(3, SIDE, SIDE))
        features = {f"observation.images.{name}": shape for name in CAMERAS}
        self.config = SimpleNamespace(image_features=features)

    def predict_action_chunk(self, _: object) -> torch.Tensor:
        """Return rows, shape (1, 40, 6)."""
        time.sleep(self._takes_s)
        return torch.zeros(1, HORIZON, len(JOINTS))


def same(value: Any) -> Any:  # noqa: ANN401
    """Return what was given: nothing is to be normalised."""
    return value


def null_server(takes_ms: float) -> Any:  # noqa: ANN401 - it is given what it would load
    """Return a server that has a policy already: none is loaded from a client's instructions."""
    config = PolicyServerConfig(inference_latency=0.0, obs_queue_timeout=1.0)
    server: Any = PolicyServer(config)
    picture = {"dtype": "image", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]}
    server.lerobot_features = {f"observation.images.{name}": picture for name in CAMERAS}
    state = {"dtype": "float32", "shape": (len(JOINTS),), "names": list(JOINTS)}
    server.lerobot_features |= {"observation.state": state}
    server.policy, server.actions_per_chunk = Null(takes_ms), HORIZON
    server.preprocessor = server.postprocessor = same
    return server


def observation(number: int) -> TimedObservation:
    """Return what a robot sees, as its client sends it."""
    rng = np.random.default_rng(0)
    seen: dict[str, Any] = dict.fromkeys(JOINTS, 0.0)
    seen |= {name: rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for name in CAMERAS}
    return TimedObservation(timestamp=time.time(), timestep=number, observation=seen, must_go=True)


def ask(stub: Any, seen: TimedObservation, number: int) -> list[Any]:  # noqa: ANN401
    """Return the actions that come next, none if none come."""
    seen.timestep = number
    data = pickle.dumps(seen)
    stub.SendObservations(send_bytes_in_chunks(data, services_pb2.Observation, silent=True))
    answer = stub.GetActions(services_pb2.Empty()).data
    return pickle.loads(answer) if answer else []  # noqa: S301 - its own wire, on this machine


def client(address: str, arm: int, until: float) -> tuple[list[float], int]:
    """Ask again and again; return milliseconds of answers, and how many were another arm's."""
    times: list[float] = []
    wrong = 0
    with grpc.insecure_channel(address) as channel:
        stub = services_pb2_grpc.AsyncInferenceStub(channel)
        stub.Ready(services_pb2.Empty())
        seen, number = observation(0), arm * ARM_STEPS
        while time.time() < until:
            number += 1
            began = time.perf_counter()
            actions = ask(stub, seen, number)
            if actions:
                times.append(1e3 * (time.perf_counter() - began))
                wrong += actions[0].get_timestep() != number
    return times, wrong


def serve(address: str, takes_ms: float) -> None:
    """Serve until killed."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(null_server(takes_ms), server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def main(clients: int, takes_ms: float, seconds: float) -> None:
    """Serve, ask and print."""
    logging.disable(logging.CRITICAL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # Forked before gRPC has begun: its threads would not come along, and imports take 20 s.
    process = get_context("fork").Process(target=serve, args=(address, takes_ms), daemon=True)
    process.start()
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=20.0)
    until = time.time() + seconds
    with futures.ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(client, address, arm, until) for arm in range(clients)]
        got = [one.result() for one in asked]
    process.kill()
    print(json.dumps(figures(got, seconds)))


def figures(got: list[tuple[list[float], int]], seconds: float) -> dict[str, float]:
    """Return what the clients saw, in short."""
    times = [took for own, _ in got for took in own]
    wrong = sum(count for _, count in got)
    p50, p99 = np.percentile(times, [50, 99])
    found = {"p50": p50, "p99": p99, "rate": len(times) / seconds, "wrong": wrong / len(times)}
    return {name: round(float(value), 3) for name, value in found.items()}


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
