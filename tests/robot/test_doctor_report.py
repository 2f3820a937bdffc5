import json
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.doctor.report import (
    as_json,
    as_text,
    exit_code,
    failure,
    good,
    redacted,
    warning,
    write_bundle,
)

FINE = good("env.packages", "Python 3.12")
WORN = warning("bus.hot", "elbow_flex is 62 °C", "let it cool")
BROKEN = failure("bus.error", "elbow_flex reports: overload", "take the load off")
GONE = failure("ports.missing", "usb:1 is not there", "plug it in", device_missing=True)
HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    ("checks", "code"),
    [([FINE], 0), ([FINE, WORN], 0), ([WORN, BROKEN], 1), ([BROKEN, GONE], 3), ([], 0)],
)
def test_the_exit_code_says_the_worst(checks, code):
    assert exit_code(checks) == code


def test_the_table_shows_sentence_code_and_mending_command():
    text = as_text([FINE, BROKEN])
    assert "elbow_flex reports: overload  [bus.error]" in text
    assert "take the load off" in text


def test_programs_get_the_same_as_json():
    said = json.loads(as_json("arm01", [FINE, GONE], {"bus": {}}))
    assert (said["verdict"], said["exit_code"], said["checks"][1]["group"]) == ("FAIL", 3, "ports")


@pytest.mark.parametrize(
    "secret",
    [
        "ARM_TOKEN={}",
        '"token": "{}"',
        "Authorization: Bearer {}",
        "authorization={}",
        "api_key: {}",
        "password = {}",
        "http://me:{}@host/",
    ],
)
@settings(deadline=None)
@given(value=st.text(HEX, min_size=6, max_size=64))
def test_no_secret_survives_redaction(secret, value):
    text = f"before {secret.replace('{}', value)} after"
    assert value not in redacted(text)


@pytest.mark.parametrize(
    "text",
    ["/home/anna/x", "/Users/anna/x", "C:\\Users\\anna\\x", "hf_annaABCDEFGH", "192.168.1.17"],
)
def test_no_home_no_key_and_no_address_survives_redaction(text):
    assert not {"anna", "192"} & set(redacted(text).replace("\\", "/").replace(".", "/").split("/"))
    assert "anna" not in redacted(text)


def test_loopback_and_figures_survive_redaction():
    text = "http://127.0.0.1:18101 gave 7.4 V, hash 0123456789ab"
    assert redacted(text) == text


def test_a_bundle_holds_redacted_texts(tmp_path):
    path = tmp_path / "out" / "bundle.zip"
    write_bundle(path, {"log.txt": "token=abcdef123456 in /home/anna/x"})
    with zipfile.ZipFile(path) as bundle:
        assert bundle.read("log.txt").decode() == "token=*** in ~/x"
