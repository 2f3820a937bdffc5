"""R5 to R7: a rewarder that is away or talks nonsense, a learner that is away, a full disk."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row, not_measured, spread
from ops.safety_checks.stub import StubRewarder, garbage, good_answer
from ops.safety_checks.victims import limited, made_up_episode
from rewarder.client import RemoteReward
from rewarder.reward import Clip, NoScore, clip_of
from rl.labeller import Labeller
from robot.journal import Journal

RECONNECT_S = 5.0
OUTAGE_S = 2.0
"""How long the rewarder is away: the next question then comes within 2 s."""
DISK = "3m"


def rewarder_away(effort: Effort) -> list[Row]:
    """R5: sealing goes on while the rewarder is down, and labels come when it is back."""
    count = effort.count(quick=3, full=30)
    rng = np.random.default_rng([effort.seed, 205])
    waits: list[float] = []
    seals: list[float] = []
    wrong: list[str] = []
    for trial in effort.progress(range(count), "R5 outages"):
        wait, sealed, labels = _outage(effort.folder / f"outage{trial}", rng)
        waits.append(wait)
        seals += sealed
        if wait > RECONNECT_S or labels != len(sealed):
            wrong.append(f"seed={effort.seed} outage {trial}: {wait:.1f} s, {labels} labels")
    row = Row(
        id="R5",
        promise="while the rewarder is down episodes are sealed as ever; it is found again",
        asked=f"reconnect ≤{RECONNECT_S:g} s after {OUTAGE_S:g} s; back-off 0.5 to 30 s",
        measured=f"first label after {spread(waits, scale=1, unit='s')}; sealing meanwhile "
        f"{spread(seals)}",
        trials=count,
        full=30,
        broken=len(wrong),
        how=f"A stub service is down for {OUTAGE_S:g} s while ten episodes are sealed and handed "
        "to the labeller; counted from its return to the first label, and that all ten get one.",
        noise="a stub's answer takes about 2 ms",
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


def _outage(folder: Path, rng: np.random.Generator) -> tuple[float, list[float], int]:
    """Return the wait for the first label, what sealing took, and how many labels there were."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    journal, seals = Journal(folder / "journal"), list[float]()
    (folder / "labels").mkdir()
    model = RemoteReward(f"http://127.0.0.1:{port}", timeout_s=2.0)
    labeller = Labeller(model, folder / "labels")
    began = time.monotonic()
    for number in range(10):
        episode = made_up_episode(f"{number:06d}-00000000")
        before = time.monotonic()
        path = journal.seal(episode)
        seals.append(time.monotonic() - before)
        labeller.submit(path)
    time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - began)))

    def answer(count: int) -> tuple[int, bytes]:
        return 200, json.dumps(good_answer(count, rng)).encode()

    labels, first = 0, float("inf")
    with StubRewarder(answer, port=port):
        back = time.monotonic()
        while labels < len(seals) and time.monotonic() < back + 2 * RECONNECT_S:
            labels += sum(done.reason is None for done in labeller.done())
            if labels and first == float("inf"):
                first = time.monotonic() - back
            time.sleep(0.005)
        labeller.close()
        model.close()
    return first, seals, labels


def nonsense_scores(
    effort: Effort, make: Callable[[str], RemoteReward] = RemoteReward
) -> list[Row]:
    """R6: what is no score is a missing label, never a label of 0."""
    count = effort.count(quick=500, full=10_000)
    rng = np.random.default_rng([effort.seed, 206])
    clip = clip_of(made_up_episode("000000-00000000"))
    said: list[bytes] = []

    def answer(length: int) -> tuple[int, bytes]:
        status, body = garbage(length, rng)
        said.append(body)
        return status, body

    with StubRewarder(answer) as stub:
        model = make(stub.url)
        taken = [
            f"seed={effort.seed} trial {trial}: {said[-1][:80]!r}"
            for trial in effort.progress(range(count), "R6 answers")
            if _scored(model, clip)
        ]
        model.close()
    row = Row(
        id="R6",
        promise="nonsense from the rewarder is a missing label, not a label of 0",
        asked="100 %",
        measured=f"{count - len(taken):,} of {count:,} were no score",
        trials=count,
        full=10_000,
        broken=len(taken),
        how="A stub answers with cut, wrong, missing, mistyped and not finite fields, wrong "
        "lengths, deep nesting, HTML, error statuses; the client must raise `NoScore`.",
        examples=tuple(taken[:MOST_EXAMPLES]),
    )
    return [row]


def _scored(model: RemoteReward, clip: Clip) -> bool:
    try:
        model.score(clip)
    except NoScore:
        return False
    return True


def disk_full(effort: Effort) -> list[Row]:
    """R7: a full disk stops cleanly: nothing half written, nothing sealed lost."""
    promise = "a full disk stops cleanly: nothing half written, nothing lost, on again when freed"
    count = effort.count(quick=20, full=300)
    folder = effort.folder / "small"
    folder.mkdir()
    words = [sys.executable, "-m", "ops.safety_checks.full_disk", str(folder), str(count)]
    command = limited(folder, DISK, words)
    if command is None:
        return [not_measured("R7", promise, "100 %", why="no `unshare` to make a small disk with")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if ran.returncode != 0:
        reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        return [not_measured("R7", promise, "100 %", why=f"no small disk: {reason[:120]}")]
    result = json.loads(ran.stdout.splitlines()[-1])
    broken = list[str](result["broken"])
    row = Row(
        id="R7",
        promise=promise,
        asked="100 %",
        measured=f"{count - len(broken)} of {count} fillings clean, {result['sealed']} episodes "
        "sealed before",
        trials=count,
        full=300,
        broken=len(broken),
        how=f"Episodes are sealed on a tmpfs of {DISK} until `DiskFull`, another byte each time; "
        "that the arm then parks is S6's silence, or the recorder's own request.",
        examples=tuple(broken[:MOST_EXAMPLES]),
    )
    return [row]
