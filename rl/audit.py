"""The alarm against a reward that is fooled: a second model judges some of the successes again.

The judge pays nothing and is never asked by a learner. It works in a thread of its own, so that
neither arms nor labels wait for it; where it gives no score there is no audit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import structlog

from rewarder.reward import RewardModel
from rl.alarm import FROZEN, Alarm, Event
from rl.labeller import Labelled, Labeller
from rl.run_folder import Counters, RunFolder
from rl.statistics import wilson

log = structlog.get_logger(__name__)

AUDITS = "audits.jsonl"
"""One line for every audit, in the order in which the judge answered."""
MOST_PENDING = 32
"""Successes beyond so many that wait for the judge are let pass without an audit."""
_wilson = cache(wilson)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which successes are audited, and when the audits freeze updates.

    Precision is the share of audited successes that the judge confirms, over the newest `window`
    audits. Updates freeze where

    - from `enough` audits on the lower end of its 95 % Wilson interval is below `precision`: of 50
      audits 4 may be wrong, of 100 12; a reward right in 97 % is frozen within 500 audits in 2 % of
      runs, one right in 80 % at the 50th (300 simulated runs each);
    - from `few` audits on even the upper end is below `precision`: 3 wrong of the first 5, 4 of 8
      (so that a reward that lies throughout is frozen by its 5th audit, and one that begins to,
      whenever that is, by its 16th);
    - the judges diverge: of the newest `rates` episodes more earned success than of those before,
      by intervals that do not touch, and yet not more of them would be successes to the judge
      (the rewarded share times the precision of each stretch, of at least `few` audits).
    """

    every: int = 20
    """Of rewarded successes, one in so many is audited, besides the first of each policy."""
    precision: float = 0.8
    window: int = 100
    enough: int = 50
    few: int = 5
    rates: int = 40

    def __post_init__(self) -> None:
        for name in ("every", "window", "enough", "few", "rates"):
            value: object = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"audit.{name}={value!r}; expected a whole number from 1 up")
        precision = cast("object", self.precision)
        if not isinstance(precision, int | float) or not 0 < precision < 1:
            raise ValueError(f"audit.precision={precision!r}; expected a number between 0 and 1")


@dataclass(slots=True)
class Seen:
    """What the alarm knows of one labelled episode."""

    rewarded: bool
    """Whether the reward model called it a success."""
    right: bool | None = None
    """Whether the judge confirmed that; None without an audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """How the audits of a run stand."""

    right: int = 0
    audits: int = 0
    """Over the window that counts."""
    pending: int = 0
    missed: int = 0
    """Successes that should have been audited and were not: no score, or a judge too slow."""
    rewarded_rate: float | None = None
    judged_rate: float | None = None
    """Over the newest episodes: what earned success, and what the judge would make of that."""
    frozen: Event | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of precision."""
        return _wilson(self.right, self.audits)

    def metrics(self) -> dict[str, float]:
        """Return the figures as named numbers."""
        named: dict[str, float] = {"audit/frozen": float(self.frozen is not None)}
        if self.audits or self.pending or self.missed:
            named |= {"audit/count": self.audits, "audit/pending": self.pending}
            named["audit/missed"] = self.missed
        if self.audits:
            named["audit/precision"] = self.right / self.audits
            named["audit/precision_lower"] = self.interval[0]
        if self.judged_rate is not None and self.rewarded_rate is not None:
            named["audit/rewarded_rate"] = self.rewarded_rate
            named["audit/judged_rate"] = self.judged_rate
        return named


class Audit:
    """Audits the successes of one run as they are rewarded, and freezes its updates."""

    def __init__(
        self, judge: RewardModel | None, folder: RunFolder, rules: Rules | None = None
    ) -> None:
        """Ask `judge`, None for no audits; go on with the audits that the folder holds."""
        self._rules, self._folder = rules or Rules(), folder
        self._alarm = Alarm(folder.path)
        self._judge = Labeller(judge, folder.path / "audits", threads=1) if judge else None
        self._seen: list[Seen | None] = []
        self._successes = 0
        self._policies = set[str]()
        self._asked: dict[str, int] = {}
        self._missed = 0
        self._known = {str(line["file"]): line for line in folder.lines(AUDITS) if "file" in line}

    @property
    def frozen(self) -> Event | None:
        """Return what froze the updates, None where they go on."""
        return self._alarm.frozen

    @property
    def trouble(self) -> str | None:
        """Return why the judge gives no verdicts at the moment, if so."""
        trouble = self._judge.trouble if self._judge else None
        return f"no audits: {trouble}" if trouble else None

    def see(self, labelled: Labelled) -> None:
        """Take note of one more episode of the run, and have it audited where that is due."""
        number, file = len(self._seen), self._folder.relative(labelled.path)
        steps = labelled.transitions
        seen = Seen(rewarded=bool(steps[-1].terminated)) if steps else None
        self._seen.append(seen)
        if not (seen and seen.rewarded):
            return
        due = self._is_due(labelled)
        if file in self._known:
            seen.right = self._known.pop(file).get("right")
            self._missed += seen.right is None
        elif due and self._judge and not self.frozen:
            self._ask(self._judge, labelled, number, file)

    def look(self, counters: Counters) -> None:
        """Take in what the judge has said since, and freeze updates where the rules say so.

        A person's unfreezing is seen here, too; it makes the audits before it count no more.
        """
        if self._alarm.look() and not self.frozen:
            log.info("updates go on", why=self._alarm.events[-1].why if self._alarm.events else "")
        for verdict in self._judge.done() if self._judge else ():
            self._note(verdict)
        why = None if self.frozen else misgiving(self._counting, self._rules)
        if why:
            self._alarm.add(
                FROZEN,
                why=why,
                episodes=len(self._seen),
                env_steps=counters.env_steps,
                updates=counters.updates,
            )
            log.error("updates are frozen", why=why, episodes=len(self._seen))

    def figures(self) -> Audited:
        """Return how the audits stand."""
        counting = self._counting
        right, audits = verdicts(counting, self._rules.window)
        newest = counting[-self._rules.rates :]
        return Audited(
            right=right,
            audits=audits,
            pending=len(self._asked),
            missed=self._missed,
            rewarded_rate=_rewarded_rate(newest) if newest else None,
            judged_rate=_judged_rate(newest, self._rules.few),
            frozen=self.frozen,
        )

    def close(self) -> None:
        """Stop asking; what is pending is audited when the run goes on."""
        if self._judge:
            self._judge.close()

    @property
    def _counting(self) -> Sequence[Seen]:
        return [seen for seen in self._seen[self._alarm.start :] if seen]

    def _is_due(self, labelled: Labelled) -> bool:
        """Return whether a success is to be audited: the first of its policy, or one in so many."""
        policy = labelled.episode.info.policy if labelled.episode else ""
        is_first = policy not in self._policies
        self._policies.add(policy)
        self._successes += 1
        return is_first or self._successes % self._rules.every == 0

    def _ask(self, judge: Labeller, labelled: Labelled, number: int, file: str) -> None:
        if judge.pending >= MOST_PENDING:
            self._missed += 1
            return
        self._asked[file] = number
        judge.submit(labelled.path)

    def _note(self, verdict: Labelled) -> None:
        """Keep what the judge said of an episode; no score is no verdict."""
        file = self._folder.relative(verdict.path)
        number = self._asked.pop(file)
        seen, right = self._seen[number], None
        if verdict.transitions and seen:
            seen.right = right = bool(verdict.transitions[-1].terminated)
        self._missed += right is None
        policy = verdict.episode.info.policy if verdict.episode else None
        line = {"file": file, "number": number, "policy": policy, "right": right}
        self._folder.append(AUDITS, {**line, "reason": verdict.reason})


def misgiving(seen: Sequence[Seen], rules: Rules) -> str | None:
    """Return why updates should freeze after these labelled episodes, None where all is well."""
    right, audits = verdicts(seen, rules.window)
    lower, upper = _wilson(right, audits)
    said = f"the judge confirms {right} of the newest {audits} audited successes"
    if audits >= rules.few and upper < rules.precision:
        return f"{said}: at most {upper:.2f} of them are right, less than {rules.precision:g}"
    if audits >= rules.enough and lower < rules.precision:
        return f"{said}: perhaps only {lower:.2f} of them are right, less than {rules.precision:g}"
    return _divergence(seen, rules)


def audited(folder: RunFolder) -> Audited:
    """Return how the audits of a run stand by what its folder says; raise `BadRun` if damaged."""
    alarm = Alarm(folder.path)
    lines = [line for line in folder.lines(AUDITS) if int(line.get("number", -1)) >= alarm.start]
    counting = [Seen(rewarded=True, right=line.get("right")) for line in lines]
    right, audits = verdicts(counting, Rules().window)
    missed = sum(each.right is None for each in counting)
    return Audited(right=right, audits=audits, missed=missed, frozen=alarm.frozen)


def verdicts(seen: Sequence[Seen], newest: int) -> tuple[int, int]:
    """Return the right and the given verdicts among the newest so many."""
    given = [each.right for each in seen if each.right is not None][-newest:]
    return sum(given), len(given)


def _divergence(seen: Sequence[Seen], rules: Rules) -> str | None:
    before, newest = seen[-2 * rules.rates : -rules.rates], seen[-rules.rates :]
    if len(before) < rules.rates or not _rises(before, newest):
        return None
    judged = _judged_rate(before, rules.few), _judged_rate(newest, rules.few)
    if judged[0] is None or judged[1] is None or judged[1] > judged[0]:
        return None
    rewarded = _rewarded_rate(before), _rewarded_rate(newest)
    return (
        f"rewarded success rose from {rewarded[0]:.2f} to {rewarded[1]:.2f} of {rules.rates} "
        f"episodes while the judge's went from {judged[0]:.2f} to {judged[1]:.2f}"
    )


def _rises(before: Sequence[Seen], newest: Sequence[Seen]) -> bool:
    counts = [(sum(each.rewarded for each in part), len(part)) for part in (before, newest)]
    return _wilson(*counts[1])[0] > _wilson(*counts[0])[1]


def _rewarded_rate(seen: Sequence[Seen]) -> float:
    return sum(each.rewarded for each in seen) / len(seen)


def _judged_rate(seen: Sequence[Seen], few: int) -> float | None:
    """Return what share the judge would call successes; None where too few were audited."""
    if not any(each.rewarded for each in seen):
        return 0.0 if seen else None
    right, audits = verdicts(seen, len(seen))
    return _rewarded_rate(seen) * right / audits if audits >= few else None
