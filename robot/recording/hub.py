"""Push a dataset or a policy to the Hugging Face hub: `make hub-push dataset=NAME repo=…/…`.

A policy is given by its folder, as `make pretrain` writes it: `policy=FOLDER`. It lists what would
be pushed and pushes nothing until `really=yes`; the repository is private unless `private=no`.
`do=login` asks for a token, which huggingface_hub keeps.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from robot.recording.dataset import LEROBOT, dataset_folder
from robot.words import UsageError, parse_words

WORDS = {"do": "push", "dataset": "", "policy": "", "repo": "", "really": "no", "private": "yes"}
SECRETS: Mapping[str, re.Pattern[bytes]] = {
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{30,}"),
    "a GitHub token": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}"),
    "an OpenAI or Anthropic key": re.compile(rb"\bsk-[A-Za-z0-9_-]{32,}"),
    "an AWS key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in an address": re.compile(rb"\b[a-z]+://[^/\s:@]+:[^/\s:@]{6,}@"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is pushed, and what it consists of."""

    name: str
    """The hub's."""
    has: str
    """A file without which it is none."""
    missing: str
    """What is said then."""
    suffixes: Sequence[str]
    """Of its files; anything else is a stray file."""
    left: Sequence[str] = ()
    """Files and folders that stay here: they tell of the machine, and nobody needs them."""


DATASET = Kind(
    name="dataset",
    has="meta/info.json",
    missing="is no LeRobot dataset: make it with make record, or export it",
    suffixes=(".json", ".jsonl", ".parquet", ".mp4", ".md"),
)
POLICY = Kind(
    name="model",
    has="README.md",
    missing="has no README.md, a model's page: give a folder that make pretrain wrote",
    suffixes=(".json", ".jsonl", ".safetensors", ".md"),
    left=("tensorboard", "wandb", "server.log"),
)


class HubError(Exception):
    """A push that is not done; the message says why."""


class Api(Protocol):
    """What is needed of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any:  # noqa: ANN401
        """Make a repository."""
        ...

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: str, allow_patterns: list[str]
    ) -> Any:  # noqa: ANN401
        """Upload the files of a folder that match."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What would be pushed, and what speaks against it."""

    files: Mapping[str, int]
    """Bytes by path."""
    objections: Sequence[str]


def plan(root: Path, kind: Kind = DATASET) -> Push:
    """Return what a push of the folder `root` would send."""
    if not (root / kind.has).is_file():
        raise HubError(f"{root} {kind.missing}")
    files = (path for path in root.rglob("*") if path.is_file() or path.is_symlink())
    paths = sorted(path for path in files if path.relative_to(root).parts[0] not in kind.left)
    objections = [objection for path in paths for objection in _objections(root, path, kind)]
    sizes = {str(path.relative_to(root)): path.lstat().st_size for path in paths}
    return Push(files=sizes, objections=objections)


def _objections(root: Path, path: Path, kind: Kind) -> list[str]:
    name = str(path.relative_to(root))
    if path.is_symlink():
        return [f"{name} is a link: its target would be pushed"]
    if path.suffix not in kind.suffixes:
        return [f"{name} is no part of a {kind.name}"]
    data = path.read_bytes()
    return [f"{name} holds {what}" for what, pattern in SECRETS.items() if pattern.search(data)]


def push(
    api: Api, root: Path, repo: str, *, private: bool, really: bool, kind: Kind = DATASET
) -> Push:
    """Push a folder if it is `really` wanted and nothing speaks against it; return what it is.

    Raise `HubError` where something does.
    """
    planned = plan(root, kind)
    if planned.objections:
        raise HubError(f"not pushed: {'; '.join(planned.objections)}")
    if really:
        api.create_repo(repo, repo_type=kind.name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type=kind.name,
            folder_path=str(root),
            allow_patterns=list(planned.files),
        )
    return planned


def summary(planned: Push, to: str, *, really: bool) -> str:
    """Return what was or would be pushed."""
    lines = [f"{size:>12,}  {name}" for name, size in planned.files.items()]
    done = "pushed" if really else "would be pushed; really=yes pushes it"
    total = sum(planned.files.values())
    lines.append(f"{len(lines)} files, {total:,} bytes, to the {to}: {done}")
    return "\n".join(lines)


def _done(words: Mapping[str, str], api: Callable[[], Api]) -> str:
    if words["do"] == "login":
        return _login()
    if words["do"] == "push":
        return _push_named(words, api)
    raise UsageError(f"do={words['do']!r}; expected login or push")


def _push_named(words: Mapping[str, str], api: Callable[[], Api]) -> str:
    repo, private, really = words["repo"], words["private"] != "no", words["really"] == "yes"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UsageError(f"repo={repo!r}; expected USER/NAME")
    if words["policy"] and words["dataset"]:
        raise UsageError("dataset= and policy= are two pushes; give one of them")
    kind = POLICY if words["policy"] else DATASET
    root = Path(words["policy"]) if words["policy"] else dataset_folder(words["dataset"]) / LEROBOT
    planned = push(api(), root, repo, private=private, really=really, kind=kind)
    shown = f"{'private' if private else 'public'} {kind.name} {repo}"
    return summary(planned, shown, really=really)


def _api() -> Api:
    from huggingface_hub import HfApi  # noqa: PLC0415 - it takes a second to load

    return HfApi()


def _login() -> str:
    from huggingface_hub import login  # noqa: PLC0415

    login(skip_if_logged_in=True)
    return "logged in"


def main(
    argv: list[str],
    write: Callable[[str], object] = sys.stdout.write,
    api: Callable[[], Api] = _api,
) -> int:
    """Log in, or push; return the exit code."""
    try:
        words = parse_words(argv, known=WORDS)
        write(f"{_done(words, api)}\n")
    except (UsageError, HubError, OSError, ValueError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
