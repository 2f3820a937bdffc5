"""Record a person's demonstrations: `make record ARM_ID=arm01 goal="…" dataset=NAME`.

Keys, and lines to the telnet port, are `s` start, or end and keep; `a` abort; `q` quit; `?` state;
space (by telnet `x`) stops the arm. The arm follows from the first `t` or `s` on. Recording goes on
where it was left, until the journal has `episodes`. `actions=` is the dataset's kind of actions.
"""

import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import structlog

from robot.arm_config import ArmConfig
from robot.client import ArmRefused, RemoteArm, open_arm
from robot.journal import Journal, read_episode
from robot.process.arm_state import Mode
from robot.recording.dataset import LEROBOT, DatasetError, actions_named, dataset_folder, export
from robot.recording.recorder import Recorder
from robot.recording.take import NotSealed
from robot.recording.take_writer import Session
from robot.revision import git_revision
from robot.sealed import Damaged, DiskFull
from robot.teleop.devices import Request
from robot.teleop.takeover import FAILURES, KEYS_HELP, fail, open_device, say, take_free_arm
from robot.teleop.takeover import WORDS as DEVICE_WORDS
from robot.teleop.telnet import TelnetServer
from robot.words import UsageError, parse_words

log = structlog.get_logger(__name__)

WORDS = {
    **DEVICE_WORDS,
    "goal": "",
    "dataset": "",
    "fps": "30",
    "episodes": "20",
    "episode_s": "60",
    "telnet": "0",
    "max_late": "0.05",
    "export": "yes",
    "actions": "",
}
TAKES_HELP = "s starts and ends a take, a aborts it; the arm follows from the first t or s on"


def main(argv: list[str]) -> int:
    """Record, then export what was recorded; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        folder = dataset_folder(words["dataset"])
        actions = actions_named(words["actions"])
        journal = Journal(folder)
        record(words, journal)
        if words["export"] == "yes" and journal.episodes():
            made = export(journal, folder / LEROBOT, actions=actions)
            say(f"{folder / LEROBOT}: {len(made.episodes)} episodes")
    except KeyboardInterrupt:
        return 130
    except (*FAILURES, DiskFull, NotSealed, DatasetError, Damaged) as error:
        return fail(error)
    return 0


def record(words: Mapping[str, str], journal: Journal) -> None:
    """Record with the arm, device and settings that `words` name."""
    config = ArmConfig.load(words["arm_id"], folder=Path(words["folder"]))
    with ExitStack() as stack:
        arm = stack.enter_context(closing(open_arm(config, client="record", human=True)))
        watcher = stack.enter_context(closing(open_arm(config, client="record-cameras")))
        device = stack.enter_context(open_device(words, arm.limits))
        session = session_of(words, arm, config)
        refuse_mixing(journal, session)
        recorder = Recorder(
            arm,
            device,
            journal=journal,
            session=session,
            eyes=watcher.pictures,
            episode_s=number(words, "episode_s"),
            max_late=number(words, "max_late"),
            switch=lambda request: switch(arm, request),
            stop=arm.stop,
            say=say,
        )
        telnet = stack.enter_context(serve(recorder, port=round(number(words, "telnet"))))
        say(f"{KEYS_HELP}; {TAKES_HELP}; telnet 127.0.0.1 {telnet.port}")
        take_free_arm(arm)
        try:
            recorder.run(round(number(words, "episodes")))
        except DiskFull:
            leave(arm, Mode.PARK)
            raise
        leave(arm, Mode.HOLD)


def session_of(words: Mapping[str, str], arm: RemoteArm, config: ArmConfig) -> Session:
    """Return what is known of every episode before it begins."""
    if not words["goal"].strip():
        raise UsageError('goal= is missing: say what the arm shall do, e.g. goal="Lift the cube."')
    device = words["device"]
    return Session(
        arm=config.arm_id,
        task="teleop",
        goal=words["goal"].strip(),
        source="human",
        policy=f"human/{device}",
        fps=number(words, "fps", least=1.0),
        cameras=tuple(arm.hello.cameras),
        git_revision=git_revision(),
        config={
            "device": device,
            "calibration": arm.hello.calibration,
            "cameras": {name: list(size) for name, size in arm.hello.cameras.items()},
        },
    )


def refuse_mixing(journal: Journal, session: Session) -> None:
    """Raise `UsageError` where the journal was recorded with another rate or other cameras."""
    paths = journal.episodes()
    if not paths:
        return
    known = read_episode(paths[-1]).info.config
    for name, value in (("fps", session.fps), ("cameras", session.config["cameras"])):
        if known.get(name) != value:
            raise UsageError(
                f"{journal.folder} was recorded with {name} {known.get(name)}, not {value}; "
                "record the same way, or choose another dataset="
            )


def leave(arm: RemoteArm, mode: Mode) -> None:
    """Let go of the arm; one that was stopped stays so."""
    with suppress(ArmRefused):
        arm.mode(mode)


def switch(arm: RemoteArm, request: Request) -> None:
    """Take the arm over again, after a stop was reset for example, or let go of it."""
    try:
        arm.mode(Mode.TAKEOVER if request == "takeover" else Mode.HOLD)
    except ArmRefused as error:
        say(f"no {request}: {error}")


def serve(recorder: Recorder, *, port: int) -> TelnetServer:
    """Return a telnet port that asks a recorder for things; raise `UsageError`."""
    answers = {
        "s": ("start or keep", lambda: recorder.request("start")),
        "a": ("abort", lambda: recorder.request("abort")),
        "q": ("quit", lambda: recorder.request("quit")),
        "x": ("stop the arm", lambda: recorder.request("stop")),
        "?": ("state", recorder.state),
    }
    try:
        return TelnetServer(answers, port=port)
    except OSError as error:
        raise UsageError(
            f"telnet={port}: {error.strerror}; choose another port, 0 is any"
        ) from None


def number(words: Mapping[str, str], name: str, *, least: float = 0.0) -> float:
    """Return a word as a number that is `least` or more; raise `UsageError`."""
    try:
        value = float(words[name])
    except ValueError:
        value = -1.0
    if not least <= value < float("inf"):
        raise UsageError(
            f"{name}={words[name]!r}; expected a number from {least:g} on, e.g. {WORDS[name]}"
        )
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
