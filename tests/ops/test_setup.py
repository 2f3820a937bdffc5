import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL = shutil.which("sh")
RECORD = '#!/bin/sh\necho "$0 $*" | sed "s:.*/::" >> log\n'


@pytest.fixture
def checkout(tmp_path):
    """A folder with the set-up script and a PATH with nothing but what every machine has."""
    (tmp_path / "ops").mkdir()
    shutil.copy(ROOT / "ops/setup.sh", tmp_path / "ops")
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "mkdir", "sed", "sh", "touch", "uname"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def set_up(checkout: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)}
    (checkout / ".venv").mkdir(exist_ok=True)
    return subprocess.run(
        [SHELL, "ops/setup.sh"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_the_lock_is_installed_with_uv_and_the_size_is_said_once(checkout):
    program(checkout / "bin/uv", RECORD)
    first, second = set_up(checkout), set_up(checkout)
    assert "GB" in first.stdout
    assert "GB" not in second.stdout
    assert "uv sync --frozen --inexact --extra train" in (checkout / "log").read_text()


def test_without_uv_python_brings_it_into_the_environment(checkout):
    program(checkout / "bin/python3.12", RECORD)
    program(checkout / ".venv/bin/python", RECORD + f"echo '{RECORD}' > .venv/bin/uv\n")
    program(checkout / ".venv/bin/uv", "#!/bin/sh\nexit 1\n")
    done = set_up(checkout)
    log = (checkout / "log").read_text().splitlines()
    assert done.returncode == 0, done.stderr
    assert log[1:] == [
        "python3.12 -m venv .venv",
        "python -m pip install --quiet --disable-pip-version-check uv",
        "uv sync --frozen --inexact --extra train",
    ]


def test_a_shim_that_does_not_run_is_no_uv(checkout):
    program(checkout / "bin/uv", "#!/bin/sh\necho 'pyenv: uv: command not found' >&2\nexit 127\n")
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: needs uv or Python 3.12, and found neither: "
        "see https://docs.astral.sh/uv/getting-started/installation/"
    ]


def test_a_failed_installation_is_tried_again_next_time(checkout):
    program(checkout / "bin/uv", '#!/bin/sh\n[ "$1" = --version ]\n')
    done = set_up(checkout)
    assert (done.returncode, (checkout / ".venv/.ready").exists()) == (1, False)
