"""Break everything at random and see whether an arm ever does what it must not: `make chaos`.

`python -m ops.chaos minutes=10 seed=7 arms=4`: emulated arms with their own processes, evil
policies, a rewarder that talks nonsense, and a fault every 2 to 20 s. The emulators' judges have
the last word. The same seed makes the same faults again.
"""

import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import structlog

from ops.chaos_plan import NOT_TRIED, Fault, plan
from ops.chaos_stage import Stage, logged_tracebacks
from ops.safety_checks.effort import say
from ops.safety_checks.rig import RigArm, RigError, back_to_hold, rig
from robot.revision import git_revision
from robot.words import UsageError, parse_words

KNOWN = {"minutes": "10", "seed": "0", "arms": "4", "json": ""}
LOOK_S, SAY_S = 0.5, 10.0
BLAMED = 3
"""Faults that are named beside a violation: the newest before it."""


@dataclass
class Story:
    """What has happened so far."""

    done: list[Fault] = field(default_factory=list[Fault])
    violations: dict[str, int] = field(default_factory=dict[str, int])
    """By arm, as its judge counts them."""
    wrong: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run went, and where."""

    seed: int
    minutes: float
    arms: int
    faults: int
    struck: Mapping[str, int]
    """Faults by kind; those that met something broken already count as `in vain` too."""
    not_tried: Sequence[str]
    frames: int
    """Looked at by the emulators' judges."""
    violations: int
    policies: int
    """Evil policies that were started."""
    episodes_sealed: int
    answers_refused: int
    """Of the rewarder, which never says anything sane."""
    wrong: Sequence[str]
    revision: str
    machine: str


def chaos(*, seed: int, minutes: float, arms: int, folder: Path) -> Result:
    """Run one plan; return what happened."""
    todo = list(plan(seed, minutes=minutes, arms=arms))
    planned = len(todo)
    story = Story()
    with rig(arms, folder, cameras=1) as running:
        stage = Stage(running, folder, seed=seed)
        began, said = time.monotonic(), -SAY_S
        try:
            while (now := time.monotonic() - began) < 60.0 * minutes:
                while todo and todo[0].at_s <= now:
                    story.done.append(todo.pop(0))
                    stage.strike(story.done[-1])
                stage.tend()
                _note_violations(story, stage)
                if now - said >= SAY_S:
                    said = now
                    say(_progress(now, minutes, story, stage, planned))
                time.sleep(LOOK_S)
        finally:
            stage.close()
        story.wrong += stage.wrong + _ends(running, stage)
        _note_violations(story, stage)
    return _result(story, stage, seed=seed, minutes=minutes)


def _note_violations(story: Story, stage: Stage) -> None:
    """Blame the newest faults for what the judges have newly counted."""
    for player in stage.players:
        arm_id, verdict = player.arm.arm_id, player.judged
        if verdict.broken > story.violations.get(arm_id, 0):
            story.violations[arm_id] = verdict.broken
            newest = "; ".join(str(fault) for fault in story.done[-BLAMED:])
            story.wrong.append(f"{arm_id} was told {verdict.worst}, after {newest}")


def _ends(running: Sequence[RigArm], stage: Stage) -> list[str]:
    """Return what is still wrong when no fault is in force any more."""
    wrong = [crash for player in stage.players for crash in player.crashes]
    for arm in running:
        try:
            if arm.daemon.poll() is not None:
                arm.start_daemon(wait=False)
            arm.wait_ready()
            back_to_hold(arm)
        except RigError as error:
            wrong.append(str(error))
    return wrong + logged_tracebacks(running)


def _progress(now: float, minutes: float, story: Story, stage: Stage, planned: int) -> str:
    modes = " ".join(player.mode.value if player.mode else "away" for player in stage.players)
    frames = sum(player.judged.frames for player in stage.players)
    broken = sum(player.judged.broken for player in stage.players)
    return (
        f"{now:6.0f} of {60 * minutes:.0f} s: {len(story.done)} of {planned} faults, "
        f"{frames:,} frames judged, {broken} violations, {modes}"
    )


def _result(story: Story, stage: Stage, *, seed: int, minutes: float) -> Result:
    return Result(
        seed=seed,
        minutes=minutes,
        arms=len(stage.players),
        faults=len(story.done),
        struck=dict(sorted(stage.struck.items())),
        not_tried=NOT_TRIED,
        frames=sum(player.judged.frames for player in stage.players),
        violations=sum(story.violations.values()),
        policies=sum(player.lives for player in stage.players),
        episodes_sealed=len(stage.promised),
        answers_refused=stage.answers_refused,
        wrong=tuple(story.wrong),
        revision=git_revision(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
    )


def verdict(result: Result) -> str:
    """Return a result as a person reads it."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in result.struck.items())
    lines = [
        f"{result.faults} faults: {kinds or 'none'}",
        f"not tried: {'; '.join(result.not_tried)}",
        f"{result.frames:,} frames judged, {result.violations} violations; {result.policies} evil "
        f"policies, {result.episodes_sealed} episodes sealed, {result.answers_refused} nonsense "
        "answers of the rewarder refused",
    ]
    if result.wrong:
        again = f"seed={result.seed} minutes={result.minutes:g} arms={result.arms}"
        lines += [f"FAIL {line}" for line in result.wrong]
        lines.append(f"again: python -m ops.chaos {again}")
    else:
        lines.append("pass so far: no violation, nothing lost, every arm came back")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Run, print the verdict, return the exit code: 1 where anything was wrong."""
    try:
        given = parse_words(words, known=KNOWN)
        seed, arms, minutes = _settings(given)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        try:
            result = chaos(seed=seed, minutes=minutes, arms=arms, folder=Path(folder))
        except RigError as error:
            sys.stderr.write(f"error: {error}\n")
            return 3
    say(verdict(result))
    if given["json"]:
        Path(given["json"]).write_text(
            json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8"
        )
    return int(bool(result.wrong))


def _settings(given: Mapping[str, str]) -> tuple[int, int, float]:
    """Return seed, arms and minutes; raise `UsageError`."""
    try:
        seed, arms, minutes = int(given["seed"]), int(given["arms"]), float(given["minutes"])
    except ValueError as error:
        raise UsageError(f"{error}; expected e.g. minutes=10 seed=7 arms=4") from None
    if not (1 <= arms <= 16 and 0 < minutes <= 24 * 60 and seed >= 0):
        raise UsageError("expected 1 to 16 arms, more than 0 minutes, and a seed from 0 up")
    return seed, arms, minutes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
