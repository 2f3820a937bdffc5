"""The one module that knows Ray: each arm is an actor on the node beside it."""

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray as untyped_ray
import structlog
from ray.exceptions import RayActorError, RayError

from envs.homing import ArmStopped
from rl.fleet import RETRY_S, ArmsFailed, ArmWorker, Finished, MakeWorker, Snapshot

ray: Any = untyped_ray
"""Its own annotations are full of unknown types."""
log = structlog.get_logger(__name__)

ROOT = Path(__file__).resolve().parent.parent
ARM_CPUS = 0.25
OBJECT_STORE_BYTES = 200 * 2**20
LEFT_AT_HOME = (".git", ".venv", "runs", "outputs", "*.mp4")
"""Not sent to the nodes of a cluster that was joined."""
PLACE_S = 60.0
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
SHORT = "/tmp"  # noqa: S108 - a random folder in it; the paths of Ray's sockets must be short
ATTEMPTS = 3
"""An arm that fails this often in a row before its first episode is not going to work."""


class ArmActor:
    """A worker inside an actor; the arm is built with its first episode, which can say why not."""

    def __init__(self, make: MakeWorker, nice: int) -> None:
        os.nice(nice)
        self._make = make
        self._worker: ArmWorker | None = None

    def run_episode(self, snapshot: Snapshot | None) -> Finished:
        """Practise once."""
        self._worker = self._worker or self._make()
        return self._worker.run_episode(snapshot)

    def place(self) -> tuple[str, int]:
        """Return the node and the process that this actor lives in."""
        return str(ray.get_runtime_context().get_node_id()), os.getpid()


class RayFleet:
    """One Ray actor per arm, pinned to its node by a resource; an actor that dies is made again."""

    def __init__(
        self, *, address: str | None = None, nice: int = 10, restart_s: float = 1.0
    ) -> None:
        """Join the cluster at `address`, or start one on this machine.

        `nice` is added to the priority of simulated arms, so that the learner keeps its core;
        `restart_s` is waited before an arm that failed is tried again, doubled each time.
        """
        self._address, self._nice, self._restart_s = address, nice, restart_s
        self._folder: Path | None = None
        self._makers: dict[str, MakeWorker] = {}
        self._actors: dict[str, Any] = {}
        self._pending: dict[Any, str] = {}
        self._failures: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self._snapshot: Any = None
        self._held = False
        self._any_finished = False

    def start(self, workers: Mapping[str, MakeWorker]) -> None:
        """Start or join Ray and make one actor an arm."""
        self._makers = dict(workers)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self._address:
            _join(self._address, list(workers))
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir=SHORT))
            _start(list(workers), self._folder)
        for arm in workers:
            self._make(arm)
        self._submit_all()

    def poll(self, timeout_s: float) -> list[Finished]:
        """Return the episodes that have ended, and set free or remade arms to work again."""
        self._submit_all()
        if not self._pending:
            time.sleep(timeout_s)
            return []
        # Arms that wait for another try are not in `pending`: look after them often enough.
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        finished = [self._collect(ref) for ref in ready]
        self._submit_all()
        return [episode for episode in finished if episode]

    def publish(self, snapshot: Snapshot) -> None:
        """Put the snapshot where every actor finds it with its next episode."""
        self._snapshot = ray.put(snapshot)

    def hold(self, *, held: bool) -> None:
        """Begin no further episodes while held."""
        self._held = held

    def status(self) -> Mapping[str, str]:
        """Return what each arm does, or why it does not."""
        busy = set(self._pending.values())
        waits = "waits for the learner" if self._held else "is free"
        return {
            arm: self._troubles.get(arm) or ("practises" if arm in busy else waits)
            for arm in self._makers
        }

    def places(self) -> Mapping[str, tuple[str, int]]:
        """Return the node and the process of each arm's actor, once it is up."""
        asked = {arm: actor.place.remote() for arm, actor in self._actors.items()}
        return {arm: ray.get(place, timeout=PLACE_S) for arm, place in asked.items()}

    def close(self) -> None:
        """Kill the actors; leave a cluster that was joined, stop one that was started."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors, self._pending = {}, {}
        ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, arm: str) -> None:
        options = {"num_cpus": ARM_CPUS, "resources": {resource_of(arm): 1}, "max_restarts": 0}
        actor_class: Any = ray.remote(ArmActor)
        self._actors[arm] = actor_class.options(**options).remote(self._makers[arm], self._nice)

    def _submit_all(self) -> None:
        if self._held:
            return
        busy = set(self._pending.values())
        for arm in self._makers:
            if arm not in busy and time.monotonic() >= self._retry_at.get(arm, 0.0):
                if arm not in self._actors:
                    self._make(arm)
                self._pending[self._actors[arm].run_episode.remote(self._snapshot)] = arm

    def _collect(self, ref: Any) -> Finished | None:  # noqa: ANN401 - Ray's references are untyped
        arm = self._pending.pop(ref)
        try:
            finished: Finished = ray.get(ref)
        except RayActorError:
            self._actors.pop(arm)
            self._failed(arm, "its process died; it is started again")
            return None
        except RayError as error:
            if isinstance(getattr(error, "cause", None), ArmStopped):
                self._waits(arm, _reason(error))
            else:
                self._failed(arm, f"failed: {_reason(error)}")
            return None
        self._failures[arm] = 0
        self._any_finished = True
        self._troubles.pop(arm, None)
        return finished

    def _waits(self, arm: str, reason: str) -> None:
        """Ask again before long: an arm that a person has stopped has not failed."""
        if self._troubles.get(arm) != reason:
            log.info("arm waits", arm=arm, reason=reason)
        self._troubles[arm] = reason
        self._retry_at[arm] = time.monotonic() + RETRY_S

    def _failed(self, arm: str, reason: str) -> None:
        failures = self._failures.get(arm, 0) + 1
        self._failures[arm] = failures
        self._troubles[arm] = reason
        log.warning("arm failed", arm=arm, reason=reason, failures=failures)
        self._retry_at[arm] = time.monotonic() + min(30.0, self._restart_s * 2 ** (failures - 1))
        hopeless = all(self._failures.get(each, 0) >= ATTEMPTS for each in self._makers)
        if hopeless and not self._any_finished:
            raise ArmsFailed(f"no arm works: {arm} {reason}")


def resource_of(arm: str) -> str:
    """Return the custom resource by which a node says that an arm stands beside it."""
    return f"arm:{arm}"


def _join(address: str, arms: Sequence[str]) -> None:
    environment = {"working_dir": str(ROOT), "excludes": list(LEFT_AT_HOME)}
    try:
        ray.init(address=address, runtime_env=environment, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ArmsFailed(f"cannot join the Ray cluster at {address}: {_line(error)}") from error
    _require_arms(arms)


def _start(arms: Sequence[str], folder: Path) -> None:
    """Start Ray on this machine; its workers inherit the environment of this process."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        ray.init(
            address="local",
            num_cpus=max(1, math.ceil(ARM_CPUS * len(arms))),
            num_gpus=0,
            resources={resource_of(arm): 1 for arm in arms},
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            **QUIET,
        )
    except Exception as error:
        # Ray says so with nothing narrower, after half a minute that a busy machine may well need.
        if "timed out" not in str(error):
            raise
        ray.shutdown()
        raise ArmsFailed(
            "Ray did not start within half a minute, this machine is too busy; "
            "try again, or use cluster=local"
        ) from error


def _require_arms(arms: Sequence[str]) -> None:
    offered = ray.cluster_resources()
    missing = [arm for arm in arms if offered.get(resource_of(arm), 0) < 1]
    if missing:
        declared = f'{{"{resource_of(missing[0])}": 1}}'
        raise ArmsFailed(
            f"the Ray cluster has no node beside {', '.join(missing)}; "
            f"start one there with: ray start --address=HEAD --resources='{declared}'"
        )


def _reason(error: RayError) -> str:
    return _line(getattr(error, "cause", None) or error)


def _line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
