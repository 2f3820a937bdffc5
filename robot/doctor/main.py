"""What is wrong with an arm's set-up, and the line that mends it: `make doctor ARM_ID=arm01`.

`python -m robot.doctor.main arm_id=arm01` writes one table. Words: `only=bus,calib` groups,
`json=path` and `bundle=path` files, `scan=all` every id of the bus, `seconds=10` for the cameras.
Exit code 0 where nothing failed, 1 where something did, 3 where a device is missing.
"""

import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import serial
from rich.console import Console
from rich.text import Text

from robot.arm_config import ROOT, ArmConfig, ConfigError
from robot.doctor import bus, camera_watch, cameras, links, machine, safety
from robot.doctor.calibration import calibrate_command, check_calibration, file_hash
from robot.doctor.report import (
    USAGE,
    Check,
    Status,
    as_json,
    as_text,
    exit_code,
    failure,
    good,
    table,
    write_bundle,
)
from robot.doctor.servo_scan import BusScan, open_line, scan
from robot.process.port import PortLock
from robot.process.servos import ArmUnusable
from robot.words import UsageError, parse_words

GROUPS = (
    "env",
    "ports",
    "bus",
    "calib",
    "cameras",
    "teleop",
    "policy",
    "rewarder",
    "disk",
    "clock",
    "safety",
    "security",
)
WORDS = {
    "arm_id": "arm01",
    "folder": str(ROOT / "conf" / "arm"),
    "only": "",
    "json": "",
    "bundle": "",
    "scan": "",
    "seconds": "10",
}
LOG_BYTES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """One arm as it was found before anything was looked at."""

    config: ArmConfig
    adapters: Sequence[machine.Adapter]
    owner: str | None
    """Who holds the arm's lock."""
    state: links.State | None
    """What the arm's process says, if one answers."""
    every_id: bool
    camera_seconds: float


def admit(words: Mapping[str, str]) -> Patient:
    """Return an arm to be looked at; raise `ConfigError` or `UsageError`."""
    config = ArmConfig.load(words["arm_id"], folder=Path(words["folder"]))
    try:
        seconds = float(words["seconds"])
    except ValueError:
        raise UsageError(f"seconds={words['seconds']!r}; expected a number") from None
    return Patient(
        config=config,
        adapters=machine.adapters(),
        owner=machine.owner_of(config),
        state=links.state_of(config),
        every_id=words["scan"] == "all",
        camera_seconds=seconds,
    )


@contextmanager
def _owned(lock: Path) -> Generator[None]:
    """Keep others from an arm's port; raise `ArmUnusable` where somebody has it."""
    owned = PortLock(lock)
    try:
        yield
    finally:
        owned.release()


class Examination:
    """Looks at one arm, group by group; the bus is asked once for all who want to know."""

    def __init__(self, patient: Patient) -> None:
        """Ask nothing yet."""
        self._patient = patient
        self._scan: BusScan | None = None
        self.details: dict[str, object] = {}
        self._groups: Mapping[str, Callable[[], Sequence[Check]]] = {
            "env": machine.check_environment,
            "ports": self._ports,
            "bus": self._bus,
            "calib": self._calib,
            "cameras": self._cameras,
            "teleop": safety.check_teleop,
            "policy": lambda: links.check_service(
                "policy",
                "POLICY_SERVER_URL",
                start="start the policy server",
                token="POLICY_SERVER_TOKEN",  # noqa: S106 - its name
            ),
            "rewarder": lambda: links.check_service(
                "rewarder",
                "REWARDER_URL",
                start="make serve-rewarder",
                token="REWARDER_TOKEN",  # noqa: S106 - its name
            ),
            "disk": machine.check_disk,
            "clock": machine.check_clock,
            "safety": self._safety,
            "security": lambda: safety.check_security(patient.config),
        }

    def look(self, group: str) -> Sequence[Check]:
        """Return what a group's checks found."""
        return self._groups[group]()

    def _ports(self) -> Sequence[Check]:
        patient = self._patient
        return machine.check_port(patient.config, patient.adapters, patient.owner)

    def _bus(self) -> Sequence[Check]:
        patient = self._patient
        if patient.owner or patient.state:
            return links.check_process(patient.config, patient.owner, patient.state)
        path = machine.find_port(patient.config.port)
        if path is None:
            fix = "mend that first: make doctor only=ports"
            return [failure("bus.port", "the port is not there", fix, device_missing=True)]
        try:
            # Nobody may take the port between two of its baud rates.
            with _owned(patient.config.runtime("lock")):
                self._scan = scan(open_line(path), every_id=patient.every_id)
        except ArmUnusable as error:
            return [failure("bus.owner", str(error), "end that process, then look again")]
        except serial.SerialException as error:
            sentence = f"{patient.config.port} does not open: {' '.join(str(error).split())}"
            fix = f"end what uses it: fuser -v {path}"
            return [failure("bus.port", sentence, fix)]
        self.details["bus"] = bus.details(self._scan)
        return bus.diagnose(self._scan, patient.config.port)

    def _calib(self) -> Sequence[Check]:
        config = self._patient.config
        mend = calibrate_command(config.arm_id)
        checks = check_calibration(config.calibration, self._scan, mend)
        state = self._patient.state
        if state and config.calibration.exists():
            found, held = file_hash(config.calibration), state.get("calibration")
            if held and held != found:
                sentence = f"the arm's process holds calibration {held}, the file is {found}"
                fix = f"end it and start it again: make arm ARM_ID={config.arm_id}"
                checks.append(failure("calib.process", sentence, fix))
        return checks

    def _cameras(self) -> Sequence[Check]:
        config, served = self._patient.config, self._patient.state is not None

        def opener(name: str, setting: Mapping[str, object]) -> camera_watch.Camera:
            if served:
                period_s = 1 / float(str(setting.get("fps") or 30))
                headers = links.own_headers()
                return camera_watch.ServedCamera(config.url, name, period_s, headers)
            return camera_watch.LeRobotCamera(name, setting)

        seen = camera_watch.watch(config.cameras, opener, self._patient.camera_seconds)
        sheet = camera_watch.contact_sheet(config.runtime("cameras.png"), seen)
        where = f"conf/arm/{config.arm_id}.yaml"
        checks = cameras.check_cameras(config.cameras, seen, where)
        self.details["cameras"] = cameras.details(seen)
        if sheet:
            said = f"compare names and pictures: {sheet.relative_to(ROOT)}"
            checks.append(good("cameras.sheet", said))
        return checks

    def _safety(self) -> Sequence[Check]:
        checks = list(safety.check_safety(self._patient.config))
        if self._patient.state:
            checks += links.check_modes(self._patient.config, self._patient.state)
        return checks


def main(argv: Sequence[str]) -> int:
    """Look at an arm and say what is wrong; return the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
        words = parse_words(argv, known=WORDS)
        groups = _chosen(words["only"])
        patient = admit(words)
    except (ConfigError, UsageError) as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    examination, checks = Examination(patient), list[Check]()
    for group in groups:
        with console.status(f"looking at {group} …"):
            checks += examination.look(group)
    _show(console, patient, examination, checks)
    _keep(words, patient, checks, examination.details)
    return exit_code(checks)


def _chosen(only: str) -> Sequence[str]:
    groups = [name for name in only.split(",") if name]
    for name in groups:
        if name not in GROUPS:
            raise UsageError(f"only={name} is no group; groups: {', '.join(GROUPS)}")
    # A calibration is compared with what the bus says.
    return [name for name in GROUPS if name in groups] or GROUPS


def _show(
    console: Console, patient: Patient, examination: Examination, checks: Sequence[Check]
) -> None:
    console.print(table(checks))
    bus = examination.details.get("bus")
    if isinstance(bus, dict):
        console.print(Text(str(bus["chain"])), soft_wrap=True)  # pyright: ignore
    count = {status: sum(check.status is status for check in checks) for status in Status}
    said = ", ".join(f"{number} {status}" for status, number in count.items())
    console.print(f"{patient.config.arm_id}: {said}. Words and codes: docs/troubleshooting.md")


def _keep(
    words: Mapping[str, str],
    patient: Patient,
    checks: Sequence[Check],
    details: Mapping[str, object],
) -> None:
    report = as_json(patient.config.arm_id, checks, details)
    if words["json"]:
        Path(words["json"]).write_text(report, encoding="utf-8")
    if words["bundle"]:
        arm = Path(words["folder"]) / f"{patient.config.arm_id}.yaml"
        texts = {
            "report.json": report,
            "report.txt": as_text(checks),
            **_files(patient.config, arm),
        }
        write_bundle(Path(words["bundle"]), texts)


def _files(config: ArmConfig, arm: Path) -> dict[str, str]:
    """Return the texts that somebody who helps will ask for."""
    logs = sorted((ROOT / os.environ.get("LOG_DIR", "logs")).glob("*.log"))
    paths = [path for path in (arm, config.calibration, config.safety, *logs) if path.is_file()]
    return {path.name: _tail(path) for path in paths}


def _tail(path: Path) -> str:
    return path.read_bytes()[-LOG_BYTES:].decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
