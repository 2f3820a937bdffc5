"""Let a run learn on that an alarm has frozen: `python -m rl.unfreeze run=RUN why="…"`.

It is a person's decision and stays in the run's folder with its reason. The audits so far stay as
well, but count no more: the next few say whether the decision was right.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rl.alarm import UNFROZEN, Alarm, Event
from rl.command_line import find_run
from rl.evaluate import RUNS
from rl.progress import say
from rl.run_folder import EPISODES, RunFolder
from rl.run_record import BadRun
from robot.words import UsageError, parse_words

SHORTEST = 10
"""Characters that a reason has at least."""


def unfreeze(folder: RunFolder, why: str) -> Event:
    """Record the decision; raise `BadRun` without a reason, or where nothing is frozen."""
    folder.facts()
    alarm, reason = Alarm(folder.path), " ".join(why.split())
    if len(reason) < SHORTEST:
        raise BadRun(
            f'why="{reason}" says too little; say in a few words what was looked at and why the '
            "reward can be trusted again",
            code=2,
        )
    if alarm.frozen is None:
        raise BadRun(f"the updates of {folder.path} are not frozen; nothing was changed")
    known = sum(1 for _ in folder.lines(EPISODES))
    return alarm.add(UNFROZEN, why=reason, episodes=known)


def main(words: Sequence[str]) -> int:
    """Unfreeze the run that the words name; return the exit code."""
    try:
        given = parse_words(words, known={"run": "", "why": "", "runs": str(RUNS)})
        folder = _named(given["run"], Path(given["runs"]))
        unfreeze(folder, given["why"])
    except UsageError as error:
        return _fail(str(error), 2)
    except BadRun as error:
        return _fail(str(error), error.code)
    say("updates go on; the audits begin to count anew")
    say(f"if the run has ended, go on with: make train-rl resume={folder.path.name}")
    return 0


def _named(run: str, runs: Path) -> RunFolder:
    if not run:
        raise UsageError('which run? make unfreeze RUN=runs/... why="..."')
    return find_run(run, runs)


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"error: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
