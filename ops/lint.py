"""Run every check that needs no robot and no tests, and say which failed."""

import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "format", "--check", "--quiet"),
    ("ruff", "check", "--quiet"),
    ("pyright",),
    ("lint-imports",),
    ("deptry", "."),
    ("codespell",),
)


def run(check: Sequence[str]) -> bool:
    """Run one check, show what it says if it fails, and return whether it passed."""
    program = Path(sysconfig.get_path("scripts")) / check[0]
    start = time.monotonic()
    done = subprocess.run([program, *check[1:]], capture_output=True, text=True, check=False)
    passed = done.returncode == 0
    print(
        f"{'ok  ' if passed else 'FAIL'} {' '.join(check)} ({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    if not passed:
        print(done.stdout + done.stderr, flush=True)
    return passed


def main(run: Callable[[Sequence[str]], bool] = run) -> int:
    """Run all checks, also after one has failed; return the exit code."""
    failed = [check for check in CHECKS if not run(check)]
    if failed:
        print("failed: " + ", ".join(" ".join(check) for check in failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
