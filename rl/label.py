"""From what a reward model said of an episode to what a learner earns at each step."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewarder.reward import NoScore, Score
from rl.transition import Transition
from robot.journal import Episode
from robot.sealed import Damaged, make_folder, pack, read_limited, seal, unpack

HOLDS = (4, 5)
"""Success must show in so many of so many observations in a row: half a second at 10 Hz."""
STAYS_DONE = ("push", "place", "stack")
"""Tasks whose goal outlasts the retreat, so that the look after can deny a success."""
VERSION = 1
"""Of the layout of a score's file."""


def label(
    episode: Episode,
    score: Score,
    *,
    holds: tuple[int, int] = HOLDS,
    veto_with_last_look: bool = True,
) -> list[Transition]:
    """Return an episode's steps with `progress - 1` as reward, up to where success ends it.

    Success ends it at the first step after which `n` of the last `m` judged observations show it
    (`holds` is `(n, m)`), at reward 0. The look after the retreat, where nothing hides the things,
    confirms a success that had only begun to show, and (in tasks of `STAYS_DONE`) denies one that
    it does not see. A step whose outcome was not judged is left out. `truncated` marks the last
    step before such a gap or before an end that is none of success, so that nothing is counted
    across it. Raise `NoScore` where no step was judged or the score is not of this episode.
    """
    _refuse_garbage(episode, score)
    after = slice(episode.first_step + 1, episode.first_step + 1 + episode.steps)
    judged = np.flatnonzero(score.valid[after])
    if not len(judged):
        raise NoScore(f"no step of episode {episode.info.episode} could be judged")
    done = _done_after(episode, score, holds, veto=veto_with_last_look)
    kept = judged if done is None else judged[judged <= done]
    gaps = np.append(np.diff(kept) > 1, done is None)
    rewards, before = score.progress[after] - 1.0, _progress_before(score, after) - 1.0
    return [
        _transition(
            episode,
            int(step),
            reward=0.0 if step == done else float(rewards[step]),
            reward_before=float(before[step]),
            terminated=bool(step == done),
            truncated=bool(gap),
        )
        for step, gap in zip(kept, gaps, strict=True)
    ]


def save_score(folder: Path, episode: str, score: Score) -> Path:
    """Keep the score of an episode, in place of an older one, so that nobody need ask again."""
    make_folder(folder)
    words = {"model": score.model, "evidence": dict(score.evidence), "notes": dict(score.notes)}
    said = json.dumps(words).encode()
    path = folder / f"{episode}.npz"
    arrays = {"success": score.success, "progress": score.progress, "valid": score.valid}
    if score.logit is not None:
        arrays["logit"] = score.logit
    head = {"version": np.array(VERSION), "said": np.frombuffer(said, np.uint8)}
    seal(path, pack(head | arrays))
    return path


def load_score(folder: Path, episode: str) -> Score:
    """Return the score that was kept; raise `FileNotFoundError` or `Damaged`."""
    path = folder / f"{episode}.npz"
    try:
        return _score_from(read_limited(path))
    except (Damaged, KeyError, ValueError, TypeError) as error:
        raise Damaged(f"{path}: {error}; delete the file to have it scored again") from None


def _score_from(data: bytes) -> Score:
    arrays = unpack(data)
    if arrays["version"] != VERSION:
        raise Damaged(f"it has version {arrays['version']}, expected {VERSION}")
    return Score(
        success=arrays["success"],
        progress=arrays["progress"],
        valid=arrays["valid"],
        logit=arrays.get("logit"),
        **json.loads(arrays["said"].tobytes()),
    )


def _refuse_garbage(episode: Episode, score: Score) -> None:
    shape = episode.stamps.shape
    for name, kind in (("success", "b"), ("progress", "f"), ("valid", "b")):
        values: NDArray[np.generic] = getattr(score, name)
        if values.shape != shape or values.dtype.kind != kind:
            raise NoScore(
                f"{name} is {values.dtype} {values.shape}, the episode has {shape} observations"
            )
    progress = score.progress[score.valid]
    if not ((progress >= 0.0) & (progress <= 1.0)).all():
        raise NoScore("progress is not from 0 to 1 throughout")


def _done_after(
    episode: Episode, score: Score, holds: tuple[int, int], *, veto: bool
) -> int | None:
    """Return the step that reached the goal, None if none did."""
    needed, window = holds
    first, last = episode.first_step, episode.first_step + episode.steps
    judged = np.flatnonzero(score.valid[first : last + 1])
    shows = score.success[first : last + 1][judged]
    look = bool(score.success[-1]) if len(score.valid) > last + 1 and score.valid[-1] else None
    if look is False and veto and episode.info.task in STAYS_DONE:
        return None
    recent = np.convolve(shows, np.ones(window, int))[: len(shows)]
    holding = judged[(recent >= needed) & shows & (judged > 0)]
    if len(holding):
        return int(holding[0]) - 1
    return int(judged[-1]) - 1 if look and recent[-1] else None


def _progress_before(score: Score, after: slice) -> NDArray[np.float64]:
    """Return what was last judged before each step; where nothing was, what came of the step."""
    seen = np.where(score.valid, np.arange(len(score.valid)), -1)
    last = np.maximum.accumulate(seen)[after.start - 1 : after.stop - 1]
    return np.where(last >= 0, score.progress[last], score.progress[after])


def _transition(
    episode: Episode,
    step: int,
    *,
    reward: float,
    reward_before: float,
    terminated: bool,
    truncated: bool,
) -> Transition:
    return Transition(
        state={name: values[step] for name, values in episode.state.items()},
        action=episode.actions[step],
        reward=reward,
        reward_before=reward_before,
        next_state={name: values[step + 1] for name, values in episode.state.items()},
        terminated=terminated,
        truncated=truncated,
    )
