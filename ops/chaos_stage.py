"""The arms, clients and services of a chaos run, and how each fault strikes them."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
import numpy as np

from ops.chaos_plan import Fault
from ops.safety_checks.drivers import EvilWish, hog, misbehave
from ops.safety_checks.proxy import Mood, Proxy
from ops.safety_checks.rig import RigArm, RigError, Verdict, tail
from ops.safety_checks.stub import StubRewarder, garbage
from ops.safety_checks.victims import context, limited, made_up_episode, promised_episode, sealer
from rewarder.client import RemoteReward
from rewarder.reward import NoScore, clip_of
from robot.arm_config import ROOT
from robot.client import RemoteArm
from robot.emulator.admin import NoEmulator, Refused
from robot.journal import Journal, episode_bytes, read_episode
from robot.link import ArmUnavailable
from robot.process.arm_state import Mode
from robot.tokens import own_token

OPERATOR_S = 2.0
"""After which a person resets a stopped arm, or starts its process again."""


class Player:
    """One arm of the stage: its processes, its evil policy behind a bad network, its operator."""

    def __init__(self, arm: RigArm, *, seed: int) -> None:
        """Let an evil policy loose on an arm."""
        self.arm, self._seed = arm, seed
        self.proxy = Proxy(arm.config.port_number, seed=seed)
        self.lives = 0
        self.crashes: list[str] = []
        """Deaths that nobody caused."""
        self.killed = False
        """Whether the arm's process was killed on purpose, and what came after was not met yet."""
        self._pid = arm.pid
        self.paused = False
        self.policy = self._spawn()
        self._down_since: float | None = None
        self._stopped_since: float | None = None
        self.mode: Mode | None = None
        self.judged = Verdict(0, 0, "")

    def tend(self, now: float) -> None:
        """Do what an operator would: start again what died, reset what stopped; look."""
        if not self.policy.is_alive():
            self.policy = self._spawn()
        with suppress(NoEmulator, Refused):
            self.judged = self.arm.judged()
        if self.arm.emulator.poll() is not None:
            self.crashes.append(f"the emulator of {self.arm.arm_id} ended")
        if self.paused:
            return
        if self.arm.daemon.poll() is not None:
            self._restart(now)
            return
        try:
            self.mode = self.arm.watch().state().mode
        except ArmUnavailable:
            self.mode = None
            self.arm.forget_watcher()
            return
        self._note_successor()
        self._reset_if_due(now)

    def close(self) -> None:
        """End the policy and its network."""
        self.policy.kill()
        self.policy.join()
        self.proxy.close()

    def _spawn(self) -> ForkServerProcess:
        self.lives += 1
        wish = EvilWish(
            url=self.proxy.url,
            client=f"evil-{self.arm.arm_id}",
            seed=1000 * self._seed + self.lives,
            frames=bool(self.arm.config.cameras),
        )
        process = context().Process(target=misbehave, args=(wish,), daemon=True)
        process.start()
        return process

    def _restart(self, now: float) -> None:
        self.mode = None
        if self._down_since is None:
            self._down_since = now
            if not self.killed:
                code = self.arm.daemon.returncode
                self.crashes.append(f"the process of {self.arm.arm_id} ended by itself ({code})")
        if now - self._down_since > OPERATOR_S:
            self._down_since = None
            self.arm.forget_watcher()
            self.arm.start_daemon(wait=False)

    def _note_successor(self) -> None:
        """Note whether another process of the arm answers than before, and whether it had to."""
        pid, before = self.arm.pid, self._pid
        if pid == before:
            return
        self._pid = pid
        if not self.killed:
            self.crashes.append(f"a process of {self.arm.arm_id} died by itself (pid {before})")
        self.killed = False

    def _reset_if_due(self, now: float) -> None:
        if self.mode is not Mode.STOP:
            self._stopped_since = None
            return
        if self._stopped_since is None:
            self._stopped_since = now
        elif now - self._stopped_since > OPERATOR_S:
            with suppress(ArmUnavailable):
                self.arm.watch().reset()


class Stage:
    """All players, a rewarder that talks nonsense, and a writer that is killed."""

    def __init__(self, arms: Sequence[RigArm], folder: Path, *, seed: int) -> None:
        """Set everything going."""
        self.players = [Player(arm, seed=seed + index) for index, arm in enumerate(arms)]
        self.folder = folder
        self.struck: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._rng = np.random.default_rng(seed)
        self._timers: list[threading.Thread] = []
        self._rewarder = StubRewarder(lambda count: garbage(count, self._rng))
        self._model = RemoteReward(self._rewarder.url, timeout_s=2.0)
        self.answers_refused = 0
        self._clip = clip_of(made_up_episode("000000-00000000"))
        self._writer_lives, self._closed = 0, False
        self.promised: set[str] = set()
        self._writer, self._promises = self._write()

    def tend(self) -> None:
        """Look after everybody; ask the rewarder for a label."""
        now = time.monotonic()
        for player in self.players:
            player.tend(now)
        self._collect()
        try:
            self._model.score(self._clip)
            self.wrong.append("an answer that was no score became a label")
        except NoScore:
            self.answers_refused += 1

    def strike(self, fault: Fault) -> None:
        """Let a fault happen; what lasts ends by itself."""
        self.struck[fault.kind] += 1
        thread = threading.Thread(target=self._strike, args=(fault,), daemon=True)
        self._timers.append(thread)
        thread.start()

    def close(self) -> None:
        """End everything, and see what the killed writers have left."""
        self._closed = True
        for thread in self._timers:
            thread.join(timeout=60.0)
        self._writer.kill()
        self._writer.join()
        self._collect()
        for player in self.players:
            player.close()
        self._model.close()
        self._rewarder.__exit__()
        lost = self.promised - self._sealed()
        if lost:
            self.wrong.append(f"{len(lost)} sealed episodes were lost, e.g. {min(lost)}")

    def _strike(self, fault: Fault) -> None:
        player = self.players[fault.arm]
        try:
            self._act(fault, player)
        except (NoEmulator, Refused, ArmUnavailable, ProcessLookupError, RigError, httpx.HTTPError):
            # What is broken already cannot be broken again.
            self.struck[f"{fault.kind} (in vain)"] += 1

    def _act(self, fault: Fault, player: Player) -> None:  # noqa: C901, PLR0912 - a line a kind
        kind, seconds = fault.kind, fault.seconds
        match kind:
            case "kill -9 policy":
                player.policy.kill()
            case "kill -9 arm process":
                player.killed = True
                player.arm.kill_process()
            case "kill -9 arm parent":
                player.killed = True
                player.arm.end_daemon()
            case "SIGSTOP policy":
                _pause(player.policy.pid or 0, seconds)
            case "SIGSTOP arm process":
                player.paused = True
                _pause(player.arm.pid, seconds)
                player.paused = False
            case "TCP cut":
                player.proxy.cut()
            case "half-open":
                player.proxy.half_open()
            case "black hole" | "1 B/s" | "corrupt byte":
                _mood(player.proxy, Mood(kind), seconds)
            case "CPU hog":
                _hog(self.folder / f"hog{fault.number}", seconds)
            case "disk full":
                self._fill_disk(fault)
            case "kill -9 writer":
                self._writer.kill()
            case "stop pressed":
                httpx.post(f"{player.arm.config.url}/stop", timeout=2.0, trust_env=False)
            case "take-over":
                _take_over(player.arm, seconds)
            case _:
                _emulated(player.arm, kind, seconds, random.Random(fault.seed))  # noqa: S311

    def _fill_disk(self, fault: Fault) -> None:
        folder = self.folder / f"small{fault.number}"
        folder.mkdir()
        words = [sys.executable, "-m", "ops.safety_checks.full_disk", str(folder), "1"]
        command = limited(folder, "2m", words)
        if command is None:
            self.struck["disk full (in vain)"] += 1
            return
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
        )
        if ran.returncode != 0:
            self.struck["disk full (in vain)"] += 1
        elif broken := json.loads(ran.stdout.splitlines()[-1])["broken"]:
            self.wrong.append(f"{fault}: {broken}")

    def _write(self) -> tuple[ForkServerProcess, Connection]:
        forking = context()
        ours, theirs = forking.Pipe(duplex=False)
        self._writer_lives += 1
        wish = (self.folder / "journal", self._writer_lives)
        process = forking.Process(target=slow_sealer, args=(theirs, wish), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _collect(self) -> None:
        """Note what the writer has promised; start another where it is dead."""
        alive = self._writer.is_alive()
        with suppress(EOFError, OSError):
            while self._promises.poll():
                name = self._promises.recv()
                if isinstance(name, str):
                    self.promised.add(name)
        if not alive and not self._closed:
            self._promises.close()
            self._writer, self._promises = self._write()

    def _sealed(self) -> set[str]:
        """Return the episodes that are as they were sealed."""
        found = [read_episode(path) for path in Journal(self.folder / "journal").episodes()]
        names = [episode.info.episode for episode in found]
        return {
            name
            for name, episode in zip(names, found, strict=True)
            if episode_bytes(episode) == episode_bytes(promised_episode(name))
        }


def slow_sealer(promises: Connection, wish: tuple[Path, int]) -> None:
    """Seal as `sealer` does, ten episodes a second: the disk is not what is tried here."""
    sealer(promises, wish, pause_s=0.1)


def logged_tracebacks(arms: Sequence[RigArm]) -> list[str]:
    """Return what the arms' processes have printed that looks like a crash."""
    found: list[str] = []
    for arm in arms:
        text = arm.log.read_text(encoding="utf-8", errors="replace")
        if "Traceback (most recent call last)" in text:
            found.append(f"{arm.arm_id} printed a traceback: {tail(arm.log)}")
    return found


def _pause(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _mood(proxy: Proxy, mood: Mood, seconds: float) -> None:
    proxy.mood = mood
    if mood is not Mood.CORRUPT:
        time.sleep(seconds)
        proxy.mood = Mood.FINE


def _hog(flag: Path, seconds: float) -> None:
    forking = context()
    ours, theirs = forking.Pipe(duplex=False)
    flag.touch()
    hogs = [
        forking.Process(target=hog, args=(theirs, flag), daemon=True)
        for _ in range(os.cpu_count() or 1)
    ]
    for process in hogs:
        process.start()
    time.sleep(seconds)
    flag.unlink()
    for process in hogs:
        process.kill()
        process.join()
    ours.close()
    theirs.close()


def _take_over(arm: RigArm, seconds: float) -> None:
    """Have a person hold the arm where it is for a while, and hand back."""
    person = RemoteArm(
        arm.config.url, client="person", token=own_token(), human=True, patience_s=1.0
    )
    try:
        person.latch()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            observation = person.observe(frames=False)
            person.command(observation.joint_target + 0.5, stamp=observation.stamp)
            time.sleep(0.05)
        person.mode(Mode.RUN)
    finally:
        person.close()


EMULATED: Mapping[str, Callable[[str, random.Random], tuple[str, dict[str, object]]]] = {
    "lost statuses": lambda _, rng: ("lost", {"probability": rng.uniform(0.01, 0.3)}),
    "late statuses": lambda _, rng: ("late", {"probability": rng.uniform(0.01, 0.3)}),
    "flipped statuses": lambda _, rng: ("flipped", {"probability": rng.uniform(0.01, 0.3)}),
    "doubled statuses": lambda _, rng: ("duplicated", {"probability": rng.uniform(0.01, 0.5)}),
    "cable cut": lambda _, rng: ("cut", {"servo_id": rng.randrange(6)}),
    "heat": lambda joint, rng: ("heat", {"joint": joint, "celsius": rng.uniform(60.0, 69.0)}),
    "stall": lambda joint, _: ("stall", {"joint": joint}),
}
"""What the emulator is asked for, of a joint."""


def _emulated(arm: RigArm, kind: str, seconds: float, rng: random.Random) -> None:
    """Break the emulated arm or its cameras, and mend it after a while."""
    joint = rng.choice(["shoulder_lift", "elbow_flex", "wrist_flex", "gripper"])
    admin = arm.own_admin()
    try:
        if kind == "unplug":
            admin.unplug()
        elif kind.startswith("camera"):
            picture = {"camera freeze": "frozen"}.get(kind, kind.removeprefix("camera "))
            admin.camera_fault(rng.choice(["front", "side"]), picture)
        else:
            name, fields = EMULATED[kind](joint, rng)
            admin.fault(name, **fields)
        time.sleep(seconds)
    finally:
        if kind == "unplug":
            admin.replug()
        if kind == "heat":
            admin.fault("heat", joint=joint, celsius=30.0)
        admin.fault("clear")
        admin.close()
