"""What people said of clips that a service had scored, and what follows from it."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rewarder.agreement import Agreement, Verdict, measure, verdict_of
from rewarder.calibration import Key, Labelled
from rewarder.curves import BadCalibration
from rewarder.goal import UnknownGoal, parse_goal
from rewarder.reward import NoScore, Score
from rewarder.score_log import Entry
from robot.sealed import make_folder, seal

MOST = 10_000
"""Verdicts that are kept."""


class FeedbackFull(Exception):
    """No more verdicts are kept; the message says what to do."""


class Feedback(BaseModel):
    """A person's verdict on what a model had said of one clip."""

    model_config = ConfigDict(frozen=True)

    at: str
    """UTC, ISO 8601."""
    by: str
    """Id of the token that it came with."""
    success: bool
    """Whether the clip's last moment shows the goal reached."""
    entry: Entry
    """What the service had said."""

    @property
    def score(self) -> Score:
        """Return what the model had said; raise ValueError where it is no score."""
        if self.entry.score is None:
            raise ValueError(f"request {self.entry.request_id} had no score")
        return self.entry.score.score(len(self.entry.score.success))

    @property
    def judge(self) -> tuple[str, str]:
        """Return which model had judged, and with which calibration."""
        return self.entry.model or "", self.entry.calib_id or ""

    def verdict(self) -> Verdict:
        """Return what the model said beside what is true."""
        try:
            task = parse_goal(self.entry.goal).task
        except UnknownGoal:
            task = "other"
        blank = Verdict(
            clip=self.entry.clip, task=task, kind="feedback", truth=self.success, said=None
        )
        return verdict_of(blank, self.score)

    def key(self) -> Key:
        """Return what a calibration from it would belong to; raise `NoScore` for no known task."""
        return Key.of_goal(self.entry.goal, self.entry.cameras, self.score)


class FeedbackStore:
    """Verdicts in a folder, a file each: the newest of a clip and the model that had judged it."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`, which need not be there."""
        self.folder = folder

    def keep(self, entry: Entry, *, success: bool, by: str) -> Feedback:
        """Keep a verdict durably; raise `FeedbackFull`, or OSError where the disk fails."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        said = Feedback(at=now, by=by, success=success, entry=entry)
        path = self.folder / f"{_name_of(said)}.json"
        if not path.exists() and len(list(self.folder.glob("*.json"))) >= MOST:
            raise FeedbackFull(f"{MOST} verdicts are kept: move {self.folder} away and go on")
        make_folder(self.folder)
        seal(path, (said.model_dump_json() + "\n").encode())
        return said

    def all(self) -> list[Feedback]:
        """Return all verdicts, the oldest first; what is no verdict is left out."""
        found = (_read(path) for path in self.folder.glob("*.json"))
        return sorted((one for one in found if one is not None), key=lambda one: one.at)


def agreements(said: Sequence[Feedback]) -> dict[tuple[str, str], Agreement]:
    """Return how far each model, with its calibration, agrees with what people said."""
    verdicts: dict[tuple[str, str], list[Verdict]] = {}
    for one in said:
        verdicts.setdefault(one.judge, []).append(one.verdict())
    return {judge: measure(theirs) for judge, theirs in verdicts.items()}


def labelled(said: Sequence[Feedback], key: Key) -> Labelled:
    """Return the raw log-odds that a model with this key had given, beside what people said.

    Raise `BadCalibration` where there are none.
    """
    found: list[tuple[Key, float, bool]] = []
    for one in said:
        logit = _raw_log_odds(one.score)
        try:
            own = one.key()
        except NoScore:
            continue
        if np.isfinite(logit) and not replace(key, tasks=own.tasks).mismatch(own):
            found.append((own, logit, one.success))
    if not found:
        raise BadCalibration(
            f"none of {len(said)} verdicts is on log-odds of {key.model} as it is asked now; "
            "have clips scored, and say of each whether it succeeded with POST /feedback"
        )
    keys, logits, labels = zip(*found, strict=True)
    left_out = len(said) - len(found)
    return Labelled(Key.joined(keys), np.array(logits), np.array(labels), left_out)


def _raw_log_odds(score: Score) -> float:
    """Return the log-odds of the last moment; NaN where the model could not judge it."""
    if score.logit is None:
        return np.nan
    # Near a threshold nothing is valid, and yet the model had judged: there most is to be learnt.
    seen = bool(score.valid[-1]) or "p_success" in score.evidence
    return float(score.logit[-1]) if seen else np.nan


def _name_of(said: Feedback) -> str:
    return hashlib.sha256(repr((said.entry.clip, said.judge)).encode()).hexdigest()[:32]


def _read(path: Path) -> Feedback | None:
    try:
        return Feedback.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
