"""Emulated arms of a run's own: emulators and arm processes that nobody else has started."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from rl.own_process import OwnProcess
from robot.arm_config import ROOT, ArmConfig
from robot.emulator.admin import EmulatorAdmin, NoEmulator
from robot.tokens import own_token

ARMS = ROOT / "conf" / "arm"
START_S = 120.0
ASK_S = 1.0
POLL_S = 0.25
MODULES = {"emulator": "robot.emulator.process", "daemon": "robot.process.daemon"}
PATIENCE_S = 1.0
"""An emulated arm has nothing to fall from: its process is not given the time to park."""


class ArmsNotReady(Exception):
    """Arms did not come up, and the message says which."""


class OwnArms:
    """What a run has started of its arms; those that answered already are left as they are."""

    def __init__(self, arms: Sequence[str], logs: Path, *, folder: Path = ARMS) -> None:
        """Start the emulators that are missing; what they say goes to files in `logs`.

        `folder` holds a file for each arm.
        """
        configs = [ArmConfig.load(arm, folder=folder) for arm in arms]
        self._logs, self._folder = logs, folder
        self._processes: dict[str, OwnProcess] = {}
        self.started = [config for config in configs if not answers(config)]
        """Arms whose processes are this run's."""
        for config in self.started:
            if not is_emulated(config):
                self._start(config, "emulator")

    def wait(self, *, limit_s: float = START_S) -> None:
        """Start each arm's process once its servos are there; return when every arm answers.

        Raise `ArmsNotReady` or `OwnProcessFailed`.
        """
        end = time.monotonic() + limit_s
        waiting: list[ArmConfig] = list(self.started)
        while waiting:
            self.check()
            for config in waiting:
                if f"{config.arm_id}-daemon" not in self._processes and is_emulated(config):
                    words = [f"folder={self._folder}", "after_crash=hold"]
                    self._start(config, "daemon", *words)
            waiting = [config for config in waiting if not is_ready(config)]
            if waiting and time.monotonic() > end:
                names = ", ".join(config.arm_id for config in waiting)
                raise ArmsNotReady(f"{names}: no answer within {limit_s:.0f} s; see {self._logs}")
            time.sleep(POLL_S if waiting else 0.0)

    def check(self) -> str | None:
        """Start again what has died and say so; in the end raise `OwnProcessFailed`."""
        said = [process.check() for process in self._processes.values()]
        return next((sentence for sentence in said if sentence), None)

    def close(self) -> None:
        """End what was started."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.close(patience_s=PATIENCE_S)

    def _start(self, config: ArmConfig, what: str, *words: str) -> None:
        arm = config.arm_id
        name, log = f"the {what} of {arm}", self._logs / f"{arm}-{what}.log"
        process = OwnProcess(name, MODULES[what], [f"arm_id={arm}", *words], log)
        self._processes[f"{arm}-{what}"] = process


def answers(config: ArmConfig) -> bool:
    """Return whether an arm's process is there, in whatever mode."""
    return _state(config) is not None


def is_ready(config: ArmConfig) -> bool:
    """Return whether an arm's process is there and has a picture of every camera."""
    state = _state(config)
    return state is not None and None not in dict(state["cameras"]).values()


def _state(config: ArmConfig) -> Mapping[str, Any] | None:
    """Return what an arm's process says of itself, None where there is none."""
    token = own_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url = f"{config.url}/state"
        answer = httpx.get(url, headers=headers, timeout=ASK_S, trust_env=False)
        return answer.json() if answer.is_success else None
    except httpx.HTTPError:
        return None


def is_emulated(config: ArmConfig) -> bool:
    """Return whether an emulator carries an arm."""
    try:
        EmulatorAdmin(config.runtime("admin")).close()
    except NoEmulator:
        return False
    return True
