"""What a dashboard shows of learning: the newest run's success, and its last judged episode."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.alarm import ALARM, stamp_of
from rl.audit import AUDITS, audited
from rl.curves import Line, windowed
from rl.label import load_score
from rl.run_folder import EPISODES, RunFolder
from rl.run_record import BadRun, read_facts
from rl.statistics import wilson
from robot.journal import Episode, read_episode
from robot.sealed import Damaged

RECENT = 50
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedEpisode:
    """An episode of a run with what the reward model said of it."""

    line: Line
    episode: Episode
    progress: Sequence[float | None]
    """At each observation; None where it could not tell."""
    success: Sequence[bool]
    model: str


def newest_run(runs: Path) -> Path | None:
    """Return the run whose episodes came last; None where there is none."""
    logs = [path for path in runs.glob(f"[!.]*/{EPISODES}") if path.stat().st_size]
    return max(logs, key=lambda path: path.stat().st_mtime).parent if logs else None


class LiveRun:
    """Reads the newest run again where it has changed, and only then."""

    def __init__(self, runs: Path) -> None:
        """Look under `runs`, which need not be there yet."""
        self._runs = runs
        self._seen: tuple[object, ...] | None = None
        self._summary: Mapping[str, object] | None = None
        self._judged: JudgedEpisode | None = None

    def summary(self) -> Mapping[str, object] | None:
        """Return success, counts and the last judged episode of the newest run, for JSON."""
        self._refresh()
        return self._summary

    def judged(self) -> JudgedEpisode | None:
        """Return the last judged episode of the newest run."""
        self._refresh()
        return self._judged

    def disk(self) -> dict[str, float]:
        """Return how much room there is for runs, GB."""
        folder = next(p for p in (self._runs, *self._runs.resolve().parents) if p.exists())
        usage = shutil.disk_usage(folder)
        return {"free_gb": round(usage.free / GB, 1), "total_gb": round(usage.total / GB, 1)}

    def _refresh(self) -> None:
        run = newest_run(self._runs)
        if run is None:
            self._seen, self._summary, self._judged = None, None, None
            return
        stat = (run / EPISODES).stat()
        seen = (run, stat.st_size, stat.st_mtime, stamp_of(run / ALARM), stamp_of(run / AUDITS))
        if seen == self._seen:
            return
        lines = list(RunFolder(run).lines(EPISODES))
        self._judged = last_judged(run, lines)
        self._summary = summary(run, lines, self._judged)
        self._seen = seen


def last_judged(run: Path, lines: Sequence[Line]) -> JudgedEpisode | None:
    """Return the newest episode that has a label and whose files are whole."""
    for line in reversed(lines[-10:]):
        file = run / str(line.get("file"))
        if not line.get("transitions") or run.resolve() not in file.resolve().parents:
            continue
        try:
            episode = read_episode(file)
            score = load_score(run / "labels", file.stem)
        except (Damaged, OSError):
            continue
        if len(score.progress) != len(episode.stamps):
            continue
        pairs = zip(score.progress.tolist(), score.valid.tolist(), strict=True)
        return JudgedEpisode(
            line=line,
            episode=episode,
            progress=[round(value, 4) if valid else None for value, valid in pairs],
            success=score.success.tolist(),
            model=score.model,
        )
    return None


def summary(run: Path, lines: Sequence[Line], judged: JudgedEpisode | None) -> Mapping[str, object]:
    """Return what the page shows of a run."""
    try:
        facts: Mapping[str, object] = read_facts(run)
    except BadRun:
        facts = {}
    return {
        "run": run.name,
        "goal": facts.get("goal", ""),
        "episodes": len(lines),
        "steps": lines[-1].get("env_steps") if lines else 0,
        "curve": success(lines),
        "recent": recent(lines),
        "audit": audit(run),
        "judged": None if judged is None else _message(judged),
    }


def success(lines: Sequence[Line]) -> Mapping[str, object] | None:
    """Return success over practice with its interval, and who judged it."""
    known, judge = _outcomes(lines)
    rates = windowed(known, lambda line: float(_won(line))) if known else []
    if not rates:
        return None
    return {
        "judge": judge,
        "steps": [rate.step for rate in rates],
        "rate": [round(rate.rate, 4) for rate in rates],
        "lower": [round(rate.interval[0], 4) for rate in rates],
        "upper": [round(rate.interval[1], 4) for rate in rates],
    }


def recent(lines: Sequence[Line]) -> Mapping[str, object] | None:
    """Return the newest episodes' success as a count with its interval."""
    known = _outcomes(lines)[0][-RECENT:]
    if not known:
        return None
    won = sum(_won(line) for line in known)
    lower, upper = wilson(won, len(known))
    return {"won": won, "of": len(known), "lower": lower, "upper": upper}


def audit(run: Path) -> Mapping[str, object] | None:
    """Return how many audits confirm the rewarded successes, and what froze updates if so."""
    try:
        stands = audited(RunFolder(run))
    except BadRun as error:
        return {"right": 0, "of": 0, "lower": 0.0, "frozen": str(error)}
    if not (stands.audits or stands.frozen):
        return None
    return {
        "right": stands.right,
        "of": stands.audits,
        "lower": stands.interval[0],
        "frozen": stands.frozen.why if stands.frozen else None,
    }


def _outcomes(lines: Sequence[Line]) -> tuple[Sequence[Line], str]:
    """Return the episodes whose outcome is known, and who says so; without exploration if any."""
    true = [line for line in lines if line.get("truth")]
    known = true or [line for line in lines if line.get("transitions")]
    greedy = [line for line in known if line.get("greedy")]
    judge = "ground truth of the twin" if true else "the reward model"
    enough = len(greedy) >= 5
    return (greedy if enough else known), judge + (", without exploring" if enough else "")


def _won(line: Line) -> bool:
    truth: Mapping[str, Any] | None = line.get("truth")
    return bool(truth["success"]) if truth else bool(line.get("rewarded_success"))


def _message(judged: JudgedEpisode) -> Mapping[str, object]:
    line, stamps = judged.line, judged.episode.stamps
    truth: Mapping[str, object] = line.get("truth") or {}
    return {
        "episode": judged.episode.info.episode,
        "arm": line.get("arm"),
        "policy": line.get("policy"),
        "return": line.get("return"),
        "end": line.get("end"),
        "truth": truth.get("success"),
        "streaming": judged.episode.info.config.get("streaming"),
        "model": judged.model,
        "seconds": [round(float(stamp - stamps[0]), 3) for stamp in stamps],
        "progress": judged.progress,
        "success": judged.success,
        "cameras": list(judged.episode.frames),
    }
