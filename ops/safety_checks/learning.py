"""R3: a learner's checkpoint loads after any death, and acts as the one that wrote it."""

import itertools
import json
import random
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from envs.state import sizes
from ops.safety_checks.effort import Effort
from ops.safety_checks.row import MOST_EXAMPLES, Row
from ops.safety_checks.victims import context, killed_within, moments
from policy_server.backends.learned import LearnedPolicy
from policy_server.policy import PolicyRequest, PolicySpec
from rl.run_folder import Counters, RunFolder
from rl.sac import SacLearner
from rl.transition import State, Transition

HIDDEN = (64, 64)
LONGEST_S = 0.6
"""How long a saving process lives at most, from its first word: several checkpoints."""
SPEC = PolicySpec(action_space="ee_delta", action_dim=4, state=sizes(4))


def saver(promises: Connection, wish: tuple[Path, int]) -> None:
    """Learn and save for ever; promise each checkpoint, and say beforehand how it will act."""
    torch.set_num_threads(1)
    folder, seed = wish
    run, learner = RunFolder(folder), made_learner(seed)
    for updates in itertools.count(1):
        learner.update(1)
        promises.send(("next", updates, action_of(learner, folder / "policy")))
        run.checkpoint(Counters(updates=updates), learner.save)
        promises.send(("saved", updates, b""))


def kill_savers(effort: Effort) -> list[Row]:
    """R3: kill -9 learners in the middle of saving; what is loaded acts as promised, bit by bit."""
    # In a process of its own, whose victims come from a server that has loaded torch.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
        return own.submit(killed_savers, effort).result()


def killed_savers(effort: Effort) -> list[Row]:
    """Do that in this process."""
    torch.set_num_threads(1)
    kills = effort.count(quick=10, full=300)
    rng, forking = random.Random(effort.seed), context(__name__)  # noqa: S311 - moments, no secrets
    reader = made_learner(0)
    wrong: list[str] = []
    fell_back = unfinished = 0
    for kill in effort.progress(range(kills), "R3 kills"):
        folder = effort.folder / f"saver{kill}"
        (folder / "checkpoints").mkdir(parents=True)
        after = moments(rng, LONGEST_S)
        said = killed_within(saver, (folder, kill), after=after, forking=forking)
        actions, saved = _told(said)
        unfinished += len(actions) > len(saved)
        faults = [_fault(reader, folder, actions, at_least=max(saved, default=0))]
        if len(saved) > 1:
            newest = _damage_newest(folder, rng)
            fell_back += 1
            faults.append(_fault(reader, folder, actions, at_least=newest - 1))
        wrong += [f"seed={effort.seed} kill {kill}: {fault}" for fault in faults if fault]
        shutil.rmtree(folder)
    row = Row(
        id="R3",
        promise="after any death a checkpoint loads, and gives the same action for the same input",
        asked="bitwise on the CPU; the newest damaged: the one before",
        measured=f"{kills - len(wrong)} of {kills} bitwise the same; {fell_back} with a damaged "
        "newest went on from the one before",
        trials=kills,
        full=300,
        broken=len(wrong),
        how="A learner updates and saves for ever, says each action beforehand, is killed at a "
        "random moment; another loads the newest whole checkpoint and acts on the same input; "
        "then a byte of the newest is flipped.",
        noise=f"{unfinished} kills fell into a save",
        examples=tuple(wrong[:MOST_EXAMPLES]),
    )
    return [row]


def made_learner(seed: int) -> SacLearner:
    """Return a small learner with something to learn from."""
    learner = SacLearner(SPEC, hidden=HIDDEN, batch_size=32, seed=seed, capacity=500)
    rng = np.random.default_rng(seed)
    learner.add([_transition(rng) for _ in range(64)])
    return learner


def action_of(learner: SacLearner, folder: Path) -> bytes:
    """Return the bits of a learner's greedy action for an input that is always the same."""
    learner.snapshot(folder)
    request = PolicyRequest(state=_state(np.random.default_rng(8)), goal="", observed_at=0.0)
    chunk = LearnedPolicy.load(folder, greedy=True).infer_batch([request])[0]
    return np.asarray(chunk.actions, np.float32).tobytes()


def _told(said: list[object]) -> tuple[Mapping[int, bytes], list[int]]:
    """Return the promised action of each checkpoint, and which were saved."""
    actions: dict[int, bytes] = {}
    saved: list[int] = []
    for word in said:
        match word:
            case ("next", int(updates), bytes(action)):
                actions[updates] = action
            case ("saved", int(updates), bytes()):
                saved.append(updates)
            case _:
                raise ValueError(f"a victim said {word!r}")
    return actions, saved


def _fault(reader: SacLearner, folder: Path, actions: Mapping[int, bytes], *, at_least: int) -> str:
    """Return what is wrong with the newest whole checkpoint, if anything is."""
    newest = RunFolder(folder).newest_checkpoint()
    if newest is None:
        return f"no checkpoint, {at_least} was promised" if at_least else ""
    path, counters = newest
    if counters.updates < at_least:
        return f"checkpoint {counters.updates} is the newest, {at_least} was promised"
    reader.load(path)
    same = action_of(reader, folder / "again") == actions[counters.updates]
    return "" if same else f"checkpoint {counters.updates} acts otherwise"


def _damage_newest(folder: Path, rng: random.Random) -> int:
    """Flip a bit of a file of the newest checkpoint; return its number of updates."""
    found = RunFolder(folder).newest_checkpoint()
    if found is None:
        return 1
    victim = rng.choice(sorted(path for path in found[0].iterdir() if path.is_file()))
    data = bytearray(victim.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if victim.name == "manifest.json" and _reads_the_same(victim, bytes(data)):
        data = data[: len(data) // 2]
    victim.write_bytes(data)
    return found[1].updates


def _reads_the_same(path: Path, data: bytes) -> bool:
    try:
        return json.loads(data) == json.loads(path.read_text())
    except ValueError:
        return False


def _state(rng: np.random.Generator) -> State:
    return {name: rng.normal(size=size).astype(np.float32) for name, size in SPEC.state.items()}


def _transition(rng: np.random.Generator) -> Transition:
    return Transition(
        state=_state(rng),
        action=rng.uniform(-1, 1, SPEC.action_dim).astype(np.float32),
        reward=float(rng.uniform(-1, 0)),
        reward_before=float(rng.uniform(-1, 0)),
        next_state=_state(rng),
        terminated=False,
        truncated=False,
    )
