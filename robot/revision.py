"""Which version of this project runs, for what is stored."""

import subprocess


def git_revision() -> str:
    """Return the working tree's revision, `+` where it has changes; `unknown` without git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
