"""The words of a command line: `name=value`, as make hands them on."""

from collections.abc import Mapping, Sequence


class UsageError(Exception):
    """Words that a program could make nothing of; its exit code is 2."""


def parse_words(words: Sequence[str], *, known: Mapping[str, str]) -> dict[str, str]:
    """Return the value of every known name: the word's, else the default in `known`.

    Raise `UsageError` for a word that is not `name=value` or whose name is not known.
    """
    values = dict(known)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            names = ", ".join(f"{key}=" for key in known)
            raise UsageError(f"{word!r} is not understood; known words: {names}")
        values[name] = value
    return values
