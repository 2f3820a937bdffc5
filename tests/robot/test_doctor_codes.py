"""Every code that the doctor can give is explained, and every explained one can be given."""

import re
from pathlib import Path

import pytest

from robot.doctor.main import GROUPS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
NAMED = set(re.findall(rf"`((?:{'|'.join(GROUPS)})\.[a-z_]+)`", PAGE))
SOURCES = "".join(
    p.read_text(encoding="utf-8") for p in sorted((ROOT / "robot" / "doctor").glob("*.py"))
)
WRITTEN = set(re.findall(rf"\"((?:{'|'.join(GROUPS)})\.[a-z_]+)\"", SOURCES)) - {"cameras.png"}
SERVICES = set(re.findall(r"\{group\}\.([a-z_]+)", SOURCES))
PICTURES = {"black", "over_exposed", "blurred", "wrong_size", "frozen"}
GIVEN = (
    WRITTEN
    | {f"{group}.{name}" for group in ("policy", "rewarder") for name in SERVICES}
    | {f"cameras.{name}" for name in PICTURES}
)


def test_every_code_is_explained():
    assert sorted(GIVEN - NAMED) == []


def test_no_code_is_explained_that_cannot_be_given():
    assert sorted(NAMED - GIVEN) == []


def test_every_group_has_a_code():
    assert {code.partition(".")[0] for code in GIVEN} == set(GROUPS)


@pytest.mark.parametrize("page", ["bring-up", "troubleshooting", "emulation", "risks"])
def test_every_page_for_owners_says_that_no_arm_was_touched(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert "physical arm yet" in " ".join(text.split())
