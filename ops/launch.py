"""Start a module with the words that were given to make.

`python -m ops.launch MODULE [WORD ...]` is what the Makefile's recipes call. Lower-case words
(`task=place`) become arguments of the module; of the upper-case ones, those in `WORD` become its
lower-case arguments (`RUN=x` → `run=x`), `ARGS` holds flags, `SHOW=1` prints the command instead of
running it, and the names in `.env.example` are environment. Make hands its words on in `MAKEFLAGS`,
where spaces, quotes, commas and dollars survive.
"""

import ctypes
import os
import re
import shlex
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DRAWING_MODULES = (
    "ops.bench_alarm",
    "ops.bench_policy_preferences",
    "ops.bench_preferences",
    "ops.calibrate_camera",
    "ops.reward_scenes",
    "ops.reward_sets",
    "ops.train_embedded",
    "ops.tune_colours",
    "pytest",
    "rl.ab",
    "rl.ab_reward",
    "rl.actor",
    "rl.evaluate",
    "rl.grounding",
    "rl.improve",
    "rl.pretrain",
    "rl.reality_gap",
    "rl.record_scripted",
    "rl.train",
    "robot.emulator.emulate",
)
"""Modules that draw the simulated arm."""
COMMON_WORDS = ("ARGS", "SHOW")


class UsageError(Exception):
    """Words that no target could make sense of."""


class MissingDeviceError(Exception):
    """Something that this machine lacks."""


def make_words(makeflags: str) -> dict[str, str]:
    """Return the `NAME=value` words that make was given, from the `MAKEFLAGS` of a recipe.

    They come after a ` -- `, with a backslash before each blank and backslash, and dollars doubled.
    A Mac's make 3.81 leaves the ` -- ` out where there are no flags.
    """
    tokens = re.findall(r"(?:\\.|[^ \t\\])+", makeflags, re.DOTALL)
    after = tokens.index("--") + 1 if "--" in tokens else 0
    given = [token for token in tokens[after:] if after or ("=" in token and token[0] != "-")]
    words = [re.sub(r"\\(.)", r"\1", token, flags=re.DOTALL).replace("$$", "$") for token in given]
    # Make puts the last word first.
    return {name: value for name, _, value in (word.partition("=") for word in reversed(words))}


def read_env_file(text: str) -> dict[str, str]:
    """Return the `NAME=value` lines of a `.env` file; comments and empty values are left out."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(?:export\s+)?([A-Z][A-Z0-9_]*)=(.*?)\s*", line)
        if match is None:
            raise UsageError(f".env line {number} is not NAME=value: {line.strip()!r}")
        value = match[2][1:-1] if re.fullmatch(r"(['\"]).*\1", match[2]) else match[2]
        if value:
            values[match[1]] = value
    return values


def environment_names(example: str) -> frozenset[str]:
    """Return every name that `.env.example` has, commented out or not."""
    return frozenset(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))


def arguments(
    words: Mapping[str, str], *, taken: Sequence[str], environment: frozenset[str]
) -> list[str]:
    """Return a module's arguments; raise UsageError for a word that it does not take."""
    for name in words:
        if name.endswith((":", "?", "!")) or not name:
            raise UsageError(f"{name}={words[name]} is not NAME=value")
        if name.isupper() and name not in {*taken, *COMMON_WORDS, *environment}:
            known = ", ".join(f"{word}=" for word in (*taken, *COMMON_WORDS))
            raise UsageError(
                f"{name}= is not known here. Upper-case words: {known}; the rest: make help"
            )
    given = {word.lower(): words[word] for word in taken if word in words}
    given |= {name: value for name, value in words.items() if not name.isupper()}
    return shlex.split(words.get("ARGS", "")) + [f"{name}={value}" for name, value in given.items()]


def set_defaults(environ: MutableMapping[str, str], env_file: Path) -> None:
    """Fill `environ` from `.env`; what is set already stays."""
    values = read_env_file(env_file.read_text(encoding="utf-8")) if env_file.exists() else {}
    for name, value in values.items():
        environ.setdefault(name, value)


def check_drawing(mujoco_gl: str) -> None:
    """Raise MissingDeviceError where MuJoCo would not even load for want of a library."""
    if sys.platform != "linux" or mujoco_gl != "egl":
        return
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        raise MissingDeviceError(
            "no EGL to draw the simulated arm with: apt-get install libegl1 libgl1-mesa-dri"
        ) from error


def main(module: str, *taken: str) -> None:
    """Become `python -m module` with the words that make was given."""
    given = make_words(os.environ.get("MAKEFLAGS", ""))
    words = {
        name: os.environ[name] for name in (*taken, *COMMON_WORDS) if name in os.environ
    } | given
    known = environment_names((ROOT / ".env.example").read_text(encoding="utf-8"))
    command = [
        sys.executable,
        "-m",
        module,
        *arguments(words, taken=taken, environment=known),
    ]
    set_defaults(os.environ, ROOT / ".env")
    if words.get("SHOW"):
        print(shlex.join(command))
        return
    if module in DRAWING_MODULES:
        check_drawing(os.environ.get("MUJOCO_GL", "egl"))
    # What the module starts is not a recipe of this make.
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
        os.environ.pop(name, None)
    os.chdir(ROOT)
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except MissingDeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
