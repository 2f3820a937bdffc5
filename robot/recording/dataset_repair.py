"""Make a dataset again from its journal: `python -m robot.recording.dataset_repair dataset=NAME`.

Episodes of the journal that cannot be read are moved to `damaged/` and named.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from robot.journal import Journal, read_episode
from robot.recording.dataset import (
    LEROBOT,
    Actions,
    DatasetError,
    Manifest,
    actions_named,
    export,
    known_journal,
)
from robot.recording.dataset_check import check
from robot.sealed import Damaged, make_folder
from robot.words import UsageError, parse_words

WORDS = {"dataset": "", "actions": ""}


def repair(
    journal: Journal, root: Path, *, actions: Actions | None = None
) -> tuple[Manifest, list[str]]:
    """Make the dataset again and return what it holds, and the episodes that were set aside.

    It keeps its kind of actions unless told otherwise. Raise `DatasetError`.
    """
    damaged = [path for path in journal.episodes() if not _whole(path)]
    aside = journal.folder / "damaged"
    for path in damaged:
        make_folder(aside)
        path.rename(aside / path.name)
    made = export(journal, root, actions=actions, rebuild=True)
    defects = check(root, journal).defects
    if defects:
        raise DatasetError(f"it is still defective: {defects[0].where}: {defects[0].sentence}")
    return made, [path.name for path in damaged]


def _whole(path: Path) -> bool:
    try:
        read_episode(path)
    except Damaged:
        return False
    return True


def main(argv: list[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """Repair a dataset; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        kind = actions_named(words["actions"])
        journal = known_journal(words["dataset"])
        root = journal.folder / LEROBOT
        made, aside = repair(journal, root, actions=kind)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except DatasetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name in aside:
        write(f"{name} could not be read and lies in {journal.folder / 'damaged'}\n")
    write(f"{root}: {len(made.episodes)} episodes, no defects\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
