import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["rl", "envs", "rewarder", "policy_server", "robot"]
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_packages_keep_their_import_direction():
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_guard_depends_on_numpy_and_robot_alone():
    tops = {name.split(".")[0] for name in imports(ROOT / "robot/guard.py")}
    assert tops - set(sys.stdlib_module_names) <= {"numpy", "robot"}


def test_nothing_of_ours_reads_pickles():
    readers = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert {str(path) for path in SOURCES if imports(path) & readers} == set()


@pytest.mark.parametrize("package", ["robot", "envs"])
def test_an_arm_and_its_environment_load_without_torch(package):
    # LeRobot's own drivers import it.
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if path.is_relative_to(ROOT / package)
        and path.name != "__init__.py"
        and not any(name.split(".")[0] == "lerobot" for name in imports(path))
    ]
    check = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, timeout=60)
