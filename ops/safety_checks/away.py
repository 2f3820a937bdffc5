"""R5 for whoever else is away: a policy server, a learner, an arm that the dashboard shows."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row, spread
from ops.safety_checks.served import LOOPBACK, served
from ops.safety_checks.victims import made_up_episode
from ops.serve_checks.faults import ticking
from ops.serve_checks.server import Served
from rl.learner_client import Courier, LearnerClient
from rl.live_arms import ArmAddress, LinkedArms
from rl.own_process import free_port
from rl.run_folder import RunFolder
from rl.service import LearnerService
from robot.journal import Journal

OUTAGE_S, RECONNECT_S = 2.0, 5.0
"""How long somebody is away, and within which they are found again."""
LOOK_S, GIVE_UP_S = 0.005, 30.0

type Wait = float
"""Seconds from the moment that somebody is there again until they are found."""


def others_away(effort: Effort) -> list[Row]:
    """R5: take away what an arm or a person talks to, and see how soon it is found again."""
    count = effort.count(quick=2, full=30)
    return [
        _row(
            "a policy server that was away is found again; the arm holds meanwhile",
            list(effort.progress(list(_policy_server(count)), "R5 policy servers")),
            "Ours is killed while rows flow at 20 Hz and started again; counted from the moment "
            "that it listens to the next row.",
        ),
        _row(
            "a learner that was away gets every episode that was sealed meanwhile",
            list(_learner(effort, count)),
            "Its service is away while an episode is sealed and handed to the courier; counted "
            "from its return until nothing is pending, and the run's journal must hold it.",
        ),
        _row(
            "the dashboard finds an arm that was away",
            list(_dashboard(count)),
            "An arm's server is away and comes back on its port; counted until its state is shown.",
        ),
    ]


def _row(promise: str, waits: list[Wait], how: str) -> Row:
    late = [
        f"trial {trial}: {wait:.1f} s" for trial, wait in enumerate(waits) if wait > RECONNECT_S
    ]
    return Row(
        id="R5",
        promise=promise,
        asked=f"≤{RECONNECT_S:g} s after {OUTAGE_S:g} s",
        measured=spread(waits, scale=1, unit="s"),
        trials=len(waits),
        full=30,
        broken=len(late),
        how=how,
        noise=f"looked every {1e3 * LOOK_S:g} ms",
        examples=tuple(late[:MOST_EXAMPLES]),
    )


def _policy_server(count: int) -> Iterator[Wait]:
    with Served.ours("stamped:10") as server, ticking(server.address) as ticks:
        for _ in range(count):
            _until(lambda: bool(ticks.rows) and ticks.rows[-1])
            server.kill()
            time.sleep(OUTAGE_S)
            server.start()
            there = server.wait()
            yield _until(lambda there=there: ticks.first(row=True, after=there) is not None)


def _learner(effort: Effort, count: int) -> Iterator[Wait]:
    episode = made_up_episode("000000-00000000")
    facts = {"goal": episode.info.goal}
    folder = RunFolder.create(effort.folder, task=episode.info.task, config="", facts=facts)
    port, journal = free_port(LOOPBACK), Journal(effort.folder / "arm" / "journal")
    with closing(LearnerClient(f"http://{LOOPBACK}:{port}")) as client, closing(folder):
        courier = Courier(client, episode.info.arm)
        for trial in range(count):
            path = journal.seal(made_up_episode(f"{trial:06d}-00000000"))
            courier.send(path)
            time.sleep(OUTAGE_S)
            service = LearnerService(folder, goal=episode.info.goal)
            service.serve(LOOPBACK, port)
            wait = _until(lambda: not courier.pending)
            service.close()
            arrived = {found.name for found in Journal(folder.journal(episode.info.arm)).episodes()}
            yield wait if path.name in arrived else float("inf")
        courier.close()


def _dashboard(count: int) -> Iterator[Wait]:
    port = free_port(LOOPBACK)
    address = ArmAddress(arm_id="arm01", url=f"http://{LOOPBACK}:{port}", cameras=())
    linked = LinkedArms([address])
    with closing(linked):
        for _ in range(count):
            _until(lambda: linked.snapshot()[0]["state"] is None)
            time.sleep(OUTAGE_S)
            with ExitStack() as stack:
                stack.enter_context(served(port=port))
                yield _until(lambda: linked.snapshot()[0]["state"] is not None)


def _until(holds: Callable[[], bool]) -> Wait:
    """Return the seconds until something holds, infinite where it does not."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > GIVE_UP_S:
            return float("inf")
        time.sleep(LOOK_S)
    return time.monotonic() - began
