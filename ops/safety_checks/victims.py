"""Processes that write for ever and are killed for it; each says in a file what it had promised.

They are forked from a server that has their modules loaded, so that a thousand deaths take minutes.
"""

import itertools
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np

from robot.arm import frozen
from robot.journal import Episode, EpisodeInfo, Journal, episode_bytes

PICTURE = 20_000
"""Bytes of a picture of the made-up episodes."""
START_S = 60.0
"""Within which a victim begins to write."""


def context(*modules: str) -> ForkServerContext:
    """Return how victims are started: from a server that has loaded `modules`.

    A process has one such server; the modules of its first start are the ones that count.
    """
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([__name__, "ops.safety_checks.drivers", *modules])
    return forking


def killed_within[W](
    victim: Callable[[Connection, W], None], wish: W, *, after: float, forking: ForkServerContext
) -> list[object]:
    """Start a victim, kill -9 it `after` seconds from its first word, return all it said."""
    ours, theirs = forking.Pipe(duplex=False)
    process = forking.Process(target=victim, args=(theirs, wish), daemon=True)
    process.start()
    theirs.close()
    promises: list[object] = []
    if not ours.poll(START_S):
        process.kill()
        raise TimeoutError(f"a victim did not begin to write within {START_S:g} s")
    end = time.monotonic() + after
    while (left := end - time.monotonic()) > 0:
        if ours.poll(left):
            try:
                promises.append(ours.recv())
            except EOFError:
                break
    process.kill()
    process.join()
    # What the victim said before it died still counts.
    while ours.poll():
        try:
            promises.append(ours.recv())
        except (EOFError, OSError):
            break
    ours.close()
    return promises


def made_up_episode(name: str, *, steps: int = 5) -> Episode:
    """Return an episode whose content follows from its name."""
    rng = np.random.default_rng(list(name.encode()))
    observations = steps + 3
    info = EpisodeInfo(
        episode=name,
        arm="arm01",
        task="lift",
        goal="Lift the green cube.",
        seed=3,
        end="time_limit",
        started_at="2026-01-01T10:00:00+00:00",
        action_space="ee_delta",
        policy="learned/000042",
        greedy=False,
        git_revision="0123abcd",
        config={},
    )
    return Episode(
        info=info,
        stamps=np.linspace(0.0, 0.7, observations, dtype=np.float64),
        joint_pos=rng.normal(size=(observations, 6)),
        joint_target=np.tile(frozen([0.0] * 6), (observations, 1)),
        frames={"front": [rng.bytes(PICTURE) for _ in range(observations)]},
        first_step=1,
        state={"joint_pos": rng.normal(size=(steps + 1, 6)).astype(np.float32)},
        actions=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        source=np.zeros(steps, np.uint8),
        guard_events=[()] * steps,
    )


PATTERN = made_up_episode("pattern")


def promised_episode(name: str) -> Episode:
    """Return what `sealer` seals under a name."""
    return replace(PATTERN, info=replace(PATTERN.info, episode=name))


def sealer(promises: Connection, wish: tuple[Path, int], pause_s: float = 0.0) -> None:
    """Seal episodes for ever, some of them as uploads; promise each once it is sealed."""
    folder, number = wish
    journal = Journal(folder)
    promises.send(None)
    for count in itertools.count():
        name = f"{count:06d}-{number:08x}"
        episode = promised_episode(name)
        if count % 2:
            journal.accept(f"{name}.npz", episode_bytes(episode))
        else:
            journal.seal(episode)
        promises.send(name)
        time.sleep(pause_s)


def limited(folder: Path, size: str, command: Sequence[str]) -> list[str] | None:
    """Return a command that runs with `folder` on a disk of `size` of its own, if one can be had.

    The disk is a tmpfs in a mount namespace: it is gone with the process.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    own = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    script = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    return [unshare, *own, "sh", "-c", script, "sh", size, str(folder), *command]


def moments(rng: random.Random, longest: float) -> float:
    """Return when to kill: any moment, and often right after the start."""
    return rng.uniform(0.0, longest) ** 2 / longest
