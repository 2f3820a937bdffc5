"""Arms at 20 Hz that ask a policy server on a bad link, and how often they had no row.

`python -m ops.serve_checks.lan_arms ws://10.91.0.1:8080 4 60` prints JSON, one object an arm.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ops.serve_checks.effort import Effort
from ops.serve_checks.lan import ARMS, SERVER, Lan, LanMissing, settings_of
from ops.serve_checks.policies import Seeing
from ops.serve_checks.row import Row, not_measured
from ops.serve_checks.server import ROOT, TOKEN_VARIABLE
from ops.serve_checks.speed import noise
from policy_server.client import RemotePolicy
from policy_server.policy import PolicyAway, PolicyRequest, PolicyUnavailable

TICK_S = 0.05
COUNT, PORT, TOKEN = 4, 8080, "bench"
DELAY_S, LOSS = 0.005, 0.01
CONNECT_S = 60.0
KEPT = ("steps", "chunks", "starved_steps", "underflows", "refused", "lost", "delay_steps_max")
WHAT = "4 arms at 20 Hz, 5 ms and 1 % loss each way (TUN, kernel TCP)"


def carry_out(url: str, arm: int, seconds: float) -> dict[str, object]:
    """Take a row each tick for so long and return what became of them."""
    policy, pictures = _connected(url), noise(12)
    random = np.random.default_rng(arm)
    given_up, began = 0, time.monotonic()
    due = began + random.uniform(0.0, TICK_S)
    while (now := time.monotonic()) < began + seconds:
        time.sleep(max(0.0, due - now))
        due = max(due + TICK_S, time.monotonic())
        base, wrist = pictures[int(random.integers(12))], pictures[int(random.integers(12))]
        pose = random.uniform(-90, 90, 6).astype(np.float32)
        request = PolicyRequest(
            state={"joint_pos": pose},
            goal="Lift the red cube.",
            observed_at=time.monotonic(),
            images={"base": base, "wrist": wrist},
        )
        try:
            policy.infer_batch([request])
        except PolicyAway:
            given_up += 1
    policy.close()
    figures = policy.streaming.figures()
    return {**{name: figures[name] for name in KEPT}, "given_up": given_up}


def _connected(url: str) -> RemotePolicy:
    """Return the policy as soon as its server listens."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            return RemotePolicy(url, Seeing().spec, token=os.environ.get(TOKEN_VARIABLE))
        except PolicyUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def lan(effort: Effort) -> list[Row]:
    """Count how often four arms on a link with delay and loss had no row."""
    try:
        with Lan(delay_s=DELAY_S, loss=LOSS, seed=effort.seed) as link:
            arms = _measured(link, effort.lan_s)
            return lan_rows(arms, effort.lan_s, {"passed": link.passed, "lost": link.lost})
    except LanMissing as missing:
        return [not_measured(WHAT, missing)]


def _measured(link: Lan, seconds: float) -> list[dict[str, float]]:
    how = settings_of(ROOT, {TOKEN_VARIABLE: TOKEN})
    python, port = [sys.executable, "-m"], str(PORT)
    module = "ops.serve_checks.server"
    server = link.server.popen([*python, module, "seeing:40+6", SERVER, port], **how)
    words = [f"ws://{SERVER}:{port}", str(COUNT), str(seconds)]
    arms = link.arms.popen([*python, "ops.serve_checks.lan_arms", *words], **how)
    try:
        said, _ = arms.communicate(timeout=seconds + 3 * CONNECT_S)
    finally:
        arms.kill()
        server.kill()
        for process in (arms, server):
            process.communicate()
    if arms.returncode:
        raise LanMissing("the arms did not reach their server")
    return json.loads(said.strip().splitlines()[-1])


def lan_rows(
    arms: Sequence[dict[str, float]], seconds: float, packets: dict[str, int]
) -> list[Row]:
    """Return underflows a minute and arm, and the share of ticks without a row."""
    underflows = sum(arm["underflows"] for arm in arms) / len(arms) / (seconds / 60.0)
    starved = sum(arm["starved_steps"] for arm in arms) / sum(arm["steps"] for arm in arms)
    more = {"seconds": seconds, "arms": list(arms), **packets, "ends": [SERVER, ARMS]}
    return [
        Row(
            what=f"{WHAT}: underflows a minute and arm",
            ours=round(underflows, 2),
            asked="< 1",
            holds=underflows < 1.0,
            more=more,
        ),
        Row(
            what=f"{WHAT}: ticks without a row, %",
            ours=round(100 * starved, 3),
            asked="< 0.1 %",
            holds=starved < 0.001,
            more={"seconds": seconds},
        ),
    ]


def main(argv: Sequence[str]) -> int:
    """Carry out and print."""
    url, count, seconds = argv[0], int(argv[1]), float(argv[2])
    noise(1)
    with ThreadPoolExecutor(count) as pool:
        driving = [pool.submit(carry_out, url, arm, seconds) for arm in range(count)]
        print(json.dumps([one.result() for one in driving]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
