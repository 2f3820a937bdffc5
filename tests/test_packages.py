import importlib
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["rl", "envs", "rewarder", "policy_server", "robot", "ops"]


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_ours(name):
    # Other distributions install the same names: `robotframework`, `keras-rl2`, `envs`, `ops`.
    assert Path(importlib.import_module(name).__file__).is_relative_to(ROOT)


def test_no_module_hides_one_of_the_standard_library():
    files = [path for name in PACKAGES for path in (ROOT / name).glob("*.py")]
    assert [
        path for path in files if path.parent == ROOT and path.stem in sys.stdlib_module_names
    ] == []


def test_folders_of_tests_are_no_packages():
    # With an __init__.py, `tests/robot` would take the place of `robot`.
    # Its own makes it the one `tests`: a library installs a package of that name.
    assert list((ROOT / "tests").rglob("*/__init__.py")) == []


def test_the_default_run_needs_no_lerobot():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["train"]
    assert not [requirement for requirement in wanted if requirement.startswith("lerobot")]
