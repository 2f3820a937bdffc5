"""What the doctor found, as a table, as JSON, and as a bundle that is safe to show to others."""

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

OK, FAILED, USAGE, DEVICE_MISSING = 0, 1, 2, 3


class Status(StrEnum):
    """How a check went."""

    PASS = "PASS"  # noqa: S105 - a verdict
    WARN = "WARN"
    FAIL = "FAIL"


_COLOURS = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
_SECRETS = (
    # A name that speaks of a secret, and what it is set to.
    r"(?i)((?:\w*(?:token|secret|passw\w*|api_?key|credential\w*)\w*|authorization)"
    r"[\"']?\s*[:=]\s*[\"']?(?:bearer\s+)?)[^\s\"',}]+",
    r"(?i)(bearer\s+)\S+",
    r"(://[^/\s:@]+:)[^/\s@]+(?=@)",
    r"()\b(?:hf_|sk-|ghp_|github_pat_|wandb_)[A-Za-z0-9_-]{8,}",
    # As long and as random as a key.
    r"()\b[0-9a-fA-F]{40,}\b",
)
_HOMES = r"(?:/home|/Users|/var/home)/[^/\s\"':;,)]+|/root\b|[A-Z]:\\Users\\[^\\\s\"]+"
_ADDRESS = r"\b(?!127\.)(?:\d{1,3}\.){3}\d{1,3}\b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    code: str
    """Group and name, e.g. `bus.missing`: `docs/troubleshooting.md` lists them all."""
    status: Status
    sentence: str
    """What was found, and what was expected."""
    fix: str = ""
    """The command or the action that mends it."""
    device_missing: bool = False
    """Whether a device that the configuration names is not there at all."""

    @property
    def group(self) -> str:
        """Return what the check belongs to."""
        return self.code.partition(".")[0]


def good(code: str, sentence: str) -> Check:
    """Return a check that passed."""
    return Check(code=code, status=Status.PASS, sentence=sentence)


def warning(code: str, sentence: str, fix: str) -> Check:
    """Return a check that found what may become trouble."""
    return Check(code=code, status=Status.WARN, sentence=sentence, fix=fix)


def failure(code: str, sentence: str, fix: str, *, device_missing: bool = False) -> Check:
    """Return a check that found what keeps an arm from working or being safe."""
    return Check(
        code=code,
        status=Status.FAIL,
        sentence=sentence,
        fix=fix,
        device_missing=device_missing,
    )


def verdict(checks: Iterable[Check]) -> Status:
    """Return the worst status."""
    found = {check.status for check in checks}
    return next((s for s in (Status.FAIL, Status.WARN) if s in found), Status.PASS)


def exit_code(checks: Sequence[Check]) -> int:
    """Return 0 where nothing failed, 3 where a device is missing, else 1."""
    if any(check.device_missing for check in checks):
        return DEVICE_MISSING
    return FAILED if verdict(checks) is Status.FAIL else OK


def table(checks: Iterable[Check]) -> Table:
    """Return one row a check, a rule between groups."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("group", "", "what was found", "what mends it"):
        rows.add_column(name, overflow="fold")
    group = ""
    for check in checks:
        first = check.group != group
        if first and group:
            rows.add_section()
        group = check.group
        rows.add_row(
            Text(group if first else "", style="bold"),
            Text(check.status, style=_COLOURS[check.status]),
            Text(check.sentence) + Text(f"  [{check.code}]", style="dim"),
            Text(check.fix),
        )
    return rows


def as_json(arm_id: str, checks: Sequence[Check], details: Mapping[str, object]) -> str:
    """Return everything that was found, for programs; nothing in it is secret."""
    content = {
        "version": 1,
        "arm_id": arm_id,
        "verdict": verdict(checks),
        "exit_code": exit_code(checks),
        "checks": [{"group": check.group, **asdict(check)} for check in checks],
        "details": details,
    }
    return redacted(json.dumps(content, indent=2)) + "\n"


def as_text(checks: Iterable[Check]) -> str:
    """Return the table as it looks without colours."""
    console = Console(width=140, no_color=True, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table(checks))
    return captured.get()


def redacted(text: str) -> str:
    """Return text without secrets, home folders and addresses of other machines."""
    for pattern in _SECRETS:
        text = re.sub(pattern, r"\1***", text)
    text = re.sub(_HOMES, "~", text)
    return re.sub(_ADDRESS, "<address>", text)


def write_bundle(path: Path, texts: Mapping[str, str]) -> None:
    """Write named texts as a zip, each of them redacted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in texts.items():
            bundle.writestr(redacted(name), redacted(text))
