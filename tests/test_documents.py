import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "NOTICE"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_that_a_document_names_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    folders = "rl|envs|rewarder|policy_server|robot|ops|conf|docs|tests"
    named = set(re.findall(rf"\b(?:{folders})/[\w./-]*\w/?", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_target_that_a_document_names_is_one_of_make(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    # As code: in backticks, or a line of its own.
    named = set(re.findall(r"(?:`|^)(?:[A-Z_]+=\S+ )?make ([a-z-]+)", text, re.MULTILINE))
    assert named - TARGETS == set()


def test_the_readme_shows_every_target_of_interest():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    internal = {"help", "setup", "lint", "report", "clean"}
    assert [target for target in TARGETS - internal if f"make {target}" not in readme] == []
