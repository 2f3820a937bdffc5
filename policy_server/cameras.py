"""Which camera a policy means: by name, by a map that somebody gave, or by what it looks at."""

from collections.abc import Collection, Mapping

_MEANINGS = {
    "wrist": ("wrist", "hand", "gripper"),
    "side": ("side", "left", "right"),
    "base": (
        *("base", "front", "top", "high", "exterior", "external", "overhead", "scene"),
        *("agentview", "third_person", "primary", "image"),
    ),
}
"""Words in a camera's name, by what such a camera looks at; the first that fits counts."""
_PREFIXES = ("observation.images.", "observation/", "images/", "images.")


class CameraMismatch(ValueError):
    """Cameras that a policy needs and an arm does not have."""


def short_name(key: str) -> str:
    """Return a camera's name without the place where it was found."""
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def meaning(name: str) -> str | None:
    """Return what a camera looks at: wrist, side or base; None where its name does not say."""
    for what, words in _MEANINGS.items():
        if any(word in name.lower() for word in words):
            return what
    return None


def camera_map(
    wanted: Collection[str],
    offered: Collection[str],
    *,
    blank: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the offered camera for each wanted one; those of `blank` may be missing.

    `rename` says offered names by wanted ones. Raise `CameraMismatch` where one is missing, with
    the map that would mend it where one can be told.
    """
    given = rename or {}
    found = {name: given.get(name, name) for name in wanted if given.get(name, name) in offered}
    for name in wanted:
        same = _same_meaning(name, [free for free in offered if free not in found.values()])
        if name not in found and same:
            found[name] = same
    missing = [name for name in wanted if name not in found and name not in blank]
    if missing:
        raise CameraMismatch(_sentence(wanted, offered, missing, found))
    return found


def _same_meaning(name: str, offered: Collection[str]) -> str | None:
    """Return the only camera that looks at the same, if there is just one."""
    what = meaning(name)
    same = [other for other in offered if what is not None and meaning(other) == what]
    return same[0] if len(same) == 1 else None


def _sentence(
    wanted: Collection[str], offered: Collection[str], missing: list[str], found: Mapping[str, str]
) -> str:
    free = [name for name in offered if name not in found.values()]
    mend = ", ".join(f"{a}: {b}" for a, b in zip(missing, free, strict=False))
    advice = f"; rename={{{mend}}} would use what there is" if mend else ""
    return (
        f"the policy looks through {_names(wanted)}, received {_names(offered)}: "
        f"{_names(missing)} missing{advice}"
    )


def _names(names: Collection[str]) -> str:
    return ", ".join(names) or "no camera"
